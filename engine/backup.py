"""What goes into writing a backup and what comes out: the seams and values of the writer."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from engine.compression import DEFAULT_LEVEL
from engine.crypto import DomainKeys, RandomBytes, WriterKey
from engine.index import DEFAULT_FAN_OUT, MapEntry
from engine.manifest import SessionEntry
from engine.pack import DEFAULT_CONTAINER_SIZE
from engine.scan import Extent
from engine.store.base import ObjectRef, ObjectSource
from engine.throttle import ChangingLimit

DEFAULT_BLOCK_SIZE = 64 * 1024


# Called with the base's entry and the new one, both with the hash of their pack.
MoveReport: TypeAlias = Callable[[MapEntry, MapEntry], None]


class BlockSource(Protocol):
    """Asked by one thread at a time, not always that which opened it. After a cancel one call may still run."""

    size_bytes: int

    def extents(self) -> Iterable[Extent]:
        """Allocated data, ascending and disjoint. What lies outside reads as zeros."""
        ...

    def changed_extents(self) -> Iterable[Extent] | None:
        """All that may differ from the base, ascending and disjoint; None when that is not known.

        Asked a second time when a page of the base turns out to be unreadable.
        """
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        ...

    def check_unchanged(self) -> None:
        """Raise when what was read is no single point in time. Called after the last read, before the manifest."""
        ...


@dataclass(frozen=True, slots=True)
class BackupBase:
    """The earlier backup to compare with. Only its manifest and index segments are read."""

    manifest_ref: ObjectRef
    object_source: ObjectSource
    trusted_writers: Collection[bytes] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteContext:
    tenant: str
    domain: str
    source_id: str
    sequence: int
    created_at: datetime
    domain_keys: DomainKeys
    tenant_public_key: bytes
    writer_key: WriterKey
    random_bytes: RandomBytes
    source_facts: Mapping[str, Any] = field(default_factory=dict)
    required_features: tuple[str, ...] = ("fixed-blocks",)
    block_size: int = DEFAULT_BLOCK_SIZE
    fan_out: int = DEFAULT_FAN_OUT
    compression_level: int | None = DEFAULT_LEVEL
    pack_size: int = DEFAULT_CONTAINER_SIZE
    # Hash of the source's latest manifest, for a full backup; with a base, the base's hash is taken.
    previous_sha256: str | None = None
    # Limit on what is sent, over all threads; None: as fast as it goes.
    bandwidth_bytes_per_second: int | ChangingLimit | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    # SHA-256 in hexadecimal of packs and index segments that must not be used: damaged, condemned or being removed.
    distrusted_packs: frozenset[str] = frozenset()
    distrusted_segments: frozenset[str] = frozenset()
    # Told of blocks of distrusted packs that were stored anew with the same content; a pair may come twice.
    on_moved: MoveReport | None = None


@dataclass(frozen=True, slots=True)
class WriteProgress:
    """Running totals. Scanned counts what was decided without reading, too: it ends at the image's size."""

    scanned_bytes: int
    read_bytes: int
    stored_bytes: int


@dataclass(slots=True)
class WriteStats:
    """Blocks are counted when they were read; what a base says is unchanged is only in scanned_bytes.

    Of the reused blocks, `resumed_blocks` lie in packs of earlier attempts. `healed_blocks` replace blocks of
    distrusted packs by the same content. `lost_leaves` of the base's map could not be used and were read anew.
    """

    scanned_bytes: int = 0
    read_bytes: int = 0
    changed_bytes: int = 0
    stored_bytes: int = 0
    new_blocks: int = 0
    reused_blocks: int = 0
    zero_blocks: int = 0
    resumed_blocks: int = 0
    healed_blocks: int = 0
    lost_leaves: int = 0


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What the manifest needs, apart from itself, in three parts: `new_objects` were stored by this session,
    `resumed_objects` by earlier attempts (verified by nobody yet), `reused_objects` belong to the base.
    """

    manifest: ObjectRef
    new_objects: tuple[ObjectRef, ...]
    reused_objects: tuple[ObjectRef, ...]
    session_id: bytes
    stats: WriteStats
    resumed_objects: tuple[ObjectRef, ...] = ()
    # The sessions that the manifest lists, with their envelopes.
    sessions: tuple[SessionEntry, ...] = ()


ProgressReport: TypeAlias = Callable[[WriteProgress], None]
