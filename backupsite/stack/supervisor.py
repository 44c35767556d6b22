"""Starts a child again when it ended without being told to, later and later when it does not stay up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from backupsite.stack.errors import StackError
from backupsite.stack.process import Child, ChildStoppedError

_LOOK_SECONDS = 0.2
_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 30.0
_STEADY_SECONDS = 60.0


class Supervisor:
    """One watching thread per child, so that a slow start of one delays no other."""

    def __init__(self, *, report: Callable[[str], None]) -> None:
        self._report = report
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def watch(self, child: Child) -> None:
        thread = threading.Thread(target=self._watch, args=(child,), name=f"watch-{child.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """No child is started any more once this was called; those that run go on."""
        self._ended.set()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _watch(self, child: Child) -> None:
        delay = _FIRST_DELAY_SECONDS
        seen_running = time.monotonic()
        while not self._ended.wait(_LOOK_SECONDS):
            if child.running or not child.wanted:
                if time.monotonic() - seen_running > _STEADY_SECONDS:
                    delay = _FIRST_DELAY_SECONDS
                continue
            self._report(
                f"{child.name} ended unexpectedly (exit code {child.exit_code}); starting it again in {delay:.1f} s"
            )
            if self._ended.wait(delay) or not child.wanted:
                continue
            delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
            seen_running = time.monotonic()
            self._restart(child)

    def _restart(self, child: Child) -> None:
        try:
            child.revive()
        except ChildStoppedError:
            return
        except StackError as error:
            self._report(error.message)
        else:
            self._report(f"{child.name} runs again")
