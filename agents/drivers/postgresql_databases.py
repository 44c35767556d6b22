"""Dumps are restored to a database of ours, which takes the wanted one's name when it is whole."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager

from agents.drivers.base import POINT_PREFIX, DiskBusyError, DriverError, OpenedOutput, TargetFacts, Warned, WriteWish
from agents.drivers.checked_output import CheckedOutput, NotEmptyError
from agents.drivers.children import running
from agents.drivers.holding import safe_point
from agents.drivers.postgresql_client import PostgresError, Server, client_environment, explain, program
from agents.drivers.postgresql_properties import create_like, swap_names
from engine.waiting import Cancel

logger = logging.getLogger(__name__)

_NEW, _OLD = f"{POINT_PREFIX}new", f"{POINT_PREFIX}old"
_VERSION_MIN = 13  # DROP DATABASE ... WITH (FORCE)
_DUMP_MARK = b"PGDMP"
# The server lists a connection for a moment after its program has ended. For as long the server itself waits before it
# refuses to drop or rename a database.
_LOOKS, _LOOK_SECONDS = 50, 0.1

_TABLES = """
SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname <> 'information_schema' AND nspname !~ '^pg_' AND relkind IN ('r', 'p', 'm', 'v', 'S', 'f');
"""
_CONNECTIONS = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = :'name' AND backend_type = 'client backend')
FROM pg_database WHERE datname = :'name';
"""
_RIGHTS_DEFAULT = Warned(
    "database_rights_default",
    "The database is new: everybody may connect to it, and it has no settings of its own. Neither is in a dump; set "
    "them as they were (GRANT and REVOKE ON DATABASE, ALTER DATABASE SET).",
)


@contextmanager
def database_output(server: Server, database: str, wish: WriteWish) -> Iterator[OpenedOutput]:
    """Takes a dump into a database of ours, which is then named `database`; the one of that name goes, or is kept.

    It need not be there. DiskBusyError, NotEmptyError before anything is changed; after an error nothing is left.
    """
    is_there = _look(server, database, wish)
    restore = program("pg_restore", for_version=_restorable_version(server))
    sweep_databases(server, database, wish_keeps=None)
    new = _beside(_NEW, database)
    command = [restore, "--format=custom", "--single-transaction", "--exit-on-error", "--no-password"]
    try:
        _create(server, new, database if is_there else "")
        with running(
            *(*command, "--dbname", server.address(new)), explain=explain, env=client_environment(), takes_bytes=True
        ) as child:
            output = CheckedOutput(
                child,
                is_right=lambda first: first.startswith(_DUMP_MARK),
                refusal="The backup is no dump. Restore the files of a server into a folder (path folder/...).",
            )

            def finish(cancel: Cancel) -> None:
                output.finish(cancel)
                _take_name(server, new, database, wish=wish, replaces=is_there)

            facts = TargetFacts(wish.safety_point) if is_there else TargetFacts(warnings=(_RIGHTS_DEFAULT,))
            yield OpenedOutput(output, facts, finish)
    finally:
        _drop_quietly(server, new)


def _restorable_version(server: Server) -> int:
    version = server.version()
    if version < _VERSION_MIN:
        raise PostgresError(f"The server is PostgreSQL {version}; restores need {_VERSION_MIN} or newer.")
    return version


def _look(server: Server, database: str, wish: WriteWish) -> bool:
    """Whether there is such a database, which may be replaced then."""
    rows = server.ask(_CONNECTIONS, name=database)
    if not rows:
        return False
    if wish.create:
        raise DiskBusyError(f"There is a database {database} already. Choose another name.")
    # Before its tables are counted: who just ended may have made some.
    count = _connections(server, database, int(rows[0][0]))
    tables = int(server.ask(_TABLES, database=database)[0][0])
    if tables and not wish.overwrite:
        raise NotEmptyError(
            f"The database {database} has {tables} tables, views and sequences. Restore to a new one, or overwrite it."
        )
    if count:
        raise DiskBusyError(f"The database {database} is in use by {count} connections. End them, and try again.")
    return True


def _connections(server: Server, database: str, count: int) -> int:
    """Those that stay. Counted in looks, of which `count` is the first: a pause of this process costs none of them."""
    for _ in range(_LOOKS - 1):
        if not count:
            break
        time.sleep(_LOOK_SECONDS)
        rows = server.ask(_CONNECTIONS, name=database)
        count = int(rows[0][0]) if rows else 0
    return count


def _create(server: Server, new: str, like: str) -> None:
    """Nobody else may connect to it yet."""
    if like:
        create_like(server, new, like)
    else:
        server.ask('CREATE DATABASE :"new" TEMPLATE template0; REVOKE ALL ON DATABASE :"new" FROM PUBLIC;', new=new)


def _take_name(server: Server, new: str, database: str, *, wish: WriteWish, replaces: bool) -> None:
    """Both names change at once, or none does."""
    if not replaces:
        grant = 'GRANT CONNECT, TEMPORARY ON DATABASE :"new" TO PUBLIC;'
        server.ask(f'BEGIN; {grant} ALTER DATABASE :"new" RENAME TO :"name"; COMMIT;', new=new, name=database)
        return
    old = _beside(safe_point(wish.safety_point) if wish.safety_point else _OLD, database)
    swap_names(server, new, database, old)
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
