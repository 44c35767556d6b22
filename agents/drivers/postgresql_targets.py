"""What streams of PostgreSQL are restored to: a database beside that takes the wanted one's name; an empty folder."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from agents.drivers.base import (
    POINT_PREFIX,
    DiskAddress,
    DiskBusyError,
    DiskFullError,
    DiskMissingError,
    DriverError,
    OpenedOutput,
    TargetFacts,
    WriteWish,
)
from agents.drivers.children import Child, answer, running
from agents.drivers.folders import tree_root
from agents.drivers.holding import safe_point
from agents.drivers.postgresql_client import PostgresError, Server, client_environment, explain, program
from engine.waiting import Cancel, check_cancel

logger = logging.getLogger(__name__)

_NEW, _OLD = f"{POINT_PREFIX}new", f"{POINT_PREFIX}old"
_VERSION_MIN = 13  # DROP DATABASE ... WITH (FORCE)
_DUMP_MARK = b"PGDMP"
_TAR_MARK, _TAR_MARK_AT = b"ustar", 257

_TABLES = """
SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname <> 'information_schema' AND nspname !~ '^pg_' AND relkind IN ('r', 'p', 'm', 'v', 'S', 'f');
"""
_FACTS = """
SELECT pg_encoding_to_char(encoding), datcollate, datctype, rolname,
  (SELECT count(*) FROM pg_stat_activity WHERE datname = :'name' AND backend_type = 'client backend')
