"""What goes into writing a backup and what comes out: the seams and values of the writer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from engine.compression import DEFAULT_LEVEL
from engine.crypto import DomainKeys, RandomBytes, WriterKey
from engine.index import DEFAULT_FAN_OUT
from engine.pack import DEFAULT_CONTAINER_SIZE
from engine.scan import Extent
from engine.store.base import ObjectRef, ObjectSource

DEFAULT_BLOCK_SIZE = 64 * 1024


class BlockSource(Protocol):
    size_bytes: int

    def extents(self) -> Iterable[Extent]:
        """Allocated data, ascending and disjoint. What lies outside reads as zeros."""
        ...

    def changed_extents(self) -> Iterable[Extent] | None:
        """All that may differ from the base, ascending and disjoint; None when that is not known."""
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


@dataclass(frozen=True, slots=True)
class WriteProgress:
    """Running totals. Scanned counts what was decided without reading, too: it ends at the image's size."""

    scanned_bytes: int
    read_bytes: int
    stored_bytes: int


@dataclass(slots=True)
class WriteStats:
    """Blocks are counted when they were read; what a base says is unchanged is only in scanned_bytes."""

    scanned_bytes: int = 0
    read_bytes: int = 0
    changed_bytes: int = 0
    stored_bytes: int = 0
    new_blocks: int = 0
    reused_blocks: int = 0
    zero_blocks: int = 0


@dataclass(frozen=True, slots=True)
class WriteResult:
    manifest: ObjectRef
    new_objects: tuple[ObjectRef, ...]
    reused_objects: tuple[ObjectRef, ...]
    session_id: bytes
    stats: WriteStats


ProgressReport: TypeAlias = Callable[[WriteProgress], None]
