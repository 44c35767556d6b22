"""One walk over an image: leaf by leaf, ascending, from the source through the sealing threads to packs and map.

One thread (the caller's) keeps all state; one reads the source, two compress and seal, two send. Results are taken in
the order of the image, so the same input and the same random bytes give the same objects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from engine.backup import WriteContext, WriteStats
from engine.blockmap import Census, MapWriter, SegmentWriter
from engine.blocks import BatchResult, BlockBatch, BlockWorker
from engine.codec import SALT_SIZE
from engine.distrust import BaseMap, MovedBlocks
from engine.index import MapEntry, ceil_div
from engine.packing import PackWriter
from engine.patience import PatientSource
from engine.plan import LeafPlanner
from engine.scan import Run, grouped, single_runs, union
from engine.waiting import Background, Cancel, check_cancel

_BATCH_BYTES = 1024 * 1024
_BATCHES_IN_FLIGHT = 8


@dataclass(slots=True)
class _LeafDraft:
    """A leaf whose batches are on their way. `distrusted` are those of the base's entries that must not be kept."""

    index: int
    base_entries: dict[int, MapEntry]
    distrusted: dict[int, MapEntry]
    entries: dict[int, MapEntry]

    def base_id(self, slot: int) -> bytes | None:
        entry = self.base_entries.get(slot)
        return entry.content_id if entry is not None and slot not in self.distrusted else None


@dataclass(frozen=True, slots=True)
class _BatchInFlight:
    leaf: _LeafDraft
    future: Future[list[BatchResult]]


@dataclass(frozen=True, slots=True)
class _LeafEnd:
    leaf: _LeafDraft


@dataclass(frozen=True, slots=True)
class _LeafCarried:
    index: int
    entries: dict[int, MapEntry]


_Step: TypeAlias = _BatchInFlight | _LeafEnd | _LeafCarried


