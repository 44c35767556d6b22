"""Restoring one disk image: every block is verified before it is written, the rest of the target is zeroed.

The image is walked in windows. Reads from the vault and verification run in worker threads, writes only in the
caller's. What cannot be read or verified anywhere is left untouched on the target and reported as exact ranges in
DamagedError. A differential restore reads the target first and leaves what is right already: that is also how a
restore that was cut goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from engine.comparing import COMPARE_THREADS, Comparer
from engine.crypto import DomainKeys
from engine.errors import EngineError, TargetTooSmallError
from engine.fetching import BlockPlace, Fetched, Fetcher, Locator, RestoreKeys, plan_fetches, session_sealers
from engine.index import MapEntry
from engine.manifest import ManifestBody, ManifestInfo
from engine.outputs import BlockOutput, Output, StreamOutput
from engine.ranges import ByteRange, gaps
from engine.relocations import Relocations
from engine.repository import LeafSpan, MapReader, open_manifest, walk_leaves
from engine.sealing import block_sealer
from engine.store.base import ObjectRef, ObjectSource
from engine.targets import BlockTarget, ReadableTarget, StreamTarget
from engine.waiting import Background, Cancel, check_cancel, never_cancel

__all__ = [
    "BlockTarget",
    "ReadableTarget",
    "RestoreKeys",
    "RestoreProgress",
    "RestoreResult",
    "StreamTarget",
    "restore_disk",
]

_FETCHES_IN_FLIGHT = 3
# What a stream keeps back to put it into order; also the step in which the image is walked.
_WINDOW_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RestoreProgress:
    size_bytes: int
    done_bytes: int
    fetched_bytes: int


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """Written, zeroed and same bytes together are the target's size (a stream's: the image's)."""

    manifest: ManifestInfo
    written_bytes: int
    zeroed_bytes: int
    fetched_bytes: int
    same_bytes: int = 0


ProgressReport: TypeAlias = Callable[[RestoreProgress], None]


def restore_disk(
    *,
    manifest_ref: ObjectRef,
    object_source: ObjectSource,
    keys: RestoreKeys,
    trusted_writers: Collection[bytes],
    target: BlockTarget | StreamTarget,
    differential: bool = False,
    fill_damaged: bool = False,
    relocations: Sequence[Relocations] = (),
    gone_packs: Collection[bytes] = (),
    progress: ProgressReport | None = None,
    cancel: Cancel = never_cancel,
) -> RestoreResult:
    """Restore the whole image. Everything is checked that can be before the first write.

    `differential` needs a ReadableTarget: what it holds already is neither fetched nor written. `relocations` say
    where a block is that cannot be had from its own pack; packs in `gone_packs` (SHA-256 each) are not even tried.
    `fill_damaged` is for streams only: zeros stand for what is damaged.

    May be called again on the same target. Raises before any write: TargetTooSmallError, KeyMismatchError, and
    EngineError (bad_option) for a target that cannot do what is asked. Raises DamagedError after everything else was
    restored; for a stream without `fill_damaged`, right before the first damaged byte, with the range found there.
    Raises StoreError (transient) when the store is unreachable, and what the target raises.
    """
    manifest = open_manifest(
        manifest_ref=manifest_ref,
        object_source=object_source,
        trusted_writers=trusted_writers,
        map_key=keys.domain.map_key,
    )
    body = manifest.body
    if not isinstance(target, StreamTarget) and target.size_bytes < body.size_bytes:
        raise TargetTooSmallError(f"the target has {target.size_bytes} bytes, the image {body.size_bytes}")
    map_reader = MapReader(manifest=manifest, object_source=object_source, map_key=keys.domain.map_key)
    sealers = session_sealers(body, keys, relocations)
    locator = Locator(body=body, sealers=sealers, relocations=relocations, gone_packs=gone_packs)
    with (
        Background(name="fetch", cancel=cancel, threads=_FETCHES_IN_FLIGHT) as fetching,
        Background(name="compare", cancel=cancel, threads=COMPARE_THREADS) as comparing,
    ):
        restore = _Restore(
            manifest=manifest,
            map_reader=map_reader,
            locator=locator,
            fetcher=Fetcher(object_source=object_source, sealers=sealers, locator=locator),
            fetching=fetching,
            output=_output_for(target, fill_damaged=fill_damaged, cancel=cancel),
            comparer=_comparer(target, body, keys.domain, comparing) if differential else None,
            target_size_bytes=body.size_bytes if isinstance(target, StreamTarget) else target.size_bytes,
            progress=progress,
            cancel=cancel,
        )
        return restore.run()


def _output_for(target: BlockTarget | StreamTarget, *, fill_damaged: bool, cancel: Cancel) -> Output:
    if isinstance(target, StreamTarget):
        return StreamOutput(target, fill_damaged=fill_damaged, cancel=cancel)
    if fill_damaged:
        raise EngineError("only a stream may get zeros for what is damaged", code="bad_option")
    return BlockOutput(target, cancel=cancel)


