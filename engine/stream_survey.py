"""Going through all chunks of a stream or file tree without reading them: for repacking, and to tell damage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple, TypeAlias

from engine.errors import UnsupportedError
from engine.index import MapEntry
from engine.manifest import CONTENT_STREAM, CONTENT_TREE, ManifestInfo
from engine.store.base import ObjectSource
from engine.stream_pages import Branch
from engine.stream_reader import LostPage, PageReader, chunk_walk
from engine.tree_entries import path_of
from engine.tree_reader import TreeEntries

IsLost: TypeAlias = Callable[[MapEntry], bool]


class AffectedRange(NamedTuple):
    """Bytes of a file, or (path None) of a stream. A length of None: a page of names is lost, and with it everything
    from this path on, up to `next_path` (None: to the end); all those files together have `hidden_bytes`."""

    path: bytes | None
    offset: int
    length: int | None
    next_path: bytes | None = None
    hidden_bytes: int = 0

    @property
    def lost_bytes(self) -> int:
        return self.hidden_bytes if self.length is None else self.length


class ChunkPlace(NamedTuple):
    """A chunk, or (entry None) what a lost page hides; then `lost_segment` is the segment in which it should lie."""

    found: AffectedRange
    entry: MapEntry | None
    lost_segment: bytes | None = None


def chunk_entries(*, manifest: ManifestInfo, object_source: ObjectSource, map_key: bytes) -> Iterator[MapEntry]:
    """The place of each chunk, as often as it is used. Lost pages are raised."""
    reader = PageReader(manifest=manifest, object_source=object_source, map_key=map_key)
    for place in chunk_places(reader, report_lost=False):
        if place.entry is not None:
            yield place.entry


def affected_ranges(
    *,
    manifest: ManifestInfo,
    object_source: ObjectSource,
    map_key: bytes,
    unavailable_packs: Collection[bytes] = (),
    lost_segments: Collection[bytes] = (),
    is_lost: IsLost | None = None,
) -> Iterator[AffectedRange]:
    """What lies in these packs or below pages that cannot be read, in order; neighbours are merged. Reads no pack.

    `is_lost` decides in place of `unavailable_packs` where other things than the pack count. Pages in `lost_segments`
    (SHA-256 each) are not even tried.
    """
    reader = PageReader(manifest=manifest, object_source=object_source, map_key=map_key, lost_segments=lost_segments)
    decide = is_lost or (lambda entry: entry.object_name in unavailable_packs)
    places = chunk_places(reader, report_lost=True)
    return merged_ranges(place.found for place in places if place.entry is None or decide(place.entry))


def merged_ranges(ranges: Iterable[AffectedRange]) -> Iterator[AffectedRange]:
    """The same ranges; those that touch become one."""
    last: AffectedRange | None = None
    for found in ranges:
        if last is not None and _touch(last, found):
            last = last._replace(length=found.offset + (found.length or 0) - last.offset)
            continue
        if last is not None:
            yield last
        last = found
    if last is not None:
        yield last


def _touch(last: AffectedRange, found: AffectedRange) -> bool:
    is_known = last.length is not None and found.length is not None
    return is_known and last.path == found.path and last.offset + (last.length or 0) == found.offset


def chunk_places(reader: PageReader, *, report_lost: bool) -> Iterator[ChunkPlace]:
    """All chunks in the order of a restore. Lost pages are among them with `report_lost`, otherwise raised."""
    body = reader.manifest.body
    if body.content == CONTENT_STREAM:
        yield from _chunks(reader, None, reader.manifest.root, body.size_bytes, report_lost)
        return
    if body.content != CONTENT_TREE:
        raise UnsupportedError("the backup holds neither a stream nor a file tree", code="other_content")
    for entry in TreeEntries(reader, reader.manifest.root, report_lost=report_lost).starting_at(b""):
        if isinstance(entry, LostPage):
            yield _lost_names(entry, body.size_bytes)
            continue
        offset = 0
        for chunk in entry.chunks:
            start = offset + chunk.hole
            yield ChunkPlace(AffectedRange(entry.path, start, chunk.entry.plain_length), chunk.entry)
            offset += chunk.total_bytes
        yield from _chunks(reader, entry.path, entry.chunk_map, entry.size, report_lost)


def _lost_names(page: LostPage, size_bytes: int) -> ChunkPlace:
    """What lies below the root of a tree is known from the manifest only."""
    next_path = path_of(page.next_key) if page.next_key is not None else None
    hidden_bytes = page.total_bytes if page.leaf_count else size_bytes
    return ChunkPlace(AffectedRange(path_of(page.key), 0, None, next_path, hidden_bytes), None, page.segment)


def _chunks(
    reader: PageReader, path: bytes | None, root: Branch | MapEntry | None, size_bytes: int, report_lost: bool
) -> Iterator[ChunkPlace]:
    for offset, row in chunk_walk(reader, report_lost=report_lost).from_offset(root):
        if isinstance(row, LostPage):
            # What lies below the root of a stream is known from the manifest only.
            yield ChunkPlace(AffectedRange(path, offset, row.total_bytes or size_bytes), None, row.segment)
        else:
            yield ChunkPlace(AffectedRange(path, offset + row.hole, row.entry.plain_length), row.entry)
