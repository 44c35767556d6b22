"""The mover's process as the agent sees it: started, heard, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

import agents
from agents.program.agent.files import write_whole
from agents.program.agent.moving import ENDED, MoveEvent, MoveOrder
from agents.program.agent.places import Places

GRACE_SECONDS = 20.0
_SHOWN_EVERY_SECONDS = 0.5


class Progress(msgspec.Struct, frozen=True):
    """What is shown of a job, in `jobs/<id>.json`."""

    job: str
    kind: str
    event: MoveEvent


class Worker(Protocol):
    """A job under way. `result` is None as long as it is."""

    def result(self) -> MoveEvent | None: ...

    def cancel(self) -> None: ...

    def end(self) -> None: ...


class MovingProcess:
    """One mover. `woken` is called from another thread when it has ended."""

    def __init__(self, places: Places, order: MoveOrder, woken: Callable[[], None], *, log: int) -> None:
        self._places = places
        self._order = order
        self._woken = woken
        self._last = MoveEvent("starting")
        self._shown_at = 0.0
        self._process = subprocess.Popen(  # noqa: S603  # this program again
            mover_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=_environment(order), cwd="/"
        )
        self._thread = threading.Thread(target=self._listen, name="mover", daemon=True)
        self._thread.start()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def result(self) -> MoveEvent | None:
        return None if self._thread.is_alive() else self._last

    def cancel(self) -> None:
        """Asks it to end; it puts back what it changed."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Cancel and wait; after a grace it is killed, and the next start cleans up."""
        self.cancel()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._thread.join(GRACE_SECONDS)

    def _listen(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            return
        with contextlib.suppress(BrokenPipeError):
            stdin.write(msgspec.json.encode(self._order))
            stdin.close()
        for line in stdout:
            with contextlib.suppress(msgspec.DecodeError):
                self._last = msgspec.json.decode(line, type=MoveEvent)
                self._show()
        code = self._process.wait()
        if self._last.phase != ENDED:
            self._last = _broken_off(code)
            self._show()
        self._woken()

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown_at >= _SHOWN_EVERY_SECONDS or self._last.phase == ENDED:
            self._shown_at = now
            show(self._places, Progress(self._order.job, self._order.kind, self._last))


def show(places: Places, progress: Progress) -> None:
    # For people who look; a lost line costs nothing, an fsync each half second would.
    with contextlib.suppress(OSError):
        write_whole(places.jobs / f"{progress.job}.json", msgspec.json.encode(progress), durable=False)


def shown(places: Places, job: str) -> Progress | None:
    try:
        return msgspec.json.decode((places.jobs / f"{job}.json").read_bytes(), type=Progress)
    except (OSError, msgspec.DecodeError):
        return None


def mover_command() -> list[str]:
    """This program as a mover: a frozen one is called by its own name."""
    if getattr(sys, "frozen", False):
        return [sys.executable, "move"]
    return [sys.executable, "-P", "-m", "agents.program.agent", "move"]


def _broken_off(code: int) -> MoveEvent:
    why = f"signal {-code}" if code < 0 else f"exit code {code}"
    return MoveEvent(
        ENDED,
        code="mover_ended",
        message=f"The mover ended with {why} before the job did. Was memory short? The job is tried again.",
    )


def _environment(order: MoveOrder) -> dict[str, str]:
    kept = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    found["PYTHONPATH"] = str(Path(agents.__file__ or "").parent.parent)
    # Fewer heaps of glibc's: without it each thread holds memory for itself.
    return {**found, "MALLOC_ARENA_MAX": "2", "PYTHONUNBUFFERED": "1"}