FROM pg_database JOIN pg_roles ON pg_roles.oid = datdba WHERE datname = :'name';
"""


class NotEmptyError(DriverError):
    """The target holds something that the restore would replace, and nobody said that it may."""

    code = "target_not_empty"


class WrongStreamError(DriverError):
    """The backup is no dump, or no files of a server, whichever the target takes."""

    code = "wrong_stream"


class _Checked:
    """Looks at the first bytes before the program gets any."""

    def __init__(self, child: Child, *, is_right: Callable[[bytes], bool], refusal: str) -> None:
        self._child = child
        self._is_right = is_right
        self._refusal = refusal
        self._first: bytes | None = b""

    def write(self, data: bytes | memoryview, /) -> int:
        if self._first is None:
            return self._child.write(data)
        if len(self._first) < _TAR_MARK_AT + len(_TAR_MARK):
            self._first += bytes(data[:512])
            return min(len(data), 512)
        self._send_first()
        return 0 if self._first is not None else self._child.write(data)

    def finish(self, cancel: Cancel) -> None:
        while self._first:
            self._send_first()
            check_cancel(cancel)
        self._child.finish(cancel)

    def _send_first(self) -> None:
        first = self._first or b""
        if not self._is_right(first):
            raise WrongStreamError(self._refusal)
        self._first = first[self._child.write(first) :] or None
        # What is left begins in the middle; it was looked at.
        self._is_right = lambda _: True


# --- a database ------------------------------------------------------------------------------------------------------


@contextmanager
def database_output(server: Server, database: str, wish: WriteWish) -> Iterator[OpenedOutput]:
    """Takes a dump into a database of ours, which is then named `database`; the one of that name goes, or is kept.

    It need not be there. DiskBusyError, NotEmptyError before anything is changed; after an error nothing is left.
    """
    there = _look(server, database, wish)
    restore = program("pg_restore", for_version=_restorable_version(server))
    sweep_databases(server, database, wish_keeps=None)
    new = _beside(_NEW, database)
    _create(server, new, there)
    command = [restore, "--format=custom", "--single-transaction", "--exit-on-error", "--no-password"]
    try:
        with running(
            *(*command, "--dbname", server.address(new)), explain=explain, env=client_environment(), takes_bytes=True
        ) as child:
            output = _Checked(
                child,
                is_right=lambda first: first.startswith(_DUMP_MARK),
                refusal="The backup is no dump. Restore the files of a server into a folder (path folder/...).",
            )

            def finish(cancel: Cancel) -> None:
                output.finish(cancel)
                _take_name(server, new, database, wish=wish, replaces=bool(there))

            safety = wish.safety_point if there else ""
            yield OpenedOutput(output, TargetFacts(safety_point=safety), finish)
    finally:
        _drop_quietly(server, new)


def _restorable_version(server: Server) -> int:
    version = server.version()
    if version < _VERSION_MIN:
        raise PostgresError(f"The server is PostgreSQL {version}; restores need {_VERSION_MIN} or newer.")
    return version


def _look(server: Server, database: str, wish: WriteWish) -> list[str]:
    """Encoding, collation, character type and owner of the database; empty where there is none yet."""
    rows = server.ask(_FACTS, name=database)
    if not rows:
        return []
    if wish.create:
        raise DiskBusyError(f"There is a database {database} already. Choose another name.")
    tables = int(server.ask(_TABLES, database=database)[0][0])
    if tables and not wish.overwrite:
        raise NotEmptyError(
            f"The database {database} has {tables} tables, views and sequences. Restore to a new one, or overwrite it."
        )
    if int(rows[0][4]):
        raise DiskBusyError(f"The database {database} is in use by {rows[0][4]} connections. End them, and try again.")
    return rows[0][:4]


def _create(server: Server, new: str, there: list[str]) -> None:
    if not there:
        server.ask('CREATE DATABASE :"new" TEMPLATE template0;', new=new)
        return
    encoding, collation, kind, owner = there
    server.ask(
        "CREATE DATABASE :\"new\" TEMPLATE template0 ENCODING :'encoding' LC_COLLATE :'collation' LC_CTYPE :'kind';"
        'ALTER DATABASE :"new" OWNER TO :"owner";',
        new=new,
        encoding=encoding,
        collation=collation,
        kind=kind,
        owner=owner,
    )


def _take_name(server: Server, new: str, database: str, *, wish: WriteWish, replaces: bool) -> None:
    """Both names change at once, or none does."""
    if not replaces:
        server.ask('ALTER DATABASE :"new" RENAME TO :"name";', new=new, name=database)
        return
    old = _beside(safe_point(wish.safety_point) if wish.safety_point else _OLD, database)
    server.ask(
        'BEGIN; ALTER DATABASE :"name" RENAME TO :"old"; ALTER DATABASE :"new" RENAME TO :"name"; COMMIT;',
        new=new,
        name=database,
        old=old,
    )
    if not wish.safety_point:
        _drop_quietly(server, old)


def sweep_databases(server: Server, database: str, wish_keeps: Set[str] | None) -> list[str]:
    """Drop databases of ours that stand for this one. None keeps all safety points: only leftovers go."""
    ending = _beside("", database)
    rows = server.ask("SELECT datname FROM pg_database WHERE datname LIKE :'ours';", ours=f"{POINT_PREFIX}%")
    removed = []
    for (name,) in rows:
        point = name.removesuffix(ending)
        is_leftover = point in {_NEW, _OLD}
        if name.endswith(ending) and (is_leftover or (wish_keeps is not None and point not in wish_keeps)):
            _drop(server, name)
            removed.append(point)
    return removed


def _beside(point: str, database: str) -> str:
    """Short enough for every point: a longer name would be cut off."""
    return f"{point}.{hashlib.sha256(database.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def _drop(server: Server, name: str) -> None:
    if not name.startswith(POINT_PREFIX):
        raise PostgresError(f"{name!r} is no database of ours.")
    server.ask('DROP DATABASE IF EXISTS :"name" WITH (FORCE);', name=name)


def _drop_quietly(server: Server, name: str) -> None:
    try:
        _drop(server, name)
    except DriverError as error:
        logger.warning("a database of ours stays", extra={"database": name, "reason": error.message})


# --- a folder --------------------------------------------------------------------------------------------------------


@contextmanager
def folder_output(wish: WriteWish, path: str) -> Iterator[OpenedOutput]:
    """Unpacks the files of a server beside the folder, which they become when they are whole. After an error nothing
    is left. DiskMissingError, DiskBusyError, NotEmptyError; a folder with files is never written over.
    """
    root = _root(wish.address, path)
    _refuse_folder(root)
    new = _beside_folder(root)
    _remove(new)
    try:
        new.mkdir(mode=0o700)
    except OSError as error:
        raise DiskMissingError(f"The folder {new} cannot be made: {error.strerror}.") from error
    try:
        with running(
            *("tar", "--extract", "--file=-", f"--directory={new}"), explain=_explain_tar, takes_bytes=True
        ) as child:
            output = _Checked(
                child,
                is_right=lambda first: first[_TAR_MARK_AT:].startswith(_TAR_MARK),
                refusal="The backup has no files of a server. Restore a dump to a database (path database/NAME).",
            )

            def finish(cancel: Cancel) -> None:
                output.finish(cancel)
                _settle(new, root)

            yield OpenedOutput(output, TargetFacts(), finish)
    finally:
        _remove(new)


def sweep_folder(address: DiskAddress, path: str) -> list[str]:
    new = _beside_folder(_root(address, path))
    if not new.is_dir():
        return []
    _remove(new)
    return [new.name]


def _root(address: DiskAddress, path: str) -> Path:
    root = tree_root(DiskAddress(address.storage_path, path, address.size_bytes))
    if root == tree_root(DiskAddress(address.storage_path, ".", 0)):
        raise DiskMissingError("The files of a server go into a folder of the storage, not into all of it.")
    return root


def _refuse_folder(root: Path) -> None:
    try:
        is_empty = not any(root.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise DiskMissingError(f"The folder {root} cannot be opened: {error.strerror}.") from error
    if not is_empty:
        raise NotEmptyError(f"The folder {root} is not empty. Choose another one, or move what is in it away.")


def _settle(new: Path, root: Path) -> None:
    """Durable before it has its name; its owner is that of the files, which the server asks for."""
    try:
        owner = (new / "PG_VERSION").stat()
        os.chown(new, owner.st_uid, owner.st_gid)
        answer("sync", "--file-system", str(new), explain=_explain_tar, timeout_seconds=3600)
        new.rename(root)
    except OSError as error:
        raise PostgresError(f"The files cannot become {root}: {error.strerror}.") from error


def _explain_tar(words: str, status: int) -> DriverError:
    told = "; ".join(words.splitlines()[-2:])[:300] or f"exit status {status}"
    if "no space left" in words.lower():
        return DiskFullError(f"There is no space left for the files: {told}.")
    return PostgresError(f"The files cannot be unpacked: {told}.")


def _beside_folder(root: Path) -> Path:
    return root.parent / f".{_NEW}.{root.name}"


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
