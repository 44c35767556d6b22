"""Pure arithmetic from byte extents to runs of blocks: which blocks to look at, and which to read.

A run is a half-open pair (first, end) of block numbers. Runs are ascending and disjoint, and everything is
streamed: a source may have millions of extents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from engine.errors import SourceError

Run: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Extent:
    offset: int
    length: int


def block_runs(extents: Iterable[Extent], *, block_size: int, size_bytes: int) -> Iterator[Run]:
    """Blocks touched by the extents. SourceError when these are not ascending, disjoint and inside."""
    reached = 0
    first = end = 0
    for extent in extents:
        if extent.length < 0 or extent.offset < reached or extent.offset + extent.length > size_bytes:
            raise SourceError("the source listed extents that overlap or lie outside", code="bad_extents")
        reached = extent.offset + extent.length
        if not extent.length:
            continue
        extent_first = extent.offset // block_size
        if extent_first > end:
            if end > first:
                yield first, end
            first = extent_first
        end = -(-reached // block_size)
    if end > first:
        yield first, end


def union(left: Iterable[Run], right: Iterable[Run]) -> Iterator[Run]:
    first = end = 0
    for run in _merge(left, right):
        if run[0] > end:
            if end > first:
                yield first, end
            first = run[0]
        end = max(end, run[1])
    if end > first:
        yield first, end


def intersect(left: Iterable[Run], right: Iterable[Run]) -> Iterator[Run]:
    left_iterator, right_iterator = iter(left), iter(right)
    one, other = next(left_iterator, None), next(right_iterator, None)
    while one is not None and other is not None:
        first, end = max(one[0], other[0]), min(one[1], other[1])
        if first < end:
            yield first, end
        if one[1] < other[1]:
            one = next(left_iterator, None)
        else:
            other = next(right_iterator, None)


class RunsByLeaf:
    """Hands out runs leaf by leaf; leaves must be asked for in ascending order, some may be left out."""

    def __init__(self, runs: Iterable[Run], *, fan_out: int) -> None:
        self._runs = iter(runs)
        self._fan_out = fan_out
        self._rest = next(self._runs, None)

    def take(self, leaf: int) -> list[Run]:
        """The parts of the runs that lie in this leaf, as slot numbers."""
        base = leaf * self._fan_out
        limit = base + self._fan_out
        found: list[Run] = []
        while self._rest is not None and self._rest[0] < limit:
            first, end = self._rest
            if end > base:
                found.append((max(first, base) - base, min(end, limit) - base))
            self._rest = (limit, end) if end > limit else next(self._runs, None)
        return found


def single_runs(slots: Iterable[int]) -> Iterator[Run]:
    """Runs of one block each; ascending when the slots are."""
    return ((slot, slot + 1) for slot in slots)


def grouped(runs: Iterable[Run], *, blocks_max: int) -> Iterator[list[Run]]:
    """The same blocks in lists of runs, each list of at most so many blocks; a longer run is cut."""
    group: list[Run] = []
    room = blocks_max
    for start, end in runs:
        first = start
        while first < end:
            cut = min(end, first + room)
            group.append((first, cut))
            room -= cut - first
            first = cut
            if not room:
                yield group
                group, room = [], blocks_max
    if group:
        yield group


def _merge(left: Iterable[Run], right: Iterable[Run]) -> Iterator[Run]:
    left_iterator, right_iterator = iter(left), iter(right)
    one, other = next(left_iterator, None), next(right_iterator, None)
    while one is not None or other is not None:
        if one is not None and (other is None or one[0] <= other[0]):
            yield one
            one = next(left_iterator, None)
        elif other is not None:
            yield other
            other = next(right_iterator, None)