def _comparer(
    target: BlockTarget | StreamTarget, body: ManifestBody, keys: DomainKeys, background: Background
) -> Comparer:
    if not isinstance(target, ReadableTarget):
        raise EngineError("a differential restore needs a target that can be read", code="bad_option")
    # Only for content ids: they depend on the id key, so that any data key would do.
    sealer = block_sealer(tenant=body.tenant, domain=body.domain, id_key=keys.id_key, data_key=bytes(32))
    return Comparer(target=target, sealer=sealer, background=background)


class _Restore:
    def __init__(
        self,
        *,
        manifest: ManifestInfo,
        map_reader: MapReader,
        locator: Locator,
        fetcher: Fetcher,
        fetching: Background,
        output: Output,
        comparer: Comparer | None,
        target_size_bytes: int,
        progress: ProgressReport | None,
        cancel: Cancel,
    ) -> None:
        self._manifest = manifest
        self._body = manifest.body
        self._map = map_reader
        self._locator = locator
        self._fetcher = fetcher
        self._fetching = fetching
        self._output = output
        self._comparer = comparer
        self._target_size = target_size_bytes
        self._progress = progress
        self._cancel = cancel
        self._is_ordered = isinstance(output, StreamOutput)
        self._running: deque[Future[Fetched]] = deque()
        self._fetched_bytes = self._same_bytes = 0

    def run(self) -> RestoreResult:
        for span in walk_leaves(self._map):
            self._restore_span(span)
        self._settle(0)
        for start, end in self._windows(self._body.size_bytes, self._target_size):
            self._restore_parts({}, [(start, end - start)])
        self._report(self._body.size_bytes)
        self._output.finish()
        return RestoreResult(
            self._manifest,
            self._output.written_bytes,
            self._output.zeroed_bytes,
            self._fetched_bytes,
            self._same_bytes,
        )

    def _restore_span(self, span: LeafSpan) -> None:
        for start, end in self._windows(span.offset, span.offset + span.length):
            check_cancel(self._cancel)
            if span.entries is None:
                # The page is lost, and with it the knowledge of what was here.
                self._output.damage(start, end - start)
            else:
                self._restore_window(start, end, self._entries_in(span, start, end))
            if self._is_ordered:
                self._settle(0)
            self._output.end_window()
            self._report(start)

    def _windows(self, start: int, end: int) -> Iterator[ByteRange]:
        """(start, end) pairs; a multiple of the block size each, but for the last."""
        step = max(_WINDOW_BYTES, self._body.block_size)
        return ((offset, min(offset + step, end)) for offset in range(start, end, step))

    def _entries_in(self, span: LeafSpan, start: int, end: int) -> dict[int, MapEntry]:
        """Entries of the window by their offset in the image."""
        places = ((span.offset + slot * self._body.block_size, entry) for slot, entry in (span.entries or {}).items())
        return {offset: entry for offset, entry in places if start <= offset < end}

    def _restore_window(self, start: int, end: int, entries: Mapping[int, MapEntry]) -> None:
        blocks: dict[int, MapEntry] = {}
        for offset, entry in entries.items():
            length = min(self._body.block_size, end - offset)
            if entry.plain_length == length:
                blocks[offset] = entry
            else:
                self._output.damage(offset, length)
        block_size = self._body.block_size
        self._restore_parts(blocks, gaps(start, end, ((offset, block_size) for offset in entries)))

    def _restore_parts(self, blocks: Mapping[int, MapEntry], holes: Iterable[ByteRange]) -> None:
        if self._comparer is not None:
            difference = self._comparer.difference(blocks, holes)
            blocks, holes = difference.blocks, difference.holes
            self._same_bytes += difference.same_bytes
        for offset, length in holes:
            self._output.zero(offset, length)
        for fetch in plan_fetches(self._places(blocks)):
            check_cancel(self._cancel)
            self._settle(_FETCHES_IN_FLIGHT)
            self._running.append(self._fetching.start(partial(self._fetcher.run, fetch)))

    def _places(self, blocks: Mapping[int, MapEntry]) -> Iterator[BlockPlace]:
        """Where to read each block first; what can be read nowhere is damage."""
        for offset, entry in blocks.items():
            location = next(self._locator.locations(entry), None)
            if location is None:
                self._output.damage(offset, entry.plain_length)
            else:
                yield BlockPlace(offset, entry, location)

    def _settle(self, left: int) -> None:
        """Write what was fetched, in order, until at most `left` reads are on their way."""
        while len(self._running) > left:
            fetched = self._fetching.result(self._running[0])
            self._running.popleft()
            self._fetched_bytes += fetched.fetched_bytes
            for offset, length in fetched.damaged:
                self._output.damage(offset, length)
            for offset, data in fetched.blocks:
                self._output.write(offset, data)

    def _report(self, done_bytes: int) -> None:
        if self._progress is not None:
            self._progress(RestoreProgress(self._body.size_bytes, done_bytes, self._fetched_bytes))
