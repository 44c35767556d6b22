"""The two ways a restore writes: anywhere on a block target, or strictly forward into a stream."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from engine.errors import DamagedError
from engine.ranges import RangeList, merge_ranges
from engine.targets import BlockTarget, StreamTarget
from engine.waiting import Cancel, check_cancel

_ZERO_BYTES_MAX = 64 * 1024 * 1024
_STREAM_ZEROS = bytes(1024 * 1024)


class Output(Protocol):
    """Takes every byte of the image exactly once, in windows that ascend; in any order inside of a window."""

    written_bytes: int
    zeroed_bytes: int

    def write(self, offset: int, data: bytes) -> None: ...

    def zero(self, offset: int, length: int) -> None: ...

    def damage(self, offset: int, length: int) -> None:
        """These bytes could not be had."""
        ...

    def end_window(self) -> None:
        """All before the end of this window was told."""
        ...

    def finish(self) -> None:
        """The image is complete. DamagedError when some of it is not."""
        ...


class BlockOutput:
    """Writes at once, leaves damaged ranges untouched and goes on."""

    def __init__(self, target: BlockTarget, *, cancel: Cancel) -> None:
        self.written_bytes = self.zeroed_bytes = 0
        self._target = target
        self._cancel = cancel
        self._damaged = RangeList()

    def write(self, offset: int, data: bytes) -> None:
        self._target.write(offset, data)
        self.written_bytes += len(data)

    def zero(self, offset: int, length: int) -> None:
        end = offset + length
        for start in range(offset, end, _ZERO_BYTES_MAX):
            check_cancel(self._cancel)
            step = min(_ZERO_BYTES_MAX, end - start)
            self._target.zero(start, step)
            self.zeroed_bytes += step

    def damage(self, offset: int, length: int) -> None:
        self._damaged.add(offset, length)

    def end_window(self) -> None:
        pass

    def finish(self) -> None:
        self._target.flush()
        if self._damaged:
            raise DamagedError(self._damaged.ranges())


class _Piece(NamedTuple):
    offset: int
    length: int
    data: bytes | None
    is_damaged: bool = False


class StreamOutput:
    """Keeps the data of one window, and gives it out in order at its end.

    A reader at the other end cannot tell a gap from data. So the first damaged range ends the stream before any byte
    behind it; with `fill_damaged` zeros stand for it, and all such ranges are told at the end.
    """

    def __init__(self, target: StreamTarget, *, fill_damaged: bool, cancel: Cancel) -> None:
        self.written_bytes = self.zeroed_bytes = 0
        self._target = target
        self._fill_damaged = fill_damaged
        self._cancel = cancel
        self._pieces: list[_Piece] = []
        self._damaged = RangeList()

    def write(self, offset: int, data: bytes) -> None:
        self._pieces.append(_Piece(offset, len(data), data))

    def zero(self, offset: int, length: int) -> None:
        self._pieces.append(_Piece(offset, length, None))

    def damage(self, offset: int, length: int) -> None:
        self._pieces.append(_Piece(offset, length, None, is_damaged=True))

    def end_window(self) -> None:
        pieces, self._pieces = sorted(self._pieces, key=lambda piece: piece.offset), []
        lost = list(merge_ranges((piece.offset, piece.length) for piece in pieces if piece.is_damaged))
        for piece in pieces:
            if piece.is_damaged and not self._fill_damaged:
                raise DamagedError(lost[:1])
            self._append(piece)
        for offset, length in lost:
            self._damaged.add(offset, length)

    def finish(self) -> None:
        self._target.flush()
        if self._damaged:
            raise DamagedError(self._damaged.ranges())

    def _append(self, piece: _Piece) -> None:
        if piece.data is not None:
            self._target.append(piece.data)
            self.written_bytes += piece.length
            return
        for start in range(0, piece.length, len(_STREAM_ZEROS)):
            check_cancel(self._cancel)
            self._target.append(memoryview(_STREAM_ZEROS)[: piece.length - start])
        self.zeroed_bytes += piece.length
