"""What the person at the terminal sees: one line per step, with its result and how long it took.

Works without a terminal too, and goes on when the terminal went away: stopping cleanly matters more than telling.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_TITLE_WIDTH = 34
_PROGRESS_SECONDS = 5.0


class Step:
    """A running step; what it reports is shown while it lasts."""

    def __init__(self, terminal: Terminal, title: str) -> None:
        self._terminal = terminal
        self._shown_at = time.monotonic()
        self.title = title
        self.note = ""

    def progress(self, text: str) -> None:
        """Overwrites itself on a terminal; elsewhere a line each few seconds at most."""
        now = time.monotonic()
        if self._terminal.interactive:
            self._terminal.overwrite(f"  ...     {self.title:<{_TITLE_WIDTH}} {text}")
        elif now - self._shown_at > _PROGRESS_SECONDS:
            self._shown_at = now
            self._terminal.line(f"  ...     {self.title:<{_TITLE_WIDTH}} {text}")


class Terminal:
    """Safe to use from several threads."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.RLock()
        self._unfinished = 0
        self.interactive = self._stream.isatty()

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """One line `ok` or `failed` at its end; the failure itself goes on to the caller."""
        step, begun = Step(self, title), time.monotonic()
        if self.interactive:
            step.progress("")
        try:
            yield step
        except Exception:
            self._finish("failed", step, begun)
            raise
        except BaseException:
            self._finish("ended", step, begun)
            raise
        self._finish("ok", step, begun)

    def line(self, text: str = "") -> None:
        with self._lock:
            self._clear()
            self._write(text + "\n")

    def overwrite(self, text: str) -> None:
        with self._lock:
            self._clear()
            # A line that wraps could not be taken back.
            text = text[: shutil.get_terminal_size().columns - 1]
            self._unfinished = len(text)
            self._write(text)

    def result(self, result: str, title: str, seconds: float, note: str = "") -> None:
        took = f"{seconds:.1f} s"
        self.line(f"  {result:<7} {title:<{_TITLE_WIDTH}} {took:>7}  {note}".rstrip())

    def _finish(self, result: str, step: Step, begun: float) -> None:
        self.result(result, step.title, time.monotonic() - begun, step.note)

    def _clear(self) -> None:
        if self._unfinished:
            self._write("\r" + " " * self._unfinished + "\r")
            self._unfinished = 0

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            return
