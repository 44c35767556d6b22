"""A PostgreSQL server by its own programs: which ones, how they connect, what they ask, what their words mean.

They connect by a name of `pg_service.conf`, or as the worker's user to the server of this machine. A password is only
ever in the worker's own `.pgpass` or that file: never in an argument, in the environment, or in what is told of errors.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from agents.drivers.base import DiskBusyError, DiskFullError, DiskMissingError, DriverError
from agents.drivers.children import ProgramMissingError, answer, environment

PROGRAMS = ("psql", "pg_dump", "pg_restore", "pg_basebackup")
_MAINTENANCE = "postgres"
_NAME_BYTES_MAX = 63
_WORDS_MAX = 300
# Where packages put the programs of each version; in PATH there is often a wrapper that looks at none of our options.
_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")


class PostgresError(DriverError):
    """The server or one of its programs says no, in its own words."""

    code = "postgresql_failed"


class ServerUnreachableError(PostgresError):
    """Nobody answers there."""

    code = "server_unreachable"
    permanent = False


class AccessDeniedError(PostgresError):
    """The server does not let the worker's role do it."""

    code = "not_permitted"


class NoServiceError(PostgresError):
    """No service of that name is known to this node."""

    code = "node_misconfigured"


class TooOldError(PostgresError):
    """The programs of this node are older than the server."""

    code = "program_too_old"


_MEANINGS: Sequence[tuple[type[DriverError], Sequence[str], str]] = (
    (NoServiceError, ("definition of service",), "Write it into the pg_service.conf of the worker."),
    (
        AccessDeniedError,
        (
            *(
                "password authentication failed",
                "no password supplied",
                "authentication failed",
                "no pg_hba.conf entry",
            ),
            *("permission denied", "must be superuser", "must be owner", "must be replication role"),
        ),
        "See the rights that the driver needs in docs/drivers.md.",
    ),
    (ServerUnreachableError, ("could not connect", "connection refused", "timeout expired", "starting up"), ""),
    (ServerUnreachableError, ("server closed the connection", "no such file or directory", "could not translate"), ""),
    (DiskBusyError, ("lock timeout", "being accessed by other users"), "End what uses it, and try again."),
    (DiskFullError, ("no space left", "disk full"), ""),
)


def explain(words: str, status: int) -> DriverError:
    """The error of a program. Values of rows are left out, which stand in details and at the ends of lines."""
    lines = [line for line in words.splitlines() if re.search(r"\b(error|fatal|panic):", line, re.IGNORECASE)]
    told = "; ".join(re.sub(r': ".*"$', "", line) for line in lines[-2:])[:_WORDS_MAX]
    told = told or (f"ended by signal {-status}" if status < 0 else f"exit status {status}")
    for kind, marks, hint in _MEANINGS:
        if any(mark in words.lower() for mark in marks):
            return kind(f"PostgreSQL: {told}. {hint}".strip())
    if re.search(r'database ".*" does not exist', told):
        return DiskMissingError(f"PostgreSQL: {told}.")
    return PostgresError(f"PostgreSQL: {told}.")


def client_environment() -> dict[str, str]:
    """Without PGPASSWORD and all else that the worker may have: `server` alone says where to connect."""
    return environment("PGSERVICEFILE", "PGSYSCONFDIR", "PGPASSFILE")


@dataclass(frozen=True, slots=True)
class Server:
    """`service` is a name of pg_service.conf; empty for the server of this machine."""

    service: str

    def address(self, database: str = _MAINTENANCE) -> str:
        """A connection string. It has no password."""
        parts = {"service": self.service, "dbname": database, "application_name": "backupsite"}
        return " ".join(f"{name}={_quoted(value)}" for name, value in parts.items() if value) + " connect_timeout=15"

    def ask(self, sql: str, *, database: str = _MAINTENANCE, **variables: str) -> list[list[str]]:
        """Rows of a statement, in which :'name' is a variable as text and :"name" one as a name."""
        for value in variables.values():
            if "\0" in value:
                raise PostgresError("A name in PostgreSQL has no zero byte.")
        given = [word for name, value in variables.items() for word in ("-v", f"{name}={value}")]
        options = ["-X", "-A", "-t", "-q", "-w", "-F", "\t", "-v", "ON_ERROR_STOP=1", *given]
        told = answer(
            *(program("psql"), *options, "-d", self.address(database), "-f", "-"),
            explain=explain,
            env=client_environment(),
            given=sql,
        )
        return [line.split("\t") for line in told.splitlines()]

    def version(self, database: str = _MAINTENANCE) -> int:
        """Such as 15."""
        return int(self.ask("SHOW server_version_num;", database=database)[0][0]) // 10_000


def check_name(database: str) -> str:
    """DiskMissingError for what no database can be called: longer names would be cut off to another one."""
    if not database or len(database.encode("utf-8", "surrogateescape")) > _NAME_BYTES_MAX:
        raise DiskMissingError(f"A database has a name of 1 to {_NAME_BYTES_MAX} bytes.")
    return database


def program(name: str, *, for_version: int = 0) -> str:
    """The path of the program that is as old as the server, else of the next newer one. TooOldError,
    ProgramMissingError.
    """
    found = _installed(name)
    if not found:
        raise ProgramMissingError(f"There is no {name} on this node; install postgresql-client.")
    fit = [version for version in found if version >= for_version]
    if not fit:
        raise TooOldError(
            f"The server is PostgreSQL {for_version}, and {name} of this node {max(found)}. "
            f"Install postgresql-client-{for_version}."
        )
    return found[min(fit) if for_version else max(fit)]


def _installed(name: str) -> dict[int, str]:
    """Major version -> path."""
    places = [str(path / name) for pattern in _FOLDERS for path in Path("/").glob(pattern.lstrip("/"))]
    places = [place for place in places if os.access(place, os.X_OK)]
    if not places and (wrapper := shutil.which(name)):
        places = [wrapper]
    versions = {_version_of(place, os.stat(place).st_mtime_ns): place for place in places}
    return {version: place for version, place in versions.items() if version is not None}


@lru_cache(maxsize=64)
def _version_of(path: str, changed_ns: int) -> int | None:
    """Asked once for each state of the file."""
    try:
        done = subprocess.run(  # noqa: S603  # a program of the system, one constant argument
            [path, "--version"], capture_output=True, text=True, timeout=30, check=False, env=environment()
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    told = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return int(told[1]) if told else None


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
