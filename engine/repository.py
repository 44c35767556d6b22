"""Reading what is in a vault: verified manifests and the block map behind them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import NamedTuple, TypeAlias

from engine.codec import OBJECT_SIZE_MAX
from engine.errors import EngineError, FormatError, IntegrityError, StoreError
from engine.index import MapEntry, parse_page, resolve
from engine.manifest import ManifestInfo, parse_manifest
from engine.manifest import manifest_ref as ref_of_manifest
from engine.sealing import RecordType, map_sealer
from engine.store.base import ObjectKind, ObjectRef, ObjectSource, fetch_whole

PageEntries: TypeAlias = dict[int, MapEntry]


def open_manifest(
    *,
    manifest_ref: ObjectRef,
    object_source: ObjectSource,
    trusted_writers: Collection[bytes],
    map_key: bytes | None = None,
) -> ManifestInfo:
    """Fetch and verify a manifest: bytes against name, signature, version, and key against content."""
    data = fetch_whole(object_source, manifest_ref, size_max=OBJECT_SIZE_MAX)
    info = parse_manifest(data, trusted_writers=trusted_writers, map_key=map_key)
    own_ref = ref_of_manifest(
        info.body, sha256=manifest_ref.sha256, size_bytes=len(data), version_id=manifest_ref.version_id
    )
    if own_ref != manifest_ref:
        raise IntegrityError("the manifest is stored under a key that is not its own")
    return info


class MapReader:
    """Walks the block map of one manifest. Keeps one interior page per level. Not thread-safe.

    Pages in `lost_segments` (SHA-256 each) are an IntegrityError without being read.
    """

    def __init__(
        self,
        *,
        manifest: ManifestInfo,
        object_source: ObjectSource,
        map_key: bytes,
        lost_segments: Collection[bytes] = (),
    ) -> None:
        if not manifest.sealed_opened:
            raise EngineError("the manifest was opened without its map key", code="internal")
        body = manifest.body
        self.body = body
        self.height = body.height
        self._root = manifest.root
        self._object_source = object_source
        self._sealer = map_sealer(RecordType.PAGE, tenant=body.tenant, domain=body.domain, map_key=map_key)
        self._segments = {entry.sha256: body.object_ref(ObjectKind.INDEX, entry) for entry in body.segments}
        self._lost_segments = frozenset(lost_segments)
        self._pages: dict[int, tuple[int, PageEntries]] = {}

    def page_ref(self, level: int, index: int) -> MapEntry | None:
        """Where the page lies; None when all that it would cover is a hole (or outside of the image)."""
        if level > self.height:
            return None
        if level == self.height:
            return self._root if index == 0 else None
        parent = self.interior(level + 1, index // self.body.fan_out)
        return parent.get(index % self.body.fan_out)

    def interior(self, level: int, index: int) -> PageEntries:
        """Entries of an interior page, by slot; empty when there is none."""
        cached = self._pages.get(level)
        if cached is not None and cached[0] == index:
            return cached[1]
        entries = self._load(level, index)
        self._pages[level] = (index, entries)
        return entries

    def leaf(self, index: int) -> PageEntries:
        """Entries of a leaf page, by slot; empty when there is none."""
        return self._load(0, index)

    def _load(self, level: int, index: int) -> PageEntries:
        ref = self.page_ref(level, index)
        if ref is None:
            return {}
        segment_name = resolve(ref.object_name)
        segment = self._segments.get(segment_name)
        if segment is None or ref.offset + ref.record_length > segment.size_bytes:
            raise FormatError("a map page lies outside of the segments that the manifest lists")
        if segment_name in self._lost_segments:
            raise IntegrityError("a map page lies in a segment that is lost")
        payload = self._object_source.get(segment, offset=ref.offset, length=ref.record_length)
        if len(payload) != ref.record_length:
            raise IntegrityError("the store returned another length than asked for")
        plain = self._sealer.open(ref.sealed(payload))
        return parse_page(plain, level=level, index=index, fan_out=self.body.fan_out, own_segment=segment_name)


class LeafSpan(NamedTuple):
    """A part of the image with the entries of its leaf page, by slot.

    `entries` None: a page above it or its own is lost, and with it the knowledge of what is here. A span longer than
    a leaf is wholly lost or wholly a hole.
    """

    offset: int
    length: int
    entries: PageEntries | None


def walk_leaves(reader: MapReader) -> Iterator[LeafSpan]:
    """The whole image, ascending and without gaps. A page that is bad when read twice is lost.

    Raises StoreError (transient) when the store is unreachable, which says nothing about the page.
    """
    body = reader.body
    leaf_bytes = body.fan_out * body.block_size
    offset = 0
    while offset < body.size_bytes:
        span = leaf_span(reader, offset // leaf_bytes)
        yield span
        offset = span.offset + span.length


def leaf_span(reader: MapReader, leaf: int) -> LeafSpan:
    """From this leaf on: its own entries, or as far as the lost or empty page above it reaches. As `walk_leaves`."""
    body = reader.body
    leaf_bytes = body.fan_out * body.block_size
    level, entries = _descend(reader, leaf)
    leaves = body.fan_out**level
    end = min((leaf // leaves + 1) * leaves * leaf_bytes, body.size_bytes)
    return LeafSpan(leaf * leaf_bytes, end - leaf * leaf_bytes, entries)


def _descend(reader: MapReader, leaf: int) -> tuple[int, PageEntries | None]:
    """From the root down to the leaf, or to the first page that is lost or empty; and the level of that page."""
    for level in range(reader.height, 0, -1):
        page = leaf // reader.body.fan_out**level
        entries = _read_twice(partial(reader.interior, level, page))
        if not entries:
            return level, entries
    return 0, _read_twice(partial(reader.leaf, leaf))


def _read_twice(read: Callable[[], PageEntries]) -> PageEntries | None:
    """None when the page cannot be read or opened on a second try either."""
    for _ in range(2):
        try:
            return read()
        except (IntegrityError, FormatError):
            continue
        except StoreError as error:
            if error.transient:
                raise
    return None
