"""Sealing chunks in worker threads, in order, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from engine.backup import WriteContext, WriteStats
from engine.blocks import NewBlock
from engine.codec import SALT_SIZE
from engine.compression import Compressor
from engine.crypto import SessionKeys
from engine.index import MapEntry, resolve
from engine.packing import PackWriter
from engine.sealing import SealedRecord, block_sealer
from engine.waiting import Cancel, result_of
from engine.window import ResumedBlocks

_WORKERS = 2
_BATCHES_IN_FLIGHT = 4
_BATCH_BYTES = 1024 * 1024
_BATCH_CHUNKS = 256


class KnownChunks(Protocol):
    """Chunks of the base that may come again. Asked by worker threads while its owner changes it."""

    def get(self, content_id: bytes, /) -> MapEntry | None: ...


NOTHING_KNOWN: KnownChunks = {}


class ChunkSlot:
    """The place of one chunk in its file or stream; `entry` is set once it is known where the chunk lies."""

    __slots__ = ("entry", "hole")

    def __init__(self, hole: int) -> None:
        self.hole = hole
        self.entry: MapEntry | None = None


@dataclass(frozen=True, slots=True)
class _Item:
    slot: ChunkSlot
    data: bytes
    known: KnownChunks
    salt: bytes


class _Sealed(NamedTuple):
    """`record` is None for what need not be stored: `is_promised` by the session's packs, or else found in the base."""

    content_id: bytes
    record: SealedRecord | None
    is_promised: bool


class ChunkPipe:
    """Used by one thread. Slots are filled in the order of `put`. Use as a context manager."""

    def __init__(
        self,
        *,
        context: WriteContext,
        keys: SessionKeys,
        packs: PackWriter,
        resumed: ResumedBlocks | None,
        compressor: Compressor,
        stats: WriteStats,
        cancel: Cancel,
    ) -> None:
        self._random_bytes = context.random_bytes
        self._distrusted = frozenset(bytes.fromhex(name) for name in context.distrusted_packs)
        self._on_moved = context.on_moved
        self._moved: list[tuple[MapEntry, MapEntry]] = []
        self._packs = packs
        self._resumed = resumed
        self._compressor = compressor
        self._stats = stats
        self._cancel = cancel
        self._sealer = block_sealer(
            tenant=context.tenant,
            domain=context.domain,
            id_key=context.domain_keys.id_key,
            data_key=keys.data_key,
        )
        self._executor = ThreadPoolExecutor(_WORKERS, thread_name_prefix="seal")
        self._batch: list[_Item] = []
        self._batch_bytes = 0
        self._running: deque[tuple[list[_Item], Future[list[_Sealed]]]] = deque()

    def __enter__(self) -> ChunkPipe:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def put(self, data: bytes, *, hole: int, known: KnownChunks) -> ChunkSlot:
        """`known` is asked first whether the chunk is in the base. Blocks while too much is on its way."""
        slot = ChunkSlot(hole)
        self._batch.append(_Item(slot, data, known, self._random_bytes(SALT_SIZE)))
        self._batch_bytes += len(data)
        if self._batch_bytes >= _BATCH_BYTES or len(self._batch) >= _BATCH_CHUNKS:
            self._start_batch()
            self._settle(_BATCHES_IN_FLIGHT)
        return slot

    def flush(self) -> None:
        """Fill all slots."""
        if self._batch:
            self._start_batch()
        self._settle(0)

    def report_moved(self) -> None:
        """Tell of chunks of distrusted packs that were stored anew. Call once, when all packs are closed."""
        if self._on_moved is not None:
            for old, new in self._moved:
                self._on_moved(old, new._replace(object_name=resolve(new.object_name)))

    def _start_batch(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        self._running.append((batch, self._executor.submit(self._seal_batch, batch)))

    def _settle(self, left: int) -> None:
        while len(self._running) > left:
            batch, future = self._running[0]
            sealed = result_of(future, self._cancel)
            self._running.popleft()
            for item, found in zip(batch, sealed, strict=True):
                item.slot.entry = self._entry(item, found)

    def _seal_batch(self, batch: Sequence[_Item]) -> list[_Sealed]:
        return [self._look(item, self._sealer.content_id(item.data)) for item in batch]

    def _look(self, item: _Item, content_id: bytes) -> _Sealed:
        if self._trusted(item.known.get(content_id)) is not None:
            return _Sealed(content_id, None, False)
        if content_id in self._packs.known_ids:
            return _Sealed(content_id, None, True)
        return _Sealed(content_id, self._seal(item, content_id), False)

    def _seal(self, item: _Item, content_id: bytes) -> SealedRecord:
        return self._sealer.seal_verified(item.data, content_id=content_id, salt=item.salt, compressor=self._compressor)

    def _entry(self, item: _Item, found: _Sealed) -> MapEntry:
        content_id, record, is_promised = found
        old = item.known.get(content_id)
        known = self._trusted(old)
        if known is not None:
            self._stats.reused_blocks += 1
            if is_promised and self._resumed is not None:
                # The base has it after all. A promise that nobody takes up would be kept to the end.
                self._resumed.take(content_id)
            return known
        if record is None and not is_promised and content_id not in self._packs.known_ids:
            # What the base had when the worker looked has been forgotten since.
            record = self._seal(item, content_id)
        entry, was_stored = self._packs.add(NewBlock(0, content_id, record))
        self._stats.changed_bytes += entry.plain_length
        self._stats.new_blocks += was_stored
        self._stats.reused_blocks += not was_stored
        if old is not None:
            self._stats.healed_blocks += 1
            if self._on_moved is not None:
                self._moved.append((old, entry))
        return entry

    def _trusted(self, entry: MapEntry | None) -> MapEntry | None:
        return entry if entry is not None and entry.object_name not in self._distrusted else None
