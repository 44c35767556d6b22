"""The whole embedded stack: what starts after what, what is watched, and how all of it is stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from backupsite.stack import preflight
from backupsite.stack.broker import EmbeddedBroker
from backupsite.stack.errors import StackError
from backupsite.stack.ports import INTERNAL_OFFSET, S3_OFFSET, stack_ports
from backupsite.stack.process import Child, ChildError, prefix
from backupsite.stack.programs import MANAGE, PROJECT_ROOT, Programs
from backupsite.stack.secret_files import StackSecrets, load_or_make
from backupsite.stack.settings import StackSettings
from backupsite.stack.supervisor import Supervisor
from backupsite.stack.terminal import Terminal
from backupsite.stack.weed import EmbeddedWeed
from backupsite.stack.weed_config import stack_identities

SETUP_SECONDS = 600.0
_LOOK_SECONDS = 0.1


class Stack:
    """A context manager: everything runs inside it, nothing is left after it."""

    def __init__(
        self, settings: StackSettings, *, terminal: Terminal | None = None, needed_bytes: int = preflight.GIB
    ) -> None:
        self.settings = settings
        self.terminal = terminal or Terminal()
        self._needed_bytes = needed_bytes
        self._lock: preflight.DataLock | None = None
        self._secrets: StackSecrets | None = None
        self._weed: EmbeddedWeed | None = None
        self._broker: EmbeddedBroker | None = None
        self._children: dict[str, Child] = {}
        self._stopped = False
        self._supervisor = Supervisor(report=self.terminal.line)

    @property
    def secrets(self) -> StackSecrets:
        if self._secrets is None:
            raise StackError("the stack was not started")
        return self._secrets

    @property
    def broker_url(self) -> str:
        if self.settings.broker_url:
            return self.settings.broker_url
        if self._broker is None:
            raise StackError("the stack was not started")
        return self._broker.url

    @property
    def programs(self) -> Programs:
        """How the service's processes are started; also for one-off commands against the running stack."""
        return Programs(settings=self.settings, secrets=self.secrets, broker_url=self.broker_url, outside=os.environ)

    def child(self, name: str) -> Child:
        """The store (weed), the broker, or one of `Programs.long_running` by its name: pid, stop, kill, start."""
        if name not in self._children:
            raise StackError(f"there is no process {name!r}; there are {', '.join(self._children)}")
        return self._children[name]

    def run_manage(
        self, *arguments: str, role: str = "control", with_reaper: bool = False, timeout_seconds: float = 120.0
    ) -> str:
        """The standard output of a `manage.py` command against the running stack. Raises StackError when it fails."""
        programs = self.programs
        try:
            done = subprocess.run(
                [*prefix(), sys.executable, str(MANAGE), *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                cwd=PROJECT_ROOT,
                env=programs.environment(role, with_reaper=with_reaper),
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StackError(f"manage.py {arguments[0]} took longer than {timeout_seconds:.0f} s") from None
        if done.returncode:
            details = tuple(done.stderr.splitlines()[-12:])
            raise StackError(f"manage.py {arguments[0]} failed (exit code {done.returncode})", details=details)
        return done.stdout

    def start(self) -> None:
        """Raises StackError; then call `stop`, as the context manager does."""
        self._check()
        self._start_storage()
        self._start_broker()
        self._set_up_database()
        self._start_programs()
        for child in self._children.values():
            self._supervisor.watch(child)

    def stop(self) -> None:
        """Stop all of it, those first that use the others. May be called twice."""
        self._supervisor.close()
        users = [child for name, child in self._children.items() if name not in {"weed", "broker"}]
        if self._weed is not None and not self._stopped:
            with self.terminal.step("stopping"):
                _all_at_once([child.stop for child in users])
                _all_at_once([part.stop for part in (self._broker, self._weed) if part is not None])
        self._stopped = True
        self._children.clear()
        self._supervisor.join()
        if self._lock is not None:
            self._lock.release()

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

    def _check(self) -> None:
        settings = self.settings
        self._lock = preflight.prepare_data(
            data=settings.data, ports=stack_ports(settings.port), needed_bytes=self._needed_bytes
        )
        self._secrets = load_or_make(settings.data / "secrets")
        self.terminal.line(f"  ok      data in {settings.data}")

    def _start_storage(self) -> None:
        port, log = self.settings.port, self.settings.data / "log"
        self._weed = EmbeddedWeed(
            self.settings.data / "s3",
            s3_port=port + S3_OFFSET,
            internal_port=port + INTERNAL_OFFSET,
            identities=stack_identities(self.secrets.s3),
            log_directory=log,
        )
        with self.terminal.step("object storage") as step:
            self._weed.start()
            step.note = self._weed.url
        self._children["weed"] = self._weed.child

    def _start_broker(self) -> None:
        if self.settings.broker_url:
            return
        data = self.settings.data
        self._broker = EmbeddedBroker(data / "broker", socket_directory=data / "run", log_directory=data / "log")
        with self.terminal.step("broker") as step:
            self._broker.start()
            step.note = self._broker.rung.kind
        if self._broker.child is not None:
            self._children["broker"] = self._broker.child

    def _set_up_database(self) -> None:
        setup = Child(self.programs.setup())
        with self.terminal.step("database"):
            setup.spawn()
            self._children["setup"] = setup
            code = setup.wait_exit(timeout_seconds=SETUP_SECONDS)
            del self._children["setup"]
            if code:
                message = f"the database could not be set up (exit code {code}); see {setup.log_path}"
                raise ChildError(message, details=setup.last_lines())

    def _start_programs(self) -> None:
        """All at once: their imports are most of the time. The first that fails ends the wait for all."""
        begun = time.monotonic()
        notes = {"web": self.settings.portal_url, "signer": self.settings.gate_url}
        pending = [Child(spec) for spec in self.programs.long_running()]
        for child in pending:
            self._children[child.name] = child
            child.spawn()
        with self.terminal.step("service") as step:
            while pending:
                step.progress("waiting for " + ", ".join(_TITLES[child.name] for child in pending))
                for child in [child for child in pending if child.answers(waited_seconds=time.monotonic() - begun)]:
                    pending.remove(child)
                    self.terminal.result("ok", _TITLES[child.name], time.monotonic() - begun, notes.get(child.name, ""))
                time.sleep(_LOOK_SECONDS)


_TITLES = {
    "web": "portal",
    "signer": "session gate",
    "control": "control worker",
    "checks": "checks worker",
    "asked": "worker of asked checks",
    "node": "node worker",
    "restores": "worker of restores",
    "beat": "clock",
    "reaper": "reaper",
    "notices": "sender of notices",
}


def _all_at_once(stops: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=stop) for stop in stops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
