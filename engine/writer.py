"""Writing one disk image as a backup: full, or incremental against an earlier manifest.

Order of stores: packs, index segments (each after the packs it names), key envelope, manifest last. Nothing
that is stored refers to something that is not stored yet, so a session that ends anywhere leaves the earlier
backups as they were and the new one either absent or complete.

One thread (the caller's) reads the source and keeps all state, two compress and seal, two send. Results are
taken in the order of the image, so the same input and the same random bytes give the same objects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

from engine.assembly import ManifestAssembler
from engine.backup import (
    DEFAULT_BLOCK_SIZE,
    BackupBase,
    BlockSource,
    ProgressReport,
    WriteContext,
    WriteProgress,
    WriteResult,
    WriteStats,
)
from engine.blockmap import Census, MapWriter, SegmentWriter
from engine.blocks import BatchResult, BlockBatch, BlockWorker
from engine.codec import SALT_SIZE
from engine.compression import Compressor
from engine.crypto import generate_session_keys
from engine.errors import BaseMismatchError, FormatError, SourceError
from engine.hashing import sha256_hex
from engine.index import MapEntry, ceil_div, check_geometry
from engine.manifest import KNOWN_FEATURES, build_manifest, manifest_ref
from engine.pack import DEFAULT_CONTAINER_SIZE
from engine.packing import PackWriter
from engine.repository import MapReader, open_manifest
from engine.scan import Extent, Run, RunsByLeaf, block_runs, intersect, union
from engine.sealing import block_sealer
from engine.store.base import ObjectSink
from engine.upload import Uploader
from engine.waiting import Cancel, check_cancel, never_cancel, result_of

__all__ = [
    "DEFAULT_BLOCK_SIZE",
    "BackupBase",
    "BlockSource",
    "Extent",
    "WriteContext",
    "WriteProgress",
    "WriteResult",
    "WriteStats",
    "write_disk_backup",
]

_BATCH_BYTES = 1024 * 1024
_WORKERS = 2
_BATCHES_IN_FLIGHT = 4


def write_disk_backup(
    *,
    source: BlockSource,
    sink: ObjectSink,
    base: BackupBase | None,
    context: WriteContext,
    progress: ProgressReport | None = None,
    cancel: Cancel = never_cancel,
) -> WriteResult:
    """Write one backup and return what was stored; the manifest is the last object.

    An error of the source passes through unchanged; trouble of the store is a StoreError; BaseMismatchError
    means that the base cannot be used and a full backup (base=None) is needed.
    """
    check_geometry(size_bytes=source.size_bytes, block_size=context.block_size, fan_out=context.fan_out)
    if set(context.required_features) - KNOWN_FEATURES:
        raise FormatError("a required feature is unknown to this writer")
    if context.created_at.tzinfo is None:
        raise FormatError("created_at must carry a time zone")
    base_map = _open_base(base, context) if base is not None else None
    with Uploader(sink=sink, tenant=context.tenant, domain=context.domain, cancel=cancel) as uploader:
        session = _WriteSession(
            source=source, base=base_map, context=context, uploader=uploader, progress=progress, cancel=cancel
        )
        with session.workers:
            session.write_blocks()
        source.check_unchanged()
        previous = base.manifest_ref.sha256 if base is not None else context.previous_sha256
        return session.commit(bytes.fromhex(previous) if previous is not None else None)


def _open_base(base: BackupBase, context: WriteContext) -> MapReader:
    info = open_manifest(
        manifest_ref=base.manifest_ref,
        object_source=base.object_source,
        trusted_writers={context.writer_key.public, *base.trusted_writers},
        map_key=context.domain_keys.map_key,
    )
    body = info.body
    if (body.tenant, body.domain, body.source_id) != (context.tenant, context.domain, context.source_id):
        raise BaseMismatchError("the base belongs to another source")
    if (body.block_size, body.fan_out) != (context.block_size, context.fan_out):
        raise BaseMismatchError("the base has another block size or fan-out")
    if body.sequence >= context.sequence:
        raise BaseMismatchError("the base is not older than the new backup")
    return MapReader(manifest=info, object_source=base.object_source, map_key=context.domain_keys.map_key)


@dataclass(slots=True)
class _LeafDraft:
    """A leaf whose batches are on their way."""

    index: int
    base_entries: dict[int, MapEntry]
    entries: dict[int, MapEntry]


@dataclass(frozen=True, slots=True)
class _BatchInFlight:
    leaf: _LeafDraft
    future: Future[BatchResult]


@dataclass(frozen=True, slots=True)
class _LeafEnd:
    leaf: _LeafDraft


@dataclass(frozen=True, slots=True)
class _LeafCarried:
    index: int
    entries: dict[int, MapEntry]


_Step: TypeAlias = _BatchInFlight | _LeafEnd | _LeafCarried


class _WriteSession:
    def __init__(
        self,
        *,
        source: BlockSource,
        base: MapReader | None,
        context: WriteContext,
        uploader: Uploader,
        progress: ProgressReport | None,
        cancel: Cancel,
    ) -> None:
        self._source = source
        self._base = base
        self._context = context
        self._uploader = uploader
        self._progress = progress
        self._cancel = cancel
        self._stats = WriteStats()
        self._size = source.size_bytes
        self._block_count = ceil_div(self._size, context.block_size)
        self._keys = generate_session_keys(context.random_bytes)
        self._compressor = Compressor(context.compression_level)
        self._packs = PackWriter(context=context, keys=self._keys, uploader=uploader, compressor=self._compressor)
        self._worker = self._make_worker()
        self._census = Census(base, recount=base is None or base.body.size_bytes != self._size)
        self._map = self._make_map()
        self._steps: deque[_Step] = deque()
        self._batches_in_flight = 0
        self.workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="seal")

    def write_blocks(self) -> None:
        """Everything up to the last index segment; afterwards all packs and segments are stored."""
        touched, to_read = self._plan()
        for leaf in range(self._map.leaf_count):
            check_cancel(self._cancel)
            self._start_leaf(leaf, touched.take(leaf), to_read.take(leaf))
            self._finish_steps(_BATCHES_IN_FLIGHT)
        self._finish_steps(0)
        self._packs.close_pack()
        self._root = self._map.finish()
        self._uploader.drain()

    def commit(self, previous_sha256: bytes | None) -> WriteResult:
        assembler = ManifestAssembler(
            context=self._context,
            keys=self._keys,
            base=self._base.body if self._base is not None else None,
            census=self._census,
            uploader=self._uploader,
        )
        body = assembler.body(previous_sha256=previous_sha256, size_bytes=self._size, stats=self._stats)
        data = build_manifest(
            body,
            root=self._root,
            source_facts=dict(self._context.source_facts),
            map_key=self._context.domain_keys.map_key,
            writer_key=self._context.writer_key,
            salt=self._context.random_bytes(SALT_SIZE),
            compressor=self._compressor,
        )
        sha256 = sha256_hex(data)
        key = manifest_ref(body, sha256=sha256, size_bytes=len(data), version_id=None).key
        new_objects = tuple(self._uploader.stored.values())
        new_keys = {ref.key for ref in new_objects}
        reused = tuple(ref for ref in body.needed_refs() if ref.key not in new_keys)
        stored = self._uploader.put_now(key, data, sha256=sha256)
        self._stats.stored_bytes = self._uploader.stored_bytes
        self._report()
        return WriteResult(stored, new_objects, reused, self._keys.session_id, self._stats)

    def _plan(self) -> tuple[RunsByLeaf, RunsByLeaf]:
        """The runs whose blocks may differ from the base, and those of them that must be read."""
        fan_out = self._context.fan_out
        return (
            RunsByLeaf(self._touched_runs(), fan_out=fan_out),
            RunsByLeaf(intersect(self._touched_runs(), self._runs(self._source.extents())), fan_out=fan_out),
        )

    def _touched_runs(self) -> Iterable[Run]:
        everything = [(0, self._block_count)]
        if self._base is None:
            return everything
        changed = self._source.changed_extents()
        if changed is None:
            return everything
        return union(self._runs(changed), self._resized_runs(self._base.body.size_bytes))

    def _resized_runs(self, base_size_bytes: int) -> list[Run]:
        """Where the image was cut or has grown: its last common block differs in length, the rest is new.

        The last block is always among them, so that the leaf with the end of a cut image is written anew.
        """
        if base_size_bytes == self._size or not self._block_count:
            return []
        first = min(base_size_bytes // self._context.block_size, self._block_count - 1)
        return [(first, self._block_count)]

    def _runs(self, extents: Iterable[Extent]) -> Iterable[Run]:
        return block_runs(extents, block_size=self._context.block_size, size_bytes=self._size)

    def _start_leaf(self, index: int, touched: list[Run], to_read: list[Run]) -> None:
        self._stats.scanned_bytes += self._leaf_bytes(index)
        if not touched:
            # Read the base's leaf only when its entries have to be counted again.
            entries = self._base_leaf(index) if self._census.recount else {}
            self._steps.append(_LeafCarried(index, entries))
            return
        base_entries = self._base_leaf(index)
        slot_count = self._block_count - index * self._context.fan_out
        entries = {slot: entry for slot, entry in base_entries.items() if slot < slot_count}
        for first, end in touched:
            for slot in range(first, end):
                entries.pop(slot, None)
        leaf = _LeafDraft(index, base_entries, entries)
        for run in to_read:
            self._read_run(leaf, run)
        self._steps.append(_LeafEnd(leaf))

    def _read_run(self, leaf: _LeafDraft, run: Run) -> None:
        blocks_per_batch = max(1, _BATCH_BYTES // self._context.block_size)
        for first in range(run[0], run[1], blocks_per_batch):
            check_cancel(self._cancel)
            self._finish_steps(_BATCHES_IN_FLIGHT - 1)
            batch = self._read_batch(leaf, first, min(first + blocks_per_batch, run[1]))
            self._steps.append(_BatchInFlight(leaf, self.workers.submit(self._worker.process, batch)))
            self._batches_in_flight += 1

    def _read_batch(self, leaf: _LeafDraft, first: int, end: int) -> BlockBatch:
        block_size = self._context.block_size
        leaf_offset = leaf.index * self._context.fan_out * block_size
        offset = leaf_offset + first * block_size
        length = min(leaf_offset + end * block_size, self._size) - offset
        data = self._source.read(offset, length)
        if len(data) != length:
            raise SourceError("the source returned another length than asked for", code="short_read")
        self._stats.read_bytes += length
        base_ids = [self._base_id(leaf, slot) for slot in range(first, end)]
        return BlockBatch(first, data, base_ids, self._context.random_bytes(SALT_SIZE * (end - first)))

    def _base_id(self, leaf: _LeafDraft, slot: int) -> bytes | None:
        entry = leaf.base_entries.get(slot)
        return entry.content_id if entry is not None else None

    def _finish_steps(self, batches_left: int) -> None:
        """Take results in order until at most so many batches are in flight (0: until all is done)."""
        while self._steps and (self._batches_in_flight > batches_left or self._is_instant(self._steps[0])):
            step = self._steps.popleft()
            if isinstance(step, _BatchInFlight):
                self._batches_in_flight -= 1
                self._take_result(step.leaf, result_of(step.future, self._cancel))
            elif isinstance(step, _LeafEnd):
                self._end_leaf(step.leaf)
            else:
                self._census.leaf([], step.entries.values())
                self._map.carry_leaf(step.index)

    def _is_instant(self, step: _Step) -> bool:
        return not isinstance(step, _BatchInFlight)

    def _take_result(self, leaf: _LeafDraft, result: BatchResult) -> None:
        self._stats.zero_blocks += len(result.zero_slots)
        self._stats.reused_blocks += len(result.same_slots)
        for slot in result.same_slots:
            leaf.entries[slot] = leaf.base_entries[slot]
        for block in result.new_blocks:
            entry, was_stored = self._packs.add(block)
            leaf.entries[block.slot] = entry
            self._stats.changed_bytes += entry.plain_length
            self._stats.new_blocks += was_stored
            self._stats.reused_blocks += not was_stored
        self._report()

    def _end_leaf(self, leaf: _LeafDraft) -> None:
        if leaf.entries == leaf.base_entries:
            self._census.leaf([], leaf.entries.values() if self._census.recount else [])
            self._map.carry_leaf(leaf.index)
            return
        self._census.leaf(leaf.base_entries.values(), leaf.entries.values())
        self._map.put_leaf(leaf.index, leaf.entries)
        if self._map.is_crowded:
            self._packs.close_pack()
            self._map.settle_ready()

    def _base_leaf(self, index: int) -> dict[int, MapEntry]:
        return self._base.leaf(index) if self._base is not None else {}

    def _leaf_bytes(self, index: int) -> int:
        leaf_size = self._context.fan_out * self._context.block_size
        return min(leaf_size, self._size - index * leaf_size)

    def _report(self) -> None:
        if self._progress is None:
            return
        stats = self._stats
        self._progress(WriteProgress(stats.scanned_bytes, stats.read_bytes, self._uploader.stored_bytes))

    def _make_worker(self) -> BlockWorker:
        sealer = block_sealer(
            tenant=self._context.tenant,
            domain=self._context.domain,
            id_key=self._context.domain_keys.id_key,
            data_key=self._keys.data_key,
        )
        return BlockWorker(
            sealer=sealer,
            compressor=self._compressor,
            block_size=self._context.block_size,
            stored_ids=self._packs.stored_ids,
        )

    def _make_map(self) -> MapWriter:
        context = self._context
        segments = SegmentWriter(
            tenant=context.tenant,
            domain=context.domain,
            map_key=context.domain_keys.map_key,
            session_id=self._keys.session_id,
            target_size=DEFAULT_CONTAINER_SIZE,
            random_bytes=context.random_bytes,
            compressor=self._compressor,
            uploader=self._uploader,
        )
        return MapWriter(
            base=self._base,
            segments=segments,
            census=self._census,
            block_count=self._block_count,
            fan_out=context.fan_out,
        )
