"""A limit on bytes per second, shared by all threads that send.

Every byte takes its time slot on one line: the next slot starts where the last one ends. Slots left unused are kept
for a quarter of a second only, which makes up for sleeps that last too long and allows no burst to speak of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from engine.errors import EngineError
from engine.waiting import POLL_SECONDS, Cancel, check_cancel

_BURST_SECONDS = 0.25


# A limit that may be another one each time it is asked for, such as by the hour; 0 means none now.
ChangingLimit: TypeAlias = Callable[[], int]


class Throttle:
    """Thread-safe."""

    def __init__(
        self,
        *,
        bytes_per_second: int | ChangingLimit,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        cancel: Cancel,
    ) -> None:
        if not callable(bytes_per_second) and bytes_per_second <= 0:
            raise EngineError("a bandwidth limit must be above zero", code="bad_bandwidth")
        self._limit = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._cancel = cancel
        self._lock = threading.Lock()
        self._free_at = clock()

    def take(self, length: int) -> None:
        """Return when `length` more bytes may be sent; CanceledError soon after a cancel."""
        bytes_per_second = self._limit() if callable(self._limit) else self._limit
        if bytes_per_second <= 0:
            return
        with self._lock:
            start = max(self._free_at, self._clock() - _BURST_SECONDS)
            self._free_at = start + length / bytes_per_second
        while (left_seconds := start - self._clock()) > 0:
            check_cancel(self._cancel)
            self._sleep(min(left_seconds, POLL_SECONDS))
