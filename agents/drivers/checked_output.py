"""A program that takes a stream, and gets none of it before its first bytes were looked at."""

from __future__ import annotations

from collections.abc import Callable

from agents.drivers.base import DriverError
from agents.drivers.children import Child
from engine.waiting import Cancel, check_cancel

# Enough to know a tar by.
LOOKED_AT_BYTES = 262


class NotEmptyError(DriverError):
    """The target holds something that the restore would replace, and nobody said that it may."""

    code = "target_not_empty"


class WrongStreamError(DriverError):
    """The backup is no dump, or no files of a server, whichever the target takes."""

    code = "wrong_stream"


class CheckedOutput:
    """Looks at the first bytes before the program gets any."""

    def __init__(self, child: Child, *, is_right: Callable[[bytes], bool], refusal: str) -> None:
        self._child = child
        self._is_right = is_right
        self._refusal = refusal
        self._first: bytes | None = b""

    def write(self, data: bytes | memoryview, /) -> int:
        if self._first is None:
            return self._child.write(data)
        if len(self._first) < LOOKED_AT_BYTES:
            self._first += bytes(data[:512])
            return min(len(data), 512)
        self._send_first()
        return 0 if self._first is not None else self._child.write(data)

    def finish(self, cancel: Cancel) -> None:
        while self._first:
            self._send_first()
            check_cancel(cancel)
        self._child.finish(cancel)

    def _send_first(self) -> None:
        first = self._first or b""
        if not self._is_right(first):
            raise WrongStreamError(self._refusal)
        self._first = first[self._child.write(first) :] or None
        # What is left begins in the middle; it was looked at.
        self._is_right = lambda _: True
