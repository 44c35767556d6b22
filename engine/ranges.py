"""Byte ranges of an image, and which of them are lost when given packs or map pages are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from engine.index import resolve
from engine.relocations import Relocations, moved_places
from engine.repository import MapReader, walk_leaves

# (offset, length) in bytes of the image.
ByteRange: TypeAlias = tuple[int, int]

_UNSORTED_MAX = 4096


def merge_ranges(ranges: Iterable[ByteRange]) -> Iterator[ByteRange]:
    """Ranges that touch or overlap as one. They must come in ascending order of their offsets."""
    start = end = 0
    for offset, length in ranges:
        if offset > end:
            if end > start:
                yield start, end - start
            start = end = offset
        end = max(end, offset + length)
    if end > start:
        yield start, end - start


def gaps(start: int, end: int, covered: Iterable[ByteRange]) -> Iterator[ByteRange]:
    """What of start..end is not covered. `covered` is ascending and disjoint; it may reach over the end."""
    reached = start
    for offset, length in covered:
        if offset > reached:
            yield reached, min(offset, end) - reached
        reached = offset + length
    if reached < end:
        yield reached, end - reached


class RangeList:
    """Collects ranges in any order and keeps them merged, so that a lost disk does not fill the memory."""

    def __init__(self) -> None:
        self._merged: list[ByteRange] = []
        self._unsorted: list[ByteRange] = []

    def __bool__(self) -> bool:
        return bool(self._merged or self._unsorted)

    def add(self, offset: int, length: int) -> None:
        self._unsorted.append((offset, length))
        if len(self._unsorted) > max(_UNSORTED_MAX, len(self._merged)):
            self._merge()

    def ranges(self) -> Sequence[ByteRange]:
        """Ascending, disjoint, merged."""
        self._merge()
        return self._merged

    def _merge(self) -> None:
        self._merged = list(merge_ranges(sorted(self._merged + self._unsorted)))
        self._unsorted = []


def survey_damage(
    map_reader: MapReader, unavailable_packs: Collection[bytes], *, relocations: Sequence[Relocations] = ()
) -> Iterator[ByteRange]:
    """The ranges of the image that cannot be restored without these packs (SHA-256 each), ascending and merged.

    Reads map pages, never a pack. A page that cannot be read, or lies in one of the reader's `lost_segments`, counts
    with all that it covers. A block that a relocation found a place for in another pack is not lost. Bounded memory.
    Raises StoreError (transient) when the store is unreachable, which says nothing about damage.
    """
    yield from merge_ranges(_lost_blocks(map_reader, frozenset(unavailable_packs), relocations))


def _lost_blocks(
    map_reader: MapReader, unavailable: frozenset[bytes], relocations: Sequence[Relocations]
) -> Iterator[ByteRange]:
    body = map_reader.body
    listed = {pack.sha256: pack.size_bytes for pack in body.packs}
    for span in walk_leaves(map_reader):
        if span.entries is None:
            yield span.offset, span.length
            continue
        for slot, entry in span.entries.items():
            offset = span.offset + slot * body.block_size
            length = min(body.block_size, body.size_bytes - offset)
            if length <= 0:
                continue
            pack = resolve(entry.object_name)
            is_there = _fits(listed, pack, entry.offset + entry.record_length) and pack not in unavailable
            if entry.plain_length != length or not (
                is_there or any(place.pack not in unavailable for place in moved_places(relocations, entry))
            ):
                yield offset, length


def _fits(sizes: Mapping[bytes, int], pack: bytes, end: int) -> bool:
    return end <= sizes.get(pack, 0)
