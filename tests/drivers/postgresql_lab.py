"""A throw-away PostgreSQL that the driver reaches by a service of its own."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agents.drivers.base import DiskAddress, DiskWish, ReadWish, WriteWish
from agents.drivers.postgresql import PostgresqlDriver
from agents.drivers.postgresql_client import Server
from engine.waiting import never_cancel
from tests.postgres.cluster import PROGRAMS, scratch_cluster

# Jobs are kept apart by its name, and other processes run tests on this machine as well.
SERVICE = f"lab-{os.getpid()}"

POINT, SAFE = "backupsite-1f", "backupsite-before-3d"


@dataclass
class Lab:
    """`storage` is a folder of the node; everybody may look into it, for a restored server is not root's."""

    storage: Path
    port: int
    driver: PostgresqlDriver
    server: Server

    def address(self, path: str) -> DiskAddress:
        return DiskAddress(str(self.storage), path, 1, self.server.service)

    def disk(self, path: str, kept: set[str] | None = None) -> DiskWish:
        return DiskWish(self.address(path), kept_points=frozenset(kept or ()))

    def reading(self, path: str) -> ReadWish:
        return ReadWish([self.disk(path)], new_point=POINT)

    def writing(self, path: str, *, create: bool = False, overwrite: bool = False, safety_point: str = "") -> WriteWish:
        return WriteWish(self.address(path), 1, create=create, overwrite=overwrite, safety_point=safety_point)

    def sql(self, statement: str, database: str = "postgres", **variables: str) -> list[list[str]]:
        return self.server.ask(statement, database=database, **variables)

    def databases(self) -> set[str]:
        rows = self.sql("SELECT datname FROM pg_database WHERE datname NOT LIKE 'template%' AND datname <> 'postgres';")
        return {row[0] for row in rows}

    def processes(self) -> list[str]:
        """Programs that work for the driver now."""
        told = subprocess.run(
            ["pgrep", "-af", f"pg_(dump|restore|basebackup).*service='{SERVICE}'"], capture_output=True
        )
        return told.stdout.decode().splitlines()

    def drop(self) -> None:
        for name in self.databases():
            self.sql('DROP DATABASE :"name" WITH (FORCE);', name=name)


def dump_of(lab: Lab, path: str = "database/shop") -> bytes:
    with lab.driver.open_streams(lab.reading(path)) as [opened]:
        data = opened.stream.read()
        opened.check_complete()
        return data


def restore(lab: Lab, data: bytes, path: str, **options: object) -> str:
    """The safety point that was taken."""
    with lab.driver.open_output(lab.writing(path, **options)) as opened:  # type: ignore[arg-type]  # of the wish
        feed(opened.output, data)
        opened.finish(never_cancel)
        return opened.facts.safety_point


def feed(output: object, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[output.write(rest) :]  # type: ignore[attr-defined]  # a StreamOutput


@contextmanager
def running_postgresql() -> Iterator[Lab]:
    """Skips where there is no server."""
    if not PROGRAMS:
        pytest.skip("not installed: postgresql")
    with scratch_cluster() as url, tempfile.TemporaryDirectory(prefix="backupsite-pg-node-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "storage").mkdir()
        port = urlsplit(url).port or 0
        service = f"[{SERVICE}]\nhost=127.0.0.1\nport={port}\nuser=backupsite\npassword=geheim\n"
        (folder / "pg_service.conf").write_text(service)
        before = os.environ.get("PGSERVICEFILE")
        os.environ["PGSERVICEFILE"] = str(folder / "pg_service.conf")
        try:
            yield Lab(folder / "storage", port, PostgresqlDriver(), Server(SERVICE))
        finally:
            if before is None:
                del os.environ["PGSERVICEFILE"]
            else:
                os.environ["PGSERVICEFILE"] = before
