"""Shared pieces of the engine's tests: a small vault with keys, a source and a target in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from engine.crypto import (
    DomainKeys,
    TenantKeyPair,
    WriterKey,
    tenant_key_from_private,
    writer_key_from_private,
)
from engine.envelope import unwrap_envelope
from engine.manifest import ManifestInfo
from engine.repository import open_manifest
from engine.restore import RestoreKeys, RestoreResult, restore_disk
from engine.scan import Extent
from engine.store.base import ObjectRef
from engine.store.memory import ModelStore
from engine.writer import BackupBase, WriteContext, WriteResult, write_disk_backup

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BLOCK_SIZE = 512
TENANT, DOMAIN, SOURCE_ID = "acme", "server-1", "disk-0"


def seeded_bytes(seed: str) -> Callable[[int], bytes]:
    """A reproducible source of 'random' bytes."""
    count = 0

    def random_bytes(length: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{seed}/{count}".encode()).digest(length)

    return random_bytes


def noise(length: int, seed: str = "noise") -> bytes:
    return hashlib.shake_256(seed.encode()).digest(length)


@dataclass
class ImageSource:
    """A source over bytes; `allocated` None means one extent over everything."""

    data: bytes | bytearray
    allocated: list[Extent] | None = None
    changed: list[Extent] | None = None
    reads: list[tuple[int, int]] = field(default_factory=list)
    on_read: Callable[[], None] | None = None
    on_end: Callable[[], None] | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def extents(self) -> list[Extent]:
        return [Extent(0, len(self.data))] if self.allocated is None else self.allocated

    def changed_extents(self) -> list[Extent] | None:
        return self.changed

    def read(self, offset: int, length: int) -> bytes:
        if self.on_read is not None:
            self.on_read()
        self.reads.append((offset, length))
        return bytes(self.data[offset : offset + length])

    def check_unchanged(self) -> None:
        if self.on_end is not None:
            self.on_end()


class ImageTarget:
    """A target that holds old data and remembers whether it was touched."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.data = bytearray(b"\xa5" * size_bytes)
        self.writes = 0
        self.flushed = False

    def write(self, offset: int, data: bytes) -> None:
        assert 0 <= offset <= offset + len(data) <= self.size_bytes
        self.writes += 1
        self.data[offset : offset + len(data)] = data

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))

    def flush(self) -> None:
        self.flushed = True


@dataclass
class Vault:
    """A model store, one tenant, one writer; sequence numbers are counted here."""

    seed: str = "vault"
    store: ModelStore = field(default_factory=lambda: ModelStore(now=lambda: NOW))
    sequence: int = 0
    session_keys: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random_bytes = seeded_bytes(self.seed)
        self.tenant_key: TenantKeyPair = tenant_key_from_private(noise(32, "tenant"))
        self.writer_key: WriterKey = writer_key_from_private(noise(32, "writer"))
        self.domain_keys = DomainKeys(id_key=noise(32, "id"), map_key=noise(32, "map"))

    def context(self, **changes: Any) -> WriteContext:
        context = WriteContext(
            tenant=TENANT,
            domain=DOMAIN,
            source_id=SOURCE_ID,
            sequence=self.sequence,
            created_at=NOW,
            domain_keys=self.domain_keys,
            tenant_public_key=self.tenant_key.public,
            writer_key=self.writer_key,
            random_bytes=self.random_bytes,
            source_facts={"name": "vda"},
            block_size=BLOCK_SIZE,
            fan_out=4,
            pack_size=8192,
        )
        return replace(context, **changes)

    def write(
        self,
        source: ImageSource | bytes | bytearray,
        *,
        base: WriteResult | None = None,
        sink: Any = None,
        progress: Any = None,
        cancel: Callable[[], bool] = lambda: False,
        resume: Any = (),
        resume_source: Any = "the store",
        **changes: Any,
    ) -> WriteResult:
        self.sequence += 1
        return write_disk_backup(
            source=source if isinstance(source, ImageSource) else ImageSource(source),
            sink=sink or self.store,
            base=BackupBase(base.manifest, self.store) if base is not None else None,
            context=self.context(**changes),
            progress=progress,
            cancel=cancel,
            resume=resume,
            resume_source=self.store if resume_source == "the store" else resume_source,
        )

    def open(self, manifest: ObjectRef) -> ManifestInfo:
        return open_manifest(
            manifest_ref=manifest,
            object_source=self.store,
            trusted_writers=[self.writer_key.public],
            map_key=self.domain_keys.map_key,
        )

    def keys_for(self, manifest: ObjectRef) -> RestoreKeys:
        """Only from the vault and the tenant's private key, as after a disaster."""
        info = open_manifest(manifest_ref=manifest, object_source=self.store, trusted_writers=[self.writer_key.public])
        refs = [ref for ref in info.body.needed_refs() if "/k/" in ref.key]
        unwrapped = [
            unwrap_envelope(
                self.store.get(ref),
                tenant_private_key=self.tenant_key.private,
                tenant=TENANT,
                domain=DOMAIN,
            )
            for ref in refs
        ]
        data_keys = {keys.session.session_id: keys.session.data_key for keys in unwrapped}
        return RestoreKeys(domain=unwrapped[0].domain, data_keys=data_keys)

    def restore(
        self,
        manifest: ObjectRef,
        target: ImageTarget,
        *,
        keys: RestoreKeys | None = None,
        source: Any = None,
        cancel: Callable[[], bool] = lambda: False,
    ) -> RestoreResult:
        return restore_disk(
            manifest_ref=manifest,
            object_source=source or self.store,
            keys=keys or self.keys_for(manifest),
            trusted_writers=[self.writer_key.public],
            target=target,
            cancel=cancel,
        )

    def restored(self, manifest: ObjectRef) -> bytes:
        info = self.open(manifest)
        target = ImageTarget(info.body.size_bytes)
        self.restore(manifest, target)
        return bytes(target.data)


class PatchedSource:
    """Another store's objects with some replaced or removed (None)."""

    def __init__(self, inner: ModelStore, patches: dict[str, bytes | None]) -> None:
        self._inner = inner
        self._patches = patches

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        if ref.key not in self._patches:
            return self._inner.get(ref, offset=offset, length=length)
        data = self._patches[ref.key]
        if data is None:
            raise _not_found(ref)
        return data[offset : len(data) if length is None else offset + length]


def _not_found(ref: ObjectRef) -> Exception:
    from engine.errors import StoreNotFoundError

    return StoreNotFoundError(f"{ref.key} is not there")


def kinds(refs: tuple[ObjectRef, ...]) -> str:
    """The kinds of some objects as a sorted string such as 'ikpp'."""
    return "".join(sorted(ref.key.split("/")[4] for ref in refs))
