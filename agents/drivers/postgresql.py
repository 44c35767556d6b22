"""Driver `postgresql`: databases of a PostgreSQL server as streams. A disk's `server` is a name of pg_service.conf.

The disk's path says what: `database/NAME` is a dump of one database, `cluster` all of the server's files, and
`folder/PATH` (below the storage) an empty folder that the files of a cluster are restored into. A dump is restored to
a database beside, which gets the name of the wanted one when it is whole: until then nothing else is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from agents.drivers.base import (
    Capability,
    DiskBusyError,
    DiskMissingError,
    DiskWish,
    DriverError,
    OpenedOutput,
    OpenedStream,
    ReadWish,
    SourceFacts,
    WriteWish,
)
from agents.drivers.children import running
from agents.drivers.holding import held_server, standing_for
from agents.drivers.postgresql_client import PROGRAMS, Server, check_name, client_environment, explain, program
from agents.drivers.postgresql_databases import database_output, sweep_databases
from agents.drivers.postgresql_folders import folder_output, sweep_folder

CLUSTER = "cluster"
_LOCK_WAIT_MILLISECONDS = 60_000


class TablespacesError(DriverError):
    """Files of the server lie in several places, which one stream cannot hold."""

    code = "has_tablespaces"


class PostgresqlDriver:
    """See the module."""

    name = "postgresql"

    def probe(self) -> Capability:
        try:
            for name in PROGRAMS:
                program(name)
        except DriverError as error:
            return Capability(usable=False, reason=error.message)
        return Capability(usable=True)

    @contextmanager
    def open_streams(self, wish: ReadWish) -> Iterator[Sequence[OpenedStream]]:
        """Each is of one moment of its own. A child that waits to be read holds back the server's clean-up."""
        with ExitStack() as stack:
            yield [stack.enter_context(_opened(disk)) for disk in wish.disks]

    @contextmanager
    def open_output(self, wish: WriteWish) -> Iterator[OpenedOutput]:
        kind, name = _parts(wish.address.path)
        if kind == CLUSTER:
            raise DiskMissingError(
                "The files of a server are restored into an empty folder (path folder/...), not over a server."
            )
        with _held(wish.address.server, wish.address.path):
            if kind == "folder":
                with folder_output(wish, name) as output:
                    yield output
            else:
                with database_output(Server(wish.address.server), check_name(name), wish) as output:
                    yield output

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]:
        """Databases and folders of ours that a killed restore left, and kept ones that nothing needs any more."""
        removed: list[str] = []
        for disk in disks:
            kind, name = _parts(disk.address.path)
            try:
                with _held(disk.address.server, disk.address.path):
                    if kind == "folder":
                        removed += sweep_folder(disk.address, name)
                    elif kind == "database":
                        removed += sweep_databases(Server(disk.address.server), name, disk.kept_points)
            except DiskBusyError:
                continue  # the job that has it sweeps by itself
        return removed


@contextmanager
def _opened(disk: DiskWish) -> Iterator[OpenedStream]:
    server = Server(disk.address.server)
    kind, name = _parts(disk.address.path)
    if kind == "folder":
        raise DiskMissingError("A folder is only restored into. Back up database/NAME or cluster.")
    with _held(disk.address.server, disk.address.path):
        command = _cluster_command(server) if kind == CLUSTER else _dump_command(server, check_name(name))
        with running(*command, explain=explain, env=client_environment()) as child:
            yield OpenedStream(child.output, SourceFacts(), child.check_complete)


def _dump_command(server: Server, database: str) -> list[str]:
    """Not compressed: what did not change is found again, and the engine compresses."""
    dump = program("pg_dump", for_version=server.version(database))
    wait = f"--lock-wait-timeout={_LOCK_WAIT_MILLISECONDS}"
    return [dump, "--format=custom", "--compress=0", "--no-password", wait, "--dbname", server.address(database)]


def _cluster_command(server: Server) -> list[str]:
    spaces = server.ask("SELECT spcname FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global');")
    if spaces:
        raise TablespacesError(
            f"The server has tablespaces ({', '.join(row[0] for row in spaces[:5])}), which one stream of its files "
            "cannot hold. Back up each database instead (path database/NAME)."
        )
    copy = program("pg_basebackup", for_version=server.version())
    # Written to standard output, the log of changes can only be fetched at the end.
    how = ["--pgdata=-", "--format=tar", "--wal-method=fetch", "--checkpoint=fast", "--label=backupsite"]
    return [copy, *how, "--no-password", "--dbname", server.address()]


def _parts(path: str) -> tuple[str, str]:
    """`database`, `folder` or `cluster`, and the name. DiskMissingError."""
    kind, _, name = path.partition("/")
    if (kind in {"database", "folder"} and name) or path == CLUSTER:
        return kind, name
    raise DiskMissingError(f"The path {path!r} is none of database/NAME, cluster and folder/PATH.")


@contextmanager
def _held(server: str, path: str) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(held_server(standing_for(f"postgresql:{server}:{path}")))
        except DiskBusyError as error:
            raise DiskBusyError(f"Another job has {path} of this PostgreSQL server now.") from error
        yield
