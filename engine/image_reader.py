"""Reading the image of one backup at any place, without restoring it: map pages and blocks are fetched when needed.

What is given has passed authentication, as in a restore. Memory is bounded by the caches and by the reads under way.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence

from engine.errors import DamagedError
from engine.fetching import BlockPlace, Fetcher, Locator, RestoreKeys, plan_fetches, session_sealers
from engine.index import MapEntry
from engine.relocations import Relocations
from engine.repository import LeafSpan, MapReader, leaf_span, open_manifest
from engine.store.base import ObjectRef, ObjectSource

_CACHE_BYTES = 64 * 1024 * 1024
# Some hundred kilobytes each, for 64 MiB of the image with the default sizes.
_CACHED_LEAVES = 32


class ImageReader:
    """Thread-safe. Raises in `read` DamagedError for what cannot be had or is not what was backed up, and StoreError
    (transient) when the store is unreachable; such a read can be tried again.
    """

    def __init__(
        self,
        *,
        manifest_ref: ObjectRef,
        object_source: ObjectSource,
        keys: RestoreKeys,
        trusted_writers: Collection[bytes],
        relocations: Sequence[Relocations] = (),
        gone_packs: Collection[bytes] = (),
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        manifest = open_manifest(
            manifest_ref=manifest_ref,
            object_source=object_source,
            trusted_writers=trusted_writers,
            map_key=keys.domain.map_key,
        )
        self._body = manifest.body
        self._map = MapReader(manifest=manifest, object_source=object_source, map_key=keys.domain.map_key)
        sealers = session_sealers(self._body, keys, relocations)
        self._locator = Locator(body=self._body, sealers=sealers, relocations=relocations, gone_packs=gone_packs)
        self._fetcher = Fetcher(object_source=object_source, sealers=sealers, locator=self._locator)
        self._map_lock, self._cache_lock = threading.Lock(), threading.Lock()
        self._spans: OrderedDict[int, LeafSpan] = OrderedDict()
        self._blocks: OrderedDict[bytes, bytes] = OrderedDict()
        self._cached_bytes, self._cache_bytes = 0, cache_bytes

    @property
    def size_bytes(self) -> int:
        return self._body.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes of the image. ValueError for what lies outside of it."""
        self._check_inside(offset, length)
        found, end = bytearray(length), offset + length
        for start, plain in self._blocks_of(self._entries(offset, end)):
            first, last = max(start, offset), min(start + len(plain), end)
            found[first - offset : last - offset] = plain[first - start : last - start]
        return bytes(found)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """(bytes, whether a hole) from `offset` on, without gaps, ending where the range does. Holes read as zeros."""
        self._check_inside(offset, length)
        end, block_size = offset + length, self._body.block_size
        while offset < end:
            span = self._span(offset)
            if not span.entries:
                step, is_hole = span.offset + span.length, span.entries is not None
            else:
                step = (offset // block_size + 1) * block_size
                is_hole = (offset - span.offset) // block_size not in span.entries
            yield min(step, end) - offset, is_hole
            offset = min(step, end)

    def _check_inside(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ValueError("outside of the image")

    def _entries(self, offset: int, end: int) -> dict[int, MapEntry]:
        """Entries of the blocks that the range touches, by their offset in the image."""
        found, block_size = {}, self._body.block_size
        start = offset - offset % block_size
        while start < end:
            span = self._span(start)
            if span.entries is None:
                raise DamagedError([(max(start, offset), min(span.offset + span.length, end) - max(start, offset))])
            entry = span.entries.get((start - span.offset) // block_size)
            if entry is not None:
                found[start] = entry
            start = start + block_size if span.entries else span.offset + span.length
        return found

    def _span(self, offset: int) -> LeafSpan:
        leaf = offset // (self._body.fan_out * self._body.block_size)
        with self._map_lock:
            span = self._spans.pop(leaf, None)
            if span is None:
                span = leaf_span(self._map, leaf)
            if span.entries is not None:  # a lost page is tried again when it is asked for again
                self._spans[leaf] = span
            if len(self._spans) > _CACHED_LEAVES:
                self._spans.popitem(last=False)
        return span

    def _blocks_of(self, entries: Mapping[int, MapEntry]) -> Iterator[tuple[int, bytes]]:
        missing = {}
        for start, entry in entries.items():
            self._check_length(start, entry)
            plain = self._cached(entry)
            if plain is None:
                missing[start] = entry
            else:
                yield start, plain
        for fetch in plan_fetches(self._places(missing)):
            fetched = self._fetcher.run(fetch)
            if fetched.damaged:
                raise DamagedError(fetched.damaged)
            for start, plain in fetched.blocks:
                self._keep(missing[start], plain)
                yield start, plain

    def _check_length(self, start: int, entry: MapEntry) -> None:
        length = min(self._body.block_size, self.size_bytes - start)
        if entry.plain_length != length:
            raise DamagedError([(start, length)])

    def _places(self, entries: Mapping[int, MapEntry]) -> Iterator[BlockPlace]:
        for start, entry in entries.items():
            location = next(self._locator.locations(entry), None)
            if location is None:
                raise DamagedError([(start, entry.plain_length)])
            yield BlockPlace(start, entry, location)

    def _cached(self, entry: MapEntry) -> bytes | None:
        with self._cache_lock:
            plain = self._blocks.get(entry.content_id)
            if plain is not None:
                self._blocks.move_to_end(entry.content_id)
            return plain

    def _keep(self, entry: MapEntry, plain: bytes) -> None:
        with self._cache_lock:
            if entry.content_id not in self._blocks:
                self._blocks[entry.content_id] = plain
                self._cached_bytes += len(plain)
            while self._cached_bytes > self._cache_bytes:
                _, dropped = self._blocks.popitem(last=False)
                self._cached_bytes -= len(dropped)
