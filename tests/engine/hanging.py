"""What hangs until a test lets it go, and how soon a cancel gets away from it, on a machine that may stand still."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeAlias

import pytest

from engine.errors import CanceledError
from engine.waiting import Cancel

# How long something hangs that nobody lets go: no wait for it is taken for a cancel that is only slow.
HANGS_SECONDS = 30.0
# Longer than any of them stands still: by then a thread has done what takes it a moment.
PATIENCE_SECONDS = 60.0
_ATTEMPTS = 5
# What really hangs makes each attempt long: no other one is begun after this time.
_LAST_BEGINS_SECONDS = 120.0


def in_time(attempt: Callable[[], float], *, most: float) -> None:
    """Of a few attempts, which return the seconds that they took, one must take less than `most`.

    A machine that stands still for a moment makes one of them too slow; a fault makes all of them so.
    """
    begun, took = time.monotonic(), []
    while len(took) < _ATTEMPTS and time.monotonic() - begun < _LAST_BEGINS_SECONDS:
        took.append(attempt())
        if took[-1] < most:
            return
    pytest.fail(f"not in {most} seconds but in {took}")


class Hang:
    """Something that blocks until the attempt is over, and tells when somebody is blocked."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def wait(self) -> None:
        self.entered.set()
        self.released.wait(HANGS_SECONDS)


Work: TypeAlias = Callable[[Hang, Cancel], object]


def canceled_in_time(work: Work, *, most: float = 2) -> None:
    """Run the work; once it hangs, cancel it; it must end with CanceledError within so many seconds.

    It may be run more than once, each time with a hang of its own: whatever else it changes, it makes itself.
    """
    in_time(lambda: _seconds_to_cancel(work), most=most)


def _seconds_to_cancel(work: Work) -> float:
    hang, canceled = Hang(), threading.Event()
    moments: list[float] = []

    def cancel_when_it_hangs() -> None:
        if hang.entered.wait(PATIENCE_SECONDS):
            time.sleep(0.1)
            moments.append(time.monotonic())
            canceled.set()

    watcher = threading.Thread(target=cancel_when_it_hangs, daemon=True)
    watcher.start()
    try:
        with pytest.raises(CanceledError):
            work(hang, canceled.is_set)
        ended = time.monotonic()
    finally:
        hang.released.set()
    watcher.join(PATIENCE_SECONDS)
    return ended - moments[0]
