"""Reading what is in a vault: verified manifests and the block map behind them."""

from __future__ import annotations

from collections.abc import Collection

from engine.codec import OBJECT_SIZE_MAX
from engine.errors import EngineError, FormatError, IntegrityError
from engine.index import MapEntry, parse_page, resolve
from engine.manifest import ManifestInfo, parse_manifest
from engine.manifest import manifest_ref as ref_of_manifest
from engine.sealing import RecordType, map_sealer
from engine.store.base import ObjectKind, ObjectRef, ObjectSource, fetch_whole


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
    """Walks the block map of one manifest. Keeps one interior page per level. Not thread-safe."""

    def __init__(self, *, manifest: ManifestInfo, object_source: ObjectSource, map_key: bytes) -> None:
        if not manifest.sealed_opened:
            raise EngineError("the manifest was opened without its map key", code="internal")
        body = manifest.body
        self.body = body
        self.height = body.height
        self._root = manifest.root
        self._object_source = object_source
        self._sealer = map_sealer(RecordType.PAGE, tenant=body.tenant, domain=body.domain, map_key=map_key)
        self._segments = {entry.sha256: body.object_ref(ObjectKind.INDEX, entry) for entry in body.segments}
        self._pages: dict[int, tuple[int, dict[int, MapEntry]]] = {}

    def page_ref(self, level: int, index: int) -> MapEntry | None:
        """Where the page lies; None when all that it would cover is a hole (or outside of the image)."""
        if level > self.height:
            return None
        if level == self.height:
            return self._root if index == 0 else None
        parent = self.interior(level + 1, index // self.body.fan_out)
        return parent.get(index % self.body.fan_out)

    def interior(self, level: int, index: int) -> dict[int, MapEntry]:
        """Entries of an interior page, by slot; empty when there is none."""
        cached = self._pages.get(level)
        if cached is not None and cached[0] == index:
            return cached[1]
        entries = self._load(level, index)
        self._pages[level] = (index, entries)
        return entries

    def leaf(self, index: int) -> dict[int, MapEntry]:
        """Entries of a leaf page, by slot; empty when there is none."""
        return self._load(0, index)

    def _load(self, level: int, index: int) -> dict[int, MapEntry]:
        ref = self.page_ref(level, index)
        if ref is None:
            return {}
        segment_name = resolve(ref.object_name)
        segment = self._segments.get(segment_name)
        if segment is None or ref.offset + ref.record_length > segment.size_bytes:
            raise FormatError("a map page lies outside of the segments that the manifest lists")
        payload = self._object_source.get(segment, offset=ref.offset, length=ref.record_length)
        if len(payload) != ref.record_length:
            raise IntegrityError("the store returned another length than asked for")
        plain = self._sealer.open(ref.sealed(payload))
        return parse_page(plain, level=level, index=index, fan_out=self.body.fan_out, own_segment=segment_name)
