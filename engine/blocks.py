"""The work on batches of blocks that runs in worker threads: find zeros, compare, compress, seal, verify."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import NamedTuple

from engine.codec import SALT_SIZE
from engine.compression import Compressor
from engine.sealing import RecordSealer, SealedRecord


@dataclass(frozen=True, slots=True)
class BlockBatch:
    """Contiguous blocks of one leaf. `base_ids` has the id of each block in the base, or None."""

    first_slot: int
    data: bytes
    base_ids: list[bytes | None]
    salts: bytes


class NewBlock(NamedTuple):
    """A block that differs from the base. `record` is None when the session has stored it already."""

    slot: int
    content_id: bytes
    record: SealedRecord | None


class BatchResult(NamedTuple):
    zero_slots: list[int]
    same_slots: list[int]
    new_blocks: list[NewBlock]


class BlockWorker:
    """Thread-safe; reads `stored_ids` (which only grows) while its owner adds to it."""

    def __init__(
        self, *, sealer: RecordSealer, compressor: Compressor, block_size: int, stored_ids: Container[bytes]
    ) -> None:
        self._sealer = sealer
        self._compressor = compressor
        self._block_size = block_size
        self._zeros = bytes(block_size)
        self._stored_ids = stored_ids

    def process(self, batch: BlockBatch) -> BatchResult:
        result = BatchResult([], [], [])
        view = memoryview(batch.data)
        for number, base_id in enumerate(batch.base_ids):
            slot = batch.first_slot + number
            start = number * self._block_size
            block = view[start : start + self._block_size]
            # startswith compares in place and stops at the first byte that is not zero.
            if batch.data.startswith(self._zeros[: len(block)], start):
                result.zero_slots.append(slot)
                continue
            content_id = self._sealer.content_id(block)
            if content_id == base_id:
                result.same_slots.append(slot)
                continue
            salt = batch.salts[number * SALT_SIZE : (number + 1) * SALT_SIZE]
            result.new_blocks.append(NewBlock(slot, content_id, self._seal(block, content_id, salt)))
        return result

    def _seal(self, block: memoryview, content_id: bytes, salt: bytes) -> SealedRecord | None:
        if content_id in self._stored_ids:
            return None
        return self._sealer.seal_verified(block, content_id=content_id, salt=salt, compressor=self._compressor)
