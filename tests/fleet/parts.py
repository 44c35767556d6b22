"""A PostgreSQL, a broker and the service's own processes, as few of them as a promise needs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import redis

from backupsite.stack.broker import EmbeddedBroker
from backupsite.stack.ports import PORT_SPAN, free_ports
from backupsite.stack.process import Child, ChildError
from backupsite.stack.programs import Programs
from backupsite.stack.secret_files import load_or_make
from backupsite.stack.settings import DATA_FOLDERS, StackSettings
from tests.postgres.cluster import scratch_cluster

SETUP_SECONDS = 300.0


@dataclass
class Parts:
    """What runs: where it is, and how more of it is started. Times in seconds."""

    programs: Programs
    broker: EmbeddedBroker
    database_url: str
    started: list[Child] = field(default_factory=list)

    def environment(self, role: str = "control") -> dict[str, str]:
        return self.programs.environment(role)

    def start(self, name: str, *, copy: str = "") -> Child:
        """One of the service's processes; with `copy` beside another of the same kind."""
        spec = next(spec for spec in self.programs.long_running() if spec.name == name)
        if copy:
            argv = tuple(part.replace(f"{name}@", f"{name}-{copy}@") for part in spec.argv)
            ready = spec.ready if name == "beat" else _says(f"{name}-{copy}@local ready.")
            spec = replace(spec, name=f"{name}-{copy}", argv=argv, ready=ready)
        child = Child(spec)
        self.started.append(child)
        child.start()
        return child

    def waiting_messages(self, queue: str) -> int:
        with redis.Redis(unix_socket_path=str(self.broker.socket_path), socket_timeout=30) as client:
            return int(client.llen(queue))

    def cpu_seconds(self) -> float:
        """Of every process that was started here, the database's server, and all their children, ended ones too."""
        port = f"\0-p\0{urlsplit(self.database_url).port}\0"
        return _cpu_seconds([child.pid for child in self.started], server=port)


def _says(text: str) -> Callable[[Child], bool]:
    return lambda child: text in child.log_text()


def _cpu_seconds(roots: list[int], *, server: str) -> float:
    """`server` is in the command line of one more root."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        with suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            parents[pid], ticks[pid] = int(fields[1]), sum(int(field) for field in fields[11:15])
            if server in (path / "cmdline").read_bytes().decode(errors="replace"):
                roots = [*roots, pid]
    found = set(roots)
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return sum(ticks.get(pid, 0) for pid in found) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running_parts(
    *, cluster: Mapping[str, str] | None = None, outside: Mapping[str, str] | None = None
) -> Iterator[Parts]:
    """The database with all tables and fixed rows, and the broker. Everything that is started is stopped at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backupsite-fleet-")))
        for name in DATA_FOLDERS:
            (folder / name).mkdir(mode=0o700)
        url = stack.enter_context(scratch_cluster(cluster))
        broker = EmbeddedBroker(folder / "broker", socket_directory=folder / "run", log_directory=folder / "log")
        stack.enter_context(broker)
        settings = StackSettings(data=folder, port=free_ports(PORT_SPAN)[0], database_url=url, broker_url=broker.url)
        programs = Programs(
            settings=settings,
            secrets=load_or_make(folder / "secrets"),
            broker_url=broker.url,
            outside={**os.environ, **(outside or {})},
        )
        setup = Child(programs.setup())
        setup.spawn()
        if setup.wait_exit(timeout_seconds=SETUP_SECONDS):
            raise ChildError("the database could not be set up", details=setup.last_lines())
        parts = Parts(programs, broker, url)
        stack.callback(lambda: [child.stop() for child in parts.started])
        yield parts
