"""Restoring one disk image: every block is verified before it is written, the rest of the target is zeroed.

Records of one pack that lie close together are fetched with one ranged read, a few reads at a time. Reads and
verification run in worker threads, writes to the target only in the caller's. What cannot be read or verified
(after a second try) is left untouched on the target and reported as exact ranges in DamagedError.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from engine.crypto import DomainKeys, check_commitment
from engine.errors import (
    DamagedError,
    FormatError,
    IntegrityError,
    KeyMismatchError,
    StoreError,
    TargetTooSmallError,
)
from engine.index import MapEntry, resolve
from engine.manifest import ManifestBody, ManifestInfo
from engine.repository import MapReader, open_manifest
from engine.sealing import RecordSealer, block_sealer
from engine.store.base import ObjectKind, ObjectRef, ObjectSource
from engine.waiting import Cancel, check_cancel, never_cancel, result_of

_FETCHES_IN_FLIGHT = 3
_FETCH_BYTES_MAX = 4 * 1024 * 1024
_GAP_BYTES_MAX = 64 * 1024
_ZERO_BYTES_MAX = 64 * 1024 * 1024


class BlockTarget(Protocol):
    """Written by one thread only."""

    size_bytes: int

    def write(self, offset: int, data: bytes) -> None: ...

    def zero(self, offset: int, length: int) -> None: ...

    def flush(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RestoreKeys:
    domain: DomainKeys
    data_keys: Mapping[bytes, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RestoreProgress:
    size_bytes: int
    done_bytes: int
    fetched_bytes: int


@dataclass(frozen=True, slots=True)
class RestoreResult:
    manifest: ManifestInfo
    written_bytes: int
    zeroed_bytes: int
    fetched_bytes: int


@dataclass(frozen=True, slots=True)
class _Fetch:
    """One ranged read: records of one pack, ascending by offset, each with its place in the image."""

    pack: ObjectRef
    offset: int
    length: int
    places: tuple[tuple[int, MapEntry], ...]


@dataclass(slots=True)
class _Fetched:
    fetched_bytes: int = 0
    blocks: list[tuple[int, bytes]] = field(default_factory=list)
    damaged: list[tuple[int, int]] = field(default_factory=list)


ProgressReport: TypeAlias = Callable[[RestoreProgress], None]


def restore_disk(
    *,
    manifest_ref: ObjectRef,
    object_source: ObjectSource,
    keys: RestoreKeys,
    trusted_writers: Collection[bytes],
    target: BlockTarget,
    progress: ProgressReport | None = None,
    cancel: Cancel = never_cancel,
) -> RestoreResult:
    """Restore the whole image. Everything is checked that can be before the first write.

    May be called again on the same target. Raises TargetTooSmallError and KeyMismatchError before any write,
    DamagedError after everything else was restored, StoreError (transient) when the store is unreachable.
    """
    manifest = open_manifest(
        manifest_ref=manifest_ref,
        object_source=object_source,
        trusted_writers=trusted_writers,
        map_key=keys.domain.map_key,
    )
    if target.size_bytes < manifest.body.size_bytes:
        raise TargetTooSmallError(f"the target has {target.size_bytes} bytes, the image {manifest.body.size_bytes}")
    sealers = _session_sealers(manifest.body, keys)
    restore = _Restore(
        manifest=manifest,
        map_reader=MapReader(manifest=manifest, object_source=object_source, map_key=keys.domain.map_key),
        fetcher=_Fetcher(object_source, sealers),
        target=target,
        progress=progress,
        cancel=cancel,
    )
    return restore.run()


def _session_sealers(body: ManifestBody, keys: RestoreKeys) -> dict[bytes, RecordSealer]:
    sealers: dict[bytes, RecordSealer] = {}
    for session in body.sessions:
        if not session.use_count:
            continue
        data_key = keys.data_keys.get(session.session_id)
        if data_key is None:
            raise KeyMismatchError(f"the data key of session {session.session_id.hex()} is missing", code="missing_key")
        check_commitment(data_key, session.commitment)
        sealers[session.session_id] = block_sealer(
            tenant=body.tenant, domain=body.domain, id_key=keys.domain.id_key, data_key=data_key
        )
    return sealers


class _Fetcher:
    """Reads and opens records. Thread-safe."""

    def __init__(self, object_source: ObjectSource, sealers: Mapping[bytes, RecordSealer]) -> None:
        self._object_source = object_source
        self._sealers = sealers

    def run(self, fetch: _Fetch) -> _Fetched:
        """All records of one read; when the read as a whole fails for good, each on its own."""
        result = _Fetched()
        try:
            data = self._get(fetch.pack, fetch.offset, fetch.length)
        except (StoreError, IntegrityError) as error:
            if isinstance(error, StoreError) and error.transient:
                raise
            data = None
        result.fetched_bytes = len(data) if data is not None else 0
        for image_offset, entry in fetch.places:
            start = entry.offset - fetch.offset
            payload = data[start : start + entry.record_length] if data is not None else None
            plain = self._open_or_read_again(fetch.pack, entry, payload)
            if plain is None:
                result.damaged.append((image_offset, entry.plain_length))
            else:
                result.blocks.append((image_offset, plain))
        return result

    def _open_or_read_again(self, pack: ObjectRef, entry: MapEntry, payload: bytes | None) -> bytes | None:
        """A first bad read is not yet damage: read the record once more before saying so."""
        plain = self._open(entry, payload) if payload is not None else None
        if plain is not None:
            return plain
        try:
            return self._open(entry, self._get(pack, entry.offset, entry.record_length))
        except IntegrityError:
            return None
        except StoreError as error:
            if error.transient:
                raise
            return None

    def _open(self, entry: MapEntry, payload: bytes) -> bytes | None:
        sealer = self._sealers.get(entry.session_id)
        if sealer is None:
            return None
        try:
            return sealer.open(entry.sealed(payload))
        except (IntegrityError, FormatError):
            return None

    def _get(self, pack: ObjectRef, offset: int, length: int) -> bytes:
        data = self._object_source.get(pack, offset=offset, length=length)
        if len(data) != length:
            raise IntegrityError("the store returned another length than asked for")
        return data


class _Restore:
    def __init__(
        self,
        *,
        manifest: ManifestInfo,
        map_reader: MapReader,
        fetcher: _Fetcher,
        target: BlockTarget,
        progress: ProgressReport | None,
        cancel: Cancel,
    ) -> None:
        self._manifest = manifest
        self._body = manifest.body
        self._map = map_reader
        self._fetcher = fetcher
        self._target = target
        self._progress = progress
        self._cancel = cancel
        body = manifest.body
        self._packs = {entry.sha256: body.object_ref(ObjectKind.PACK, entry) for entry in body.packs}
        self._leaf_bytes = body.fan_out * body.block_size
        self._damaged: list[tuple[int, int]] = []
        self._running: deque[Future[_Fetched]] = deque()
        self._written_bytes = self._zeroed_bytes = self._fetched_bytes = 0

    def run(self) -> RestoreResult:
        executor = ThreadPoolExecutor(_FETCHES_IN_FLIGHT, thread_name_prefix="fetch")
        try:
            for leaf in range(-(-self._body.size_bytes // self._leaf_bytes)):
                self._restore_leaf(executor, leaf)
            self._settle(0)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
        self._zero(self._body.size_bytes, self._target.size_bytes)
        self._target.flush()
        self._report(self._body.size_bytes)
        if self._damaged:
            raise DamagedError(_merged(sorted(self._damaged)))
        return RestoreResult(self._manifest, self._written_bytes, self._zeroed_bytes, self._fetched_bytes)

    def _restore_leaf(self, executor: ThreadPoolExecutor, leaf: int) -> None:
        check_cancel(self._cancel)
        start = leaf * self._leaf_bytes
        end = min(start + self._leaf_bytes, self._body.size_bytes)
        try:
            entries = self._map.leaf(leaf)
        except (IntegrityError, FormatError, StoreError) as error:
            if isinstance(error, StoreError) and error.transient:
                raise
            # The page is lost, and with it the knowledge of what was here.
            self._damaged.append((start, end - start))
            return
        self._zero_gaps(start, end, entries)
        for fetch in _plan_fetches(self._known_places(start, entries), self._packs):
            check_cancel(self._cancel)
            self._settle(_FETCHES_IN_FLIGHT)
            self._running.append(executor.submit(self._fetcher.run, fetch))
        self._report(start)

    def _known_places(self, start: int, entries: Mapping[int, MapEntry]) -> Iterator[tuple[int, MapEntry]]:
        """Entries that fit the image and the manifest; the others are damage."""
        for slot, entry in entries.items():
            offset = start + slot * self._body.block_size
            expected = max(0, min(self._body.block_size, self._body.size_bytes - offset))
            pack = self._packs.get(resolve(entry.object_name))
            fits_pack = pack is not None and entry.offset + entry.record_length <= pack.size_bytes
            if fits_pack and entry.plain_length == expected:
                yield offset, entry
            elif expected:
                self._damaged.append((offset, expected))

    def _zero_gaps(self, start: int, end: int, entries: Mapping[int, MapEntry]) -> None:
        reached = start
        for slot in entries:
            offset = min(start + slot * self._body.block_size, end)
            self._zero(reached, offset)
            reached = offset + self._body.block_size
        self._zero(reached, end)

    def _zero(self, start: int, end: int) -> None:
        for offset in range(start, end, _ZERO_BYTES_MAX):
            check_cancel(self._cancel)
            length = min(_ZERO_BYTES_MAX, end - offset)
            self._target.zero(offset, length)
            self._zeroed_bytes += length

    def _settle(self, left: int) -> None:
        """Write what was fetched, in order, until at most `left` reads are on their way."""
        while len(self._running) > left:
            fetched = result_of(self._running[0], self._cancel)
            self._running.popleft()
            self._fetched_bytes += fetched.fetched_bytes
            self._damaged += fetched.damaged
            for offset, data in fetched.blocks:
                self._target.write(offset, data)
                self._written_bytes += len(data)

    def _report(self, done_bytes: int) -> None:
        if self._progress is not None:
            self._progress(RestoreProgress(self._body.size_bytes, done_bytes, self._fetched_bytes))


def _plan_fetches(places: Iterable[tuple[int, MapEntry]], packs: Mapping[bytes, ObjectRef]) -> Iterator[_Fetch]:
    """Group records by pack and closeness, within the limits for one read (stored and plain bytes)."""
    ordered = sorted(places, key=lambda place: (resolve(place[1].object_name), place[1].offset, place[0]))
    group: list[tuple[int, MapEntry]] = []
    plain_bytes = 0
    for place in ordered:
        if group and not _fits(group, place[1], plain_bytes):
            yield _fetch_of(group, packs)
            group, plain_bytes = [], 0
        group.append(place)
        plain_bytes += place[1].plain_length
    if group:
        yield _fetch_of(group, packs)


def _fits(group: list[tuple[int, MapEntry]], entry: MapEntry, plain_bytes: int) -> bool:
    first, last = group[0][1], group[-1][1]
    if entry.object_name != first.object_name or plain_bytes + entry.plain_length > _FETCH_BYTES_MAX:
        return False
    end = entry.offset + entry.record_length
    is_close = entry.offset - (last.offset + last.record_length) <= _GAP_BYTES_MAX
    return is_close and end - first.offset <= _FETCH_BYTES_MAX


def _fetch_of(group: list[tuple[int, MapEntry]], packs: Mapping[bytes, ObjectRef]) -> _Fetch:
    first = group[0][1]
    end = max(entry.offset + entry.record_length for _, entry in group)
    return _Fetch(packs[resolve(first.object_name)], first.offset, end - first.offset, tuple(group))


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for offset, length in ranges:
        if merged and offset <= merged[-1][0] + merged[-1][1]:
            start = merged[-1][0]
            merged[-1] = (start, max(merged[-1][1], offset + length - start))
        else:
            merged.append((offset, length))
    return merged
