"""Going through all chunks of a stream or file tree without reading them: for repacking, and to tell damage."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from engine.errors import UnsupportedError
from engine.index import MapEntry
from engine.manifest import CONTENT_STREAM, CONTENT_TREE, ManifestInfo
from engine.store.base import ObjectSource
from engine.stream_pages import Branch
from engine.stream_reader import LostPage, PageReader, chunk_walk
from engine.tree_entries import path_of
from engine.tree_reader import TreeEntries


class AffectedRange(NamedTuple):
    """Bytes of a file, or (path None) of a stream. A length of None: a page of names is lost, and with it everything
    from this path on, up to `next_path` (None: to the end)."""

    path: bytes | None
    offset: int
    length: int | None
    next_path: bytes | None = None


class _Place(NamedTuple):
    """A chunk, or (entry None) what a lost page hides."""

    found: AffectedRange
    entry: MapEntry | None


def chunk_entries(*, manifest: ManifestInfo, object_source: ObjectSource, map_key: bytes) -> Iterator[MapEntry]:
    """The place of each chunk, as often as it is used. Lost pages are raised."""
    reader = PageReader(manifest=manifest, object_source=object_source, map_key=map_key)
    for place in _places(reader, report_lost=False):
        if place.entry is not None:
            yield place.entry


def affected_ranges(
    *, manifest: ManifestInfo, object_source: ObjectSource, map_key: bytes, unavailable_packs: Collection[bytes]
) -> Iterator[AffectedRange]:
    """What lies in these packs or below pages that cannot be read, in order; neighbours are merged. Reads no pack."""
    reader = PageReader(manifest=manifest, object_source=object_source, map_key=map_key)
    last: AffectedRange | None = None
    for found, entry in _places(reader, report_lost=True):
        if entry is not None and entry.object_name not in unavailable_packs:
            continue
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


def _places(reader: PageReader, *, report_lost: bool) -> Iterator[_Place]:
    body = reader.manifest.body
    if body.content == CONTENT_STREAM:
        yield from _chunks(reader, None, reader.manifest.root, body.size_bytes, report_lost)
        return
    if body.content != CONTENT_TREE:
        raise UnsupportedError("the backup holds neither a stream nor a file tree", code="other_content")
    for entry in TreeEntries(reader, reader.manifest.root, report_lost=report_lost).starting_at(b""):
        if isinstance(entry, LostPage):
            next_path = path_of(entry.next_key) if entry.next_key is not None else None
            yield _Place(AffectedRange(path_of(entry.key), 0, None, next_path), None)
            continue
        offset = 0
        for chunk in entry.chunks:
            start = offset + chunk.hole
            yield _Place(AffectedRange(entry.path, start, chunk.entry.plain_length), chunk.entry)
            offset += chunk.total_bytes
        yield from _chunks(reader, entry.path, entry.chunk_map, entry.size, report_lost)


def _chunks(
    reader: PageReader, path: bytes | None, root: Branch | MapEntry | None, size_bytes: int, report_lost: bool
) -> Iterator[_Place]:
    for offset, row in chunk_walk(reader, report_lost=report_lost).from_offset(root):
        if isinstance(row, LostPage):
            # What lies below the root of a stream is known from the manifest only.
            yield _Place(AffectedRange(path, offset, row.total_bytes or size_bytes), None)
        else:
            yield _Place(AffectedRange(path, offset + row.hole, row.entry.plain_length), row.entry)
