"""Which ranges of a disk image cannot be restored when objects are lost. Pure, over the engine's map reader."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from engine.index import resolve
from engine.ranges import ByteRange, merge_ranges
from engine.relocations import Relocations, moved_places
from engine.repository import MapReader, walk_leaves


@dataclass(frozen=True, slots=True)
class Loss:
    """Ranges [offset, length] in bytes, ascending; at most as many as were asked for. The total is over all of them."""

    ranges: tuple[ByteRange, ...]
    total_bytes: int

    @classmethod
    def of(cls, ranges: Iterator[ByteRange], *, most: int) -> Loss:
        kept: list[ByteRange] = []
        total_bytes = 0
        for offset, length in ranges:
            total_bytes += length
            if len(kept) < most:
                kept.append((offset, length))
        return cls(tuple(kept), total_bytes)


def lost_ranges(
    reader: MapReader,
    *,
    packs: Collection[bytes],
    sessions: Collection[bytes],
    relocations: Sequence[Relocations] = (),
) -> Iterator[ByteRange]:
    """What lies in lost packs (SHA-256) or was sealed in sessions whose data key is lost, merged, in bounded memory.

    Lost segments are told to the reader: their pages count with all that they cover. A block is not lost while a
    relocation leads to a place where pack and session are both there. Raises StoreError (transient) for trouble.
    """
    return merge_ranges(_lost_blocks(reader, frozenset(packs), frozenset(sessions), relocations))


def _lost_blocks(
    reader: MapReader, packs: frozenset[bytes], sessions: frozenset[bytes], relocations: Sequence[Relocations]
) -> Iterator[ByteRange]:
    body = reader.body
    for span in walk_leaves(reader):
        if span.entries is None:
            yield span.offset, span.length
            continue
        for slot, entry in span.entries.items():
            moved = ((place.pack, place.entry.session_id) for place in moved_places(relocations, entry))
            places = chain([(resolve(entry.object_name), entry.session_id)], moved)
            if all(pack in packs or session in sessions for pack, session in places):
                offset = span.offset + slot * body.block_size
                yield offset, max(0, min(body.block_size, body.size_bytes - offset))