class ImagePass:
    """Call `run` once. BaseDamagedError asks for another pass with a tolerant base; what was stored is found again."""

    def __init__(
        self,
        *,
        context: WriteContext,
        source: PatientSource,
        base: BaseMap | None,
        packs: PackWriter,
        segments: SegmentWriter,
        worker: BlockWorker,
        sealing: Background,
        report: Callable[[WriteStats], None],
        cancel: Cancel,
    ) -> None:
        self._context = context
        self._source = source
        self._base = base
        self._packs = packs
        self._worker = worker
        self._sealing = sealing
        self._report = report
        self._cancel = cancel
        self._size = source.size_bytes
        self._block_count = ceil_div(self._size, context.block_size)
        base_size = base.body.size_bytes if base is not None else None
        self._plan = LeafPlanner(
            source=source, context=context, block_count=self._block_count, base_size_bytes=base_size
        )
        # Counting only differences needs every old leaf that is replaced, so that none may be lost. Where all leaves
        # are walked anyway, all entries are counted, and a lost leaf is merely read from the source.
        recount = base is None or base.tolerant or base_size != self._size or not self._plan.knows_changes
        self._walks_all = recount and base is not None
        if base is not None:
            base.tolerant = recount
        self._moved = MovedBlocks(context.on_moved)
        self.census = Census(base, recount=recount)
        self._map = MapWriter(
            base=base,
            segments=segments,
            census=self.census,
            block_count=self._block_count,
            fan_out=context.fan_out,
        )
        self._steps: deque[_Step] = deque()
        self._batches_in_flight = 0
        self.stats = WriteStats()

    def run(self) -> MapEntry | None:
        """Everything up to the last index segment, which may still be on its way; the root of the map."""
        for leaf in range(self._map.leaf_count):
            check_cancel(self._cancel)
            self._start_leaf(leaf)
            self._finish_steps(_BATCHES_IN_FLIGHT)
        self._finish_steps(0)
        self._packs.close_pack()
        self._moved.tell()
        root = self._map.finish()
        self.stats.healed_blocks = self._moved.count
        self.stats.lost_leaves = self._base.lost_leaves if self._base is not None else 0
        return root

    def _start_leaf(self, index: int) -> None:
        self.stats.scanned_bytes += self._leaf_bytes(index)
        touched = self._plan.touched(index)
        if not touched and not self._walks_all:
            self._steps.append(_LeafCarried(index, {}))
            return
        slot_count = min(self._context.fan_out, self._block_count - index * self._context.fan_out)
        base_entries = self._base.leaf(index) if self._base is not None else {}
        if base_entries is None:
            base_entries, touched = {}, [(0, slot_count)]
        distrusted = self._base.distrusted_entries(base_entries) if self._base is not None else {}
        touched = list(union(touched, single_runs(slot for slot in distrusted if slot < slot_count)))
        if not touched:
            self._steps.append(_LeafCarried(index, base_entries))
            return
        leaf = _LeafDraft(index, base_entries, distrusted, _untouched(base_entries, touched, slot_count))
        blocks_max = max(1, _BATCH_BYTES // self._context.block_size)
        for runs in grouped(self._plan.to_read(index, touched), blocks_max=blocks_max):
            self._read_runs(leaf, runs)
        self._steps.append(_LeafEnd(leaf))

    def _read_runs(self, leaf: _LeafDraft, runs: list[Run]) -> None:
        """Read the runs together, which matters where single blocks are scattered, and have them sealed."""
        check_cancel(self._cancel)
        ranges = [self._range(leaf.index, run) for run in runs]
        reading = self._source.begin_read(ranges)
        self._finish_steps(_BATCHES_IN_FLIGHT - 1)
        pieces = self._source.end_read(reading, ranges)
        self.stats.read_bytes += sum(length for _, length in ranges)
        batches = self._batches(leaf, runs, pieces)
        self._steps.append(_BatchInFlight(leaf, self._sealing.start(partial(self._seal, batches))))
        self._batches_in_flight += 1

    def _range(self, leaf: int, run: Run) -> tuple[int, int]:
        block_size = self._context.block_size
        leaf_offset = leaf * self._context.fan_out * block_size
        offset = leaf_offset + run[0] * block_size
        return offset, min(leaf_offset + run[1] * block_size, self._size) - offset

    def _batches(self, leaf: _LeafDraft, runs: list[Run], pieces: list[bytes]) -> list[BlockBatch]:
        # Drawn at once: a system call for each of many single blocks costs more than the bytes.
        salts = self._context.random_bytes(SALT_SIZE * sum(end - first for first, end in runs))
        batches, start = [], 0
        for (first, end), piece in zip(runs, pieces, strict=True):
            base_ids = [leaf.base_id(slot) for slot in range(first, end)]
            length = SALT_SIZE * len(base_ids)
            batches.append(BlockBatch(first, piece, base_ids, salts[start : start + length]))
            start += length
        return batches

    def _seal(self, batches: list[BlockBatch]) -> list[BatchResult]:
        return [self._worker.process(batch) for batch in batches]

    def _finish_steps(self, batches_left: int) -> None:
        """Take results in order until at most so many batches are in flight (0: until all is done)."""
        while self._steps and (self._batches_in_flight > batches_left or self._is_instant(self._steps[0])):
            step = self._steps.popleft()
            if isinstance(step, _BatchInFlight):
                self._batches_in_flight -= 1
                for result in self._sealing.result(step.future):
                    self._take_result(step.leaf, result)
                self._report(self.stats)
            elif isinstance(step, _LeafEnd):
                self._end_leaf(step.leaf)
            else:
                self.census.leaf([], step.entries.values())
                self._map.carry_leaf(step.index, step.entries)

    def _is_instant(self, step: _Step) -> bool:
        return not isinstance(step, _BatchInFlight)

    def _take_result(self, leaf: _LeafDraft, result: BatchResult) -> None:
        stats = self.stats
        stats.zero_blocks += len(result.zero_slots)
        stats.reused_blocks += len(result.same_slots)
        for slot in result.same_slots:
            leaf.entries[slot] = leaf.base_entries[slot]
        for block in result.new_blocks:
            entry, was_stored = self._packs.add(block)
            leaf.entries[block.slot] = entry
            stats.changed_bytes += entry.plain_length
            stats.new_blocks += was_stored
            stats.reused_blocks += not was_stored
            old = leaf.distrusted.get(block.slot)
            if old is not None and old.content_id == entry.content_id:
                self._moved.add(old, entry)
        stats.resumed_blocks = self._packs.resumed_count

    def _end_leaf(self, leaf: _LeafDraft) -> None:
        if leaf.entries == leaf.base_entries:
            self.census.leaf([], leaf.entries.values() if self.census.recount else [])
            self._map.carry_leaf(leaf.index, leaf.entries)
            return
        self.census.leaf(leaf.base_entries.values(), leaf.entries.values())
        self._map.put_leaf(leaf.index, leaf.entries)
        if self._map.is_crowded:
            self._packs.close_pack()
            self._map.settle_ready()

    def _leaf_bytes(self, index: int) -> int:
        leaf_size = self._context.fan_out * self._context.block_size
        return min(leaf_size, self._size - index * leaf_size)


def _untouched(base_entries: dict[int, MapEntry], touched: list[Run], slot_count: int) -> dict[int, MapEntry]:
    """The base's entries outside of the touched runs and inside of the image."""
    entries = {slot: entry for slot, entry in base_entries.items() if slot < slot_count}
    for first, end in touched:
        for slot in range(first, end):
            entries.pop(slot, None)
    return entries
