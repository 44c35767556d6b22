"""Restoring a byte stream onto a file or block device, as a disk image is: in place, resumable, only what differs.

The target is compared and written window by window; what cannot be read or verified is left as it is on the target
and reported as exact ranges. What lies behind the end of the stream reads as zeros afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from engine.comparing import COMPARE_THREADS, Comparer
from engine.errors import DamagedError, EngineError, TargetTooSmallError
from engine.fetching import RestoreKeys
from engine.index import MapEntry
from engine.manifest import CONTENT_STREAM, ManifestInfo
from engine.ranges import ByteRange, gaps, merge_ranges
from engine.relocations import Relocations
from engine.restore import RestoreProgress, RestoreResult
from engine.sealing import block_sealer
from engine.store.base import ObjectRef, ObjectSource
from engine.stream_fetch import ChunkOpener, Got, Want, fetch_in_order, open_for_restore
from engine.stream_reader import LostPage, PageReader, chunk_walk
from engine.targets import BlockTarget, ReadableTarget
from engine.waiting import Background, Cancel, check_cancel, never_cancel

_WINDOW_BYTES = 64 * 1024 * 1024
_WINDOW_CHUNKS = 4096


class _Deed(Enum):
    WRITE = auto()
    ZERO = auto()
    LOST = auto()


class _Place(NamedTuple):
    deed: _Deed
    offset: int
    length: int


@dataclass(slots=True)
class _Window:
    """A stretch of the stream that is compared as a whole: its chunks by offset, and what pages of it are lost."""

    start: int
    end: int
    chunks: dict[int, MapEntry] = field(default_factory=dict)
    lost: list[ByteRange] = field(default_factory=list)

    def holes(self) -> Iterator[ByteRange]:
        taken = [*((offset, entry.plain_length) for offset, entry in self.chunks.items()), *self.lost]
        return gaps(self.start, self.end, sorted(taken))


def restore_stream_in_place(
    *,
    manifest_ref: ObjectRef,
    object_source: ObjectSource,
    keys: RestoreKeys,
    trusted_writers: Collection[bytes],
    target: BlockTarget,
    differential: bool = False,
    relocations: Sequence[Relocations] = (),
    gone_packs: Collection[bytes] = (),
    progress: Callable[[RestoreProgress], None] | None = None,
    cancel: Cancel = never_cancel,
) -> RestoreResult:
    """Restore the whole stream. `differential` needs a ReadableTarget: what it holds already is neither fetched nor
    written; that is also how a restore that was cut goes on.

    Raises before any write: TargetTooSmallError, KeyMismatchError, EngineError (bad_option). DamagedError after all
    else was restored, StoreError (transient) when the store is unreachable, and what the target raises.
    """
    manifest = open_for_restore(
        manifest_ref=manifest_ref,
        object_source=object_source,
        keys=keys,
        trusted_writers=trusted_writers,
        content=CONTENT_STREAM,
    )
    body = manifest.body
    if target.size_bytes < body.size_bytes:
        raise TargetTooSmallError(f"the target has {target.size_bytes} bytes, the stream {body.size_bytes}")
    if differential and not isinstance(target, ReadableTarget):
        raise EngineError("a differential restore needs a target that can be read", code="bad_option")
    opener = ChunkOpener(
        body=body, object_source=object_source, keys=keys, relocations=relocations, gone_packs=gone_packs
    )
    reader = PageReader(manifest=manifest, object_source=object_source, map_key=keys.domain.map_key)
    with Background(name="compare", cancel=cancel, threads=COMPARE_THREADS) as background:
        comparer = None
        if differential and isinstance(target, ReadableTarget):
            # Only for content ids: they depend on the id key, so that any data key would do.
            domain = keys.domain
            sealer = block_sealer(tenant=body.tenant, domain=body.domain, id_key=domain.id_key, data_key=bytes(32))
            comparer = Comparer(target=target, sealer=sealer, background=background)
        restore = _InPlace(manifest, target, comparer)
        for got in fetch_in_order(restore.wants(reader), opener=opener, cancel=cancel):
            check_cancel(cancel)
            restore.take(got)
            if progress is not None:
                progress(RestoreProgress(body.size_bytes, min(restore.reached, body.size_bytes), restore.fetched_bytes))
    target.flush()
    if restore.damaged:
        raise DamagedError(list(merge_ranges(restore.damaged)))
    return restore.result()


class _InPlace:
    def __init__(self, manifest: ManifestInfo, target: BlockTarget, comparer: Comparer | None) -> None:
        self._manifest = manifest
        self._target = target
        self._comparer = comparer
        self._written_bytes = self._zeroed_bytes = self._same_bytes = 0
        self.fetched_bytes = self.reached = 0
        self.damaged: list[ByteRange] = []

    def wants(self, reader: PageReader) -> Iterator[Want[_Place]]:
        """What is to be done, in order. The target is read here, by the thread that writes, so never meanwhile."""
        for window in self._windows(reader):
            chunks, holes = window.chunks, list(window.holes())
            if self._comparer is not None:
                difference = self._comparer.difference(chunks, holes)
                chunks, holes = dict(difference.blocks), difference.holes
                self._same_bytes += difference.same_bytes
            wanted = [Want(_Place(_Deed.WRITE, offset, entry.plain_length), entry) for offset, entry in chunks.items()]
            wanted += [Want(_Place(_Deed.ZERO, *found), None) for found in holes]
            wanted += [Want(_Place(_Deed.LOST, *found), None) for found in window.lost]
            yield from sorted(wanted, key=lambda want: want.tag.offset)

    def take(self, got: Got[_Place]) -> None:
        deed, offset, length = got.tag
        self.reached = offset + length
        if deed is _Deed.ZERO:
            self._target.zero(offset, length)
            self._zeroed_bytes += length
        elif got.data is None:
            self.damaged.append((offset, length))
        else:
            self._target.write(offset, got.data)
            self._written_bytes += length
            self.fetched_bytes += length

    def result(self) -> RestoreResult:
        return RestoreResult(
            self._manifest, self._written_bytes, self._zeroed_bytes, self.fetched_bytes, self._same_bytes
        )

    def _windows(self, reader: PageReader) -> Iterator[_Window]:
        window = _Window(0, 0)
        for offset, length, entry in _chunks(reader, self._manifest):
            if entry is None:
                window.lost.append((offset, length))
            else:
                window.chunks[offset] = entry
            window.end = offset + length
            if window.end - window.start >= _WINDOW_BYTES or len(window.chunks) >= _WINDOW_CHUNKS:
                yield window
                window = _Window(window.end, window.end)
        # The hole at the end of the stream, and what the target has behind it.
        for end in _steps(window.end, self._target.size_bytes):
            window.end = end
            yield window
            window = _Window(end, end)


def _steps(start: int, end: int) -> Iterable[int]:
    return [*range(start + _WINDOW_BYTES, end, _WINDOW_BYTES), end]


def _chunks(reader: PageReader, manifest: ManifestInfo) -> Iterator[tuple[int, int, MapEntry | None]]:
    """(offset, length, entry) of each chunk; entry None for what a lost page hides."""
    for offset, row in chunk_walk(reader, report_lost=True).from_offset(manifest.root):
        if isinstance(row, LostPage):
            # The size below the root page is known from the manifest only.
            yield offset, row.total_bytes or manifest.body.size_bytes, None
        else:
            yield offset + row.hole, row.entry.plain_length, row.entry
