"""What of a backup cannot be restored when objects are lost: ranges of a disk image or stream, files of a tree.

Pure, over the engine's readers. Lists are cut to a bounded size, the totals are over everything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from engine.index import MapEntry, resolve
from engine.ranges import ByteRange, merge_ranges
from engine.relocations import Relocations, moved_places
from engine.repository import MapReader, walk_leaves
from engine.stream_survey import AffectedRange

# Of each file.
_RANGES_OF_A_FILE = 10
# Paths may have 64 KiB each.
LISTED_PATH_BYTES = 256 * 1024


@dataclass(slots=True)
class LostFile:
    """A file with its first lost ranges; or (`is_page`) a lost page of names: everything from `path` on, before
    `next_path` (None: to the end), is unknown."""

    path: bytes
    lost_bytes: int
    ranges: list[ByteRange]
    is_page: bool = False
    next_path: bytes | None = None

    def as_json(self) -> dict[str, Any]:
        """As it is kept in the catalogue and answered by the API."""
        return {
            "kind": "names" if self.is_page else "file",
            "path": path_text(self.path),
            "next_path": None if self.next_path is None else path_text(self.next_path),
            "lost_bytes": self.lost_bytes,
            "ranges": [list(found) for found in self.ranges],
        }


@dataclass(frozen=True, slots=True)
class Loss:
    """Ranges [offset, length] in bytes of a disk or stream, or files of a tree; ascending, at most as many as were
    asked for. The total is over all of them. Without any place there is no loss, whatever the total."""

    ranges: tuple[ByteRange, ...] = ()
    total_bytes: int = 0
    files: tuple[LostFile, ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[ByteRange], *, most: int) -> Loss:
        kept: list[ByteRange] = []
        total_bytes = 0
        for offset, length in ranges:
            total_bytes += length
            if len(kept) < most:
                kept.append((offset, length))
        return cls(tuple(kept), total_bytes)

    @classmethod
    def of_chunks(cls, found: Iterable[AffectedRange], *, most: int) -> Loss:
        """`found` as engine.stream_survey tells it: ranges of one file follow each other."""
        ranges: list[ByteRange] = []
        files: list[LostFile] = []
        total_bytes = path_bytes = 0
        last: LostFile | None = None
        for place in found:
            total_bytes += place.lost_bytes
            if place.path is None:
                ranges += [(place.offset, place.lost_bytes)] if len(ranges) < most else []
                continue
            if last is None or last.path != place.path or last.is_page or place.length is None:
                last = LostFile(place.path, 0, [], is_page=place.length is None, next_path=place.next_path)
                path_bytes += len(place.path) + len(place.next_path or b"")
                files += [last] if len(files) < most and (not files or path_bytes <= LISTED_PATH_BYTES) else []
            last.lost_bytes += place.lost_bytes
            if place.length is not None and len(last.ranges) < _RANGES_OF_A_FILE:
                last.ranges.append((place.offset, place.length))
        return cls(tuple(ranges), total_bytes, tuple(files))

    @property
    def is_empty(self) -> bool:
        return not self.ranges and not self.files

    def as_json(self) -> list[Any]:
        return [*(list(found) for found in self.ranges), *(file.as_json() for file in self.files)]


def path_text(path: bytes) -> str:
    """A path as text that any database and JSON can hold: what is no UTF-8 becomes \\xNN."""
    return path.decode("utf-8", "backslashreplace")


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
    return merge_ranges(_lost_blocks(reader, loss_of_entries(packs, sessions, relocations)))


def loss_of_entries(
    packs: Collection[bytes], sessions: Collection[bytes], relocations: Sequence[Relocations]
) -> Callable[[MapEntry], bool]:
    """Whether a block or chunk can be had nowhere."""
    lost_packs, lost_sessions = frozenset(packs), frozenset(sessions)

    def is_lost(entry: MapEntry) -> bool:
        moved = ((place.pack, place.entry.session_id) for place in moved_places(relocations, entry))
        places = chain([(resolve(entry.object_name), entry.session_id)], moved)
        return all(pack in lost_packs or session in lost_sessions for pack, session in places)

    return is_lost


def _lost_blocks(reader: MapReader, is_lost: Callable[[MapEntry], bool]) -> Iterator[ByteRange]:
    body = reader.body
    for span in walk_leaves(reader):
        if span.entries is None:
            yield span.offset, span.length
            continue
        for slot, entry in span.entries.items():
            if is_lost(entry):
                offset = span.offset + slot * body.block_size
                yield offset, max(0, min(body.block_size, body.size_bytes - offset))
