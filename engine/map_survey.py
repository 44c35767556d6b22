"""Every record that the map of a backup names, whatever its content is. Reads maps, never a pack."""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import FormatError
from engine.index import MapEntry
from engine.manifest import CONTENT_DISK, ManifestInfo
from engine.repository import MapReader, walk_leaves
from engine.store.base import ObjectSource
from engine.stream_survey import chunk_entries


def mapped_records(*, manifest: ManifestInfo, object_source: ObjectSource, map_key: bytes) -> Iterator[MapEntry]:
    """The place of each block or chunk, as often as the map names it; equal places are equal entries (their slot is 0).

    A page that is bad when read twice is raised (IntegrityError, FormatError), and so is a content without a map that
    is known here (UnsupportedError) and trouble of the store (StoreError).
    """
    if manifest.body.content != CONTENT_DISK:
        return chunk_entries(manifest=manifest, object_source=object_source, map_key=map_key)
    return _blocks(MapReader(manifest=manifest, object_source=object_source, map_key=map_key))


def _blocks(reader: MapReader) -> Iterator[MapEntry]:
    for span in walk_leaves(reader):
        if span.entries is None:
            raise FormatError("a page of a block map cannot be read", code="map_unreadable")
        for entry in span.entries.values():
            yield entry._replace(slot=0)
