"""Child processes: started so that they never outlive the launcher, waited for, stopped with their own children.

Every child leads its own session and process group, so the terminal's Ctrl-C reaches only the launcher, and a signal to
the group reaches a worker's own children. Three nets keep orphans away: the launcher's own stop, the kernel's signal on
the parent's death (exec_child), and the guardian, which ends the groups when the launcher was killed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from backupsite.stack.errors import StackError

_HERE = Path(__file__).parent
_POLL_SECONDS = 0.05
_LOG_TAIL_LINES = 12
_LOG_ROTATE_BYTES = 16 * 1024 * 1024

# The kernel's parent-death signal is sent when the starting *thread* ends, so one thread that lives as long as the
# launcher starts every child.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


class ChildError(StackError):
    """A child did not come up."""


class ChildStoppedError(ChildError):
    """A child was told to stop while somebody waited for it."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run. `ready` is asked again and again until it says yes; `after_ready` runs once after each start."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path
    log_directory: Path
    ready: Callable[[Child], bool] = lambda child: True
    ready_seconds: float = 60.0
    grace_seconds: float = 10.0
    after_ready: Callable[[Child], None] = lambda child: None


class Child:
    """One long-running program. Safe to use from several threads; a stop wins over a start that still waits."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.log_path = spec.log_directory / f"{spec.name}.log"
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._group: int | None = None
        self._log_offset = 0
        self._wanted = threading.Event()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def pid(self) -> int:
        """Also the process group. Raises ChildError when it was never started."""
        if self._process is None:
            raise ChildError(f"{self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def wanted(self) -> bool:
        """True between start and stop: a supervisor restarts a child that is wanted and not running."""
        return self._wanted.is_set()

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start and wait until ready. Raises ChildError, and then nothing of it is left running."""
        self._wanted.set()
        self.revive()

    def spawn(self) -> None:
        """Start without waiting. Does nothing when it runs already."""
        self._wanted.set()
        self._spawn_if_wanted()

    def revive(self) -> None:
        """Start again what is wanted, as `start`; does not bring back what was told to stop meanwhile."""
        self._spawn_if_wanted()
        try:
            self.wait_ready()
        except BaseException:
            self._end(grace_seconds=self.spec.grace_seconds)
            raise

    def bounce(self, between: Callable[[], None]) -> None:
        """Stop, do something while it is down and nobody can start it, start again without waiting."""
        with self._lock:
            self._end(grace_seconds=self.spec.grace_seconds)
            between()
            self._spawn_if_wanted()

    def wait_ready(self) -> None:
        """Raises ChildError with the log's last lines when it ends or is not ready in time."""
        self.wait_answering()
        self.spec.after_ready(self)

    def wait_answering(self) -> None:
        """As wait_ready, without what is to be done after it."""
        begun = time.monotonic()
        while not self.answers(waited_seconds=time.monotonic() - begun):
            time.sleep(_POLL_SECONDS)

    def answers(self, *, waited_seconds: float) -> bool:
        """Whether it is ready now. Raises ChildError, as wait_ready, when it will not become so."""
        if self.running and self.spec.ready(self):
            return True
        if not self.wanted:
            raise ChildStoppedError(f"{self.name} was stopped before it was ready")
        if not self.running:
            raise ChildError(
                f"{self.name} ended at its start ({self._ending()}); {self._hint()}", details=self.last_lines()
            )
        if waited_seconds > self.spec.ready_seconds:
            message = f"{self.name} was not ready after {self.spec.ready_seconds:.0f} s; {self._hint()}"
            raise ChildError(message, details=self.last_lines())
        return False

    def wait_exit(self, *, timeout_seconds: float) -> int:
        """For one-off commands: the exit code. Raises ChildError when it takes longer, and ends it then."""
        deadline = time.monotonic() + timeout_seconds
        while self.running:
            if time.monotonic() > deadline:
                self.stop()
                raise ChildError(
                    f"{self.name} took longer than {timeout_seconds:.0f} s; {self._hint()}", details=self.last_lines()
                )
            time.sleep(_POLL_SECONDS)
        code = self.exit_code
        self.stop()
        return 1 if code is None else code

    def stop(self) -> bool:
        """SIGTERM, wait, then SIGKILL for the whole group. It stays down. True when SIGTERM was enough."""
        self._wanted.clear()
        _spawner.submit(lambda: None).result()
        return self._end(grace_seconds=self.spec.grace_seconds)

    def kill(self) -> None:
        """SIGKILL, as a crash would: a supervisor starts it again."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def log_text(self) -> str:
        """What it wrote since its last start."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(self._log_offset)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def last_lines(self) -> tuple[str, ...]:
        return tuple(line[:400] for line in self.log_text().splitlines()[-_LOG_TAIL_LINES:])

    def _spawn_if_wanted(self) -> None:
        with self._lock:
            _spawner.submit(self._spawn).result()

    def _spawn(self) -> None:
        if self.running or not self.wanted:
            return
        # After a crash the leader's own children may live on and hold its port.
        self._end_group()
        self._rotate_log()
        argv = [*prefix(), *self.spec.argv]
        with open(self.log_path, "ab", opener=_private) as log:
            self._log_offset = log.tell()
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.spec.cwd,
                env=dict(self.spec.env),
                start_new_session=True,
            )
        self._group = self._process.pid
        _guardian.watch(self._group)

    def _rotate_log(self) -> None:
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_ROTATE_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))

    def _end(self, *, grace_seconds: float) -> bool:
        process = self._process
        if process is None:
            return True
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        by_itself = True
        try:
            process.wait(timeout=grace_seconds)
        except subprocess.TimeoutExpired:
            by_itself = False
        self._end_group()
        process.wait()
        return by_itself

    def _end_group(self) -> None:
        # Once only: later the number may belong to somebody else.
        group, self._group = self._group, None
        if group is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
            _guardian.release(group)

    def _ending(self) -> str:
        code = self.exit_code
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def _hint(self) -> str:
        return f"see {self.log_path}"


def prefix() -> tuple[str, ...]:
    """Put before a command, it makes that command end with this process."""
    return (sys.executable, "-I", "-S", str(_HERE / "exec_child.py"), str(os.getpid()))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class _Guardian:
    """The launcher's side of guardian.py: started with the first child, told of each group."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, group: int) -> None:
        with self._lock:
            self._groups.add(group)
            self._tell(f"+{group}\n")

    def release(self, group: int) -> None:
        with self._lock:
            if group in self._groups:
                self._groups.discard(group)
                self._tell(f"-{group}\n")

    def close(self) -> None:
        """Ends the guardian, and through it whatever group was not released."""
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
                self._process.wait()
                self._process = None

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
            line = "".join(f"+{group}\n" for group in self._groups)
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_HERE / "guardian.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )


_guardian = _Guardian()
atexit.register(_guardian.close)
