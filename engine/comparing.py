"""What a target holds already: the blocks and holes that a differential restore need not touch.

A block is the same when the keyed hash of what is read from the target is the content id in the signed map. So this
trusts neither what an earlier restore said it wrote, nor dates of files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from engine.errors import IntegrityError
from engine.index import MapEntry
from engine.ranges import ByteRange, merge_ranges
from engine.sealing import RecordSealer
from engine.targets import ReadableTarget, SparseTarget
from engine.waiting import Background

COMPARE_THREADS = 2
_BATCHES_IN_FLIGHT = 4
_BATCH_BYTES = 1024 * 1024
_HOLE_BYTES = 64 * 1024


class _Piece(NamedTuple):
    """A range of the image that is the same or not as a whole; `entry` None for a part of a hole."""

    offset: int
    length: int
    entry: MapEntry | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What must be restored, and how many bytes need not be."""

    blocks: Mapping[int, MapEntry]
    holes: list[ByteRange]
    same_bytes: int


class Comparer:
    """Reads and hashes the target in worker threads, about 1 MiB at a time and 4 MiB at once.

    The target is not written meanwhile: `difference` returns when all its reads are done, or raises.
    """

    def __init__(self, *, target: ReadableTarget, sealer: RecordSealer, background: Background) -> None:
        self._target = target
        self._sealer = sealer
        self._background = background

    def difference(self, blocks: Mapping[int, MapEntry], holes: Iterable[ByteRange]) -> Difference:
        """`blocks` by their offset in the image. Raises what the target's reads raise."""
        differing: list[_Piece] = []
        hole_list = list(holes)
        for pieces in self._compared(self._batches(blocks, hole_list)):
            differing += pieces
        left = {piece.offset: piece.entry for piece in differing if piece.entry is not None}
        left_holes = [(piece.offset, piece.length) for piece in differing if piece.entry is None]
        all_bytes = sum(entry.plain_length for entry in blocks.values()) + sum(length for _, length in hole_list)
        same_bytes = all_bytes - sum(piece.length for piece in differing)
        return Difference(left, list(merge_ranges(left_holes)), same_bytes)

    def _compared(self, batches: Iterable[list[_Piece]]) -> Iterator[list[_Piece]]:
        running: deque[Future[list[_Piece]]] = deque()
        for batch in batches:
            if len(running) >= _BATCHES_IN_FLIGHT:
                yield self._background.result(running.popleft())
            running.append(self._background.start(partial(self._differing, batch)))
        while running:
            yield self._background.result(running.popleft())

    def _batches(self, blocks: Mapping[int, MapEntry], holes: list[ByteRange]) -> Iterator[list[_Piece]]:
        """Pieces that follow each other in the image are read together."""
        batch: list[_Piece] = []
        for piece in sorted([*_block_pieces(blocks), *self._hole_pieces(holes)], key=lambda piece: piece.offset):
            if batch and not _follows(batch, piece):
                yield batch
                batch = []
            batch.append(piece)
        if batch:
            yield batch

    def _hole_pieces(self, holes: list[ByteRange]) -> Iterator[_Piece]:
        for start, hole_length in holes:
            if isinstance(self._target, SparseTarget) and self._target.is_hole(start, hole_length):
                continue
            for offset in range(start, start + hole_length, _HOLE_BYTES):
                yield _Piece(offset, min(_HOLE_BYTES, start + hole_length - offset), None)

    def _differing(self, batch: list[_Piece]) -> list[_Piece]:
        start = batch[0].offset
        length = batch[-1].offset + batch[-1].length - start
        data = self._target.read(start, length)
        if len(data) != length:
            raise IntegrityError("the target returned another length than asked for", code="short_read")
        view = memoryview(data)
        return [
            piece
            for piece in batch
            if not self._is_same(piece, view[piece.offset - start : piece.offset - start + piece.length])
        ]

    def _is_same(self, piece: _Piece, data: memoryview) -> bool:
        if piece.entry is None:
            return data == bytes(len(data))
        return self._sealer.content_id(data) == piece.entry.content_id


def _block_pieces(blocks: Mapping[int, MapEntry]) -> Iterator[_Piece]:
    return (_Piece(offset, entry.plain_length, entry) for offset, entry in blocks.items())


def _follows(batch: list[_Piece], piece: _Piece) -> bool:
    end = batch[-1].offset + batch[-1].length
    return piece.offset == end and piece.offset + piece.length - batch[0].offset <= _BATCH_BYTES
