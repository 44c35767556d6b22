"""Real backups, made by the engine's writer, in a vault over the model store, with their rows in the catalogue."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from pydantic import SecretStr

from agents.models import Disk, Server, WriterKey
from backups.accounting import account_commit
from backups.models import Backup
from backups.states import BackupStatus
from engine.backup import BackupBase, WriteContext, WriteResult
from engine.chunking import ChunkSizes
from engine.crypto import (
    DomainKeys,
    TenantKeyPair,
    generate_tenant_key,
    generate_writer_key,
    key_fingerprint,
)
from engine.crypto import (
    WriterKey as EngineWriterKey,
)
from engine.envelope import parse_envelope
from engine.store.base import ObjectRef
from engine.store.memory import ModelStore
from engine.stream_writer import write_stream_backup
from engine.tree_writer import write_tree_backup
from engine.writer import write_disk_backup
from tests.engine.support import BLOCK_SIZE, ImageSource, seeded_bytes
from tests.factories import disk_of, make_backup, make_server
from tests.vaults.shelf import CountingClient
from vaults.keys import ID_KEY_PURPOSE, MAP_KEY_PURPOSE, TENANT_KEY_PURPOSE, wrap_key
from vaults.models import Domain, Envelope, ObjectUse, StoredObject, TenantKey, Vault

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FAN_OUT = 4
LEAF_BYTES = FAN_OUT * BLOCK_SIZE
SMALL_CHUNKS = ChunkSizes(64, 256, 1024)


@dataclass
class BucketStore:
    """The model store as the engine's sink and source, below the vault's bucket."""

    store: ModelStore
    bucket: str

    def put(self, *, key: str, data: Any, sha256: str) -> ObjectRef:
        return replace(self.store.put(key=f"{self.bucket}/{key}", data=data, sha256=sha256), key=key)

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        return self.store.get(replace(ref, key=f"{self.bucket}/{ref.key}"), offset=offset, length=length)


@dataclass
class Library:
    """One server with one disk; `write` makes its next backup. Blocks have 512 bytes, leaves four blocks."""

    now: datetime = START
    server: Server = field(default_factory=make_server)
    tenant_key: TenantKeyPair = field(default_factory=generate_tenant_key)
    writer_key: EngineWriterKey = field(default_factory=generate_writer_key)
    sequence: int = 0

    def __post_init__(self) -> None:
        self.store = ModelStore(now=self.clock)
        self.client = CountingClient(self.store, now=self.clock)
        self.vault: Vault = self.server.tenant.vaults.get()
        self.bucket = BucketStore(self.store, self.vault.bucket)
        self.domain_keys = DomainKeys(id_key=os.urandom(32), map_key=os.urandom(32))
        self.domain = self._make_domain()
        Server.objects.filter(pk=self.server.pk).update(domain=self.domain)
        self.server.domain = self.domain
        self.random_bytes = seeded_bytes("library")
        WriterKey.objects.create(node=self.server.node, public_key=self.writer_key.public, added_at=self.now)
        wrapped = self._wrap(self.tenant_key.private, TENANT_KEY_PURPOSE, self.server.tenant_id)
        TenantKey.objects.create(
            tenant=self.server.tenant, public_key=self.tenant_key.public, wrapped_private_key=wrapped
        )

    def clock(self) -> datetime:
        return self.now

    @property
    def disk(self) -> Disk:
        return disk_of(self.server)

    def _wrap(self, key: bytes, purpose: str, owner: Any) -> bytes:
        return wrap_key(master_key=django_settings.CONFIG.master_key_bytes, key=key, purpose=purpose, owner=owner)

    def _make_domain(self) -> Domain:
        domain = Domain(tenant=self.server.tenant, vault=self.vault)
        domain.wrapped_id_key = self._wrap(self.domain_keys.id_key, ID_KEY_PURPOSE, domain.pk)
        domain.wrapped_map_key = self._wrap(self.domain_keys.map_key, MAP_KEY_PURPOSE, domain.pk)
        domain.save(force_insert=True)
        return domain

    def write(self, image: bytes, *, base: Backup | None = None, **context: Any) -> Backup:
        """A good backup of the image, with ledger, uses, envelopes and figures."""
        self.sequence += 1
        result = write_disk_backup(
            source=ImageSource(image),
            sink=self.bucket,
            base=BackupBase(self.ref(base.manifest), self.bucket) if base is not None else None,
            context=self._context(**context),
        )
        return self._commit(result, len(image))

    def write_tree(self, root: Path, **context: Any) -> Backup:
        """A good backup of a file tree, in small chunks."""
        self.sequence += 1
        settings = self._context(**context)
        result = write_tree_backup(root=root, sink=self.bucket, base=None, context=settings, sizes=SMALL_CHUNKS)
        return self._commit(result.write, result.write.stats.scanned_bytes)

    def write_stream(self, data: bytes, **context: Any) -> Backup:
        """A good backup of a byte stream, in small chunks."""
        self.sequence += 1
        settings = self._context(**context)
        source = io.BytesIO(data)
        result = write_stream_backup(source=source, sink=self.bucket, base=None, context=settings, sizes=SMALL_CHUNKS)
        return self._commit(result, len(data))

    def _context(self, **changes: Any) -> WriteContext:
        context = WriteContext(
            tenant=str(self.server.tenant_id),
            domain=str(self.domain.pk),
            source_id=str(self.disk.pk),
            sequence=self.sequence,
            created_at=self.now,
            domain_keys=self.domain_keys,
            tenant_public_key=self.tenant_key.public,
            writer_key=self.writer_key,
            random_bytes=self.random_bytes,
            block_size=BLOCK_SIZE,
            fan_out=FAN_OUT,
            pack_size=8192,
        )
        return replace(context, **changes)

    def _commit(self, result: WriteResult, size_bytes: int) -> Backup:
        with transaction.atomic():
            new = [self.take_in(ref) for ref in result.new_objects]
            manifest = self.take_in(result.manifest)
            reused = StoredObject.objects.filter(key__in=[ref.key for ref in result.reused_objects])
            needed = [row for row in (*new, *reused) if row.pk != manifest.pk]
            ObjectUse.objects.bulk_create([ObjectUse(manifest=manifest, needed=row) for row in needed])
            backup = make_backup(self.server, status=BackupStatus.PENDING)
            Backup.objects.filter(pk=backup.pk).update(
                status=BackupStatus.OK,
                manifest=manifest,
                sequence=self.sequence,
                size_bytes=size_bytes,
                immutable_until=self.now + timedelta(days=14),
            )
            account_commit(manifest.pk)
        return self.fresh(backup)

    def take_in(self, ref: ObjectRef) -> StoredObject:
        """The ledger's row of an object in the store, and its lock."""
        version = self.versions_of_key(ref.key)[-1]
        retain_until = self.now + timedelta(days=30)
        self.versions_of_key(ref.key)[-1] = replace(version, retain_until=retain_until)
        kind = ref.key.split("/")[4]
        row, _ = StoredObject.objects.get_or_create(
            vault=self.vault,
            key=ref.key,
            defaults={
                "domain": self.domain,
                "session_id": self.domain.pk,
                "kind": kind,
                "size_bytes": ref.size_bytes,
                "sha256": ref.sha256,
                "md5_base64": base64.b64encode(hashlib.md5(version.data).digest()).decode(),
                "status": "stored",
                "version_id": version.version_id,
                "retain_until": retain_until,
                "granted_at": self.now,
            },
        )
        if kind == "k":
            session = parse_envelope(version.data).session_id.hex()
            recipient = key_fingerprint(self.tenant_key.public).hex()
            Envelope.objects.get_or_create(
                stored_object=row, defaults={"writer_session": session, "recipient": recipient}
            )
        return row

    def versions_of_key(self, key: str) -> list[Any]:
        return self.store._versions[f"{self.vault.bucket}/{key}"]

    def ref(self, row: StoredObject | None) -> ObjectRef:
        assert row is not None
        return ObjectRef(row.key, row.sha256, row.size_bytes, row.version_id)

    def fresh(self, backup: Backup) -> Backup:
        return Backup.objects.select_related("manifest__domain", "vault__endpoint").get(pk=backup.pk)

    def needed(self, backup: Backup, kind: str) -> list[StoredObject]:
        return list(StoredObject.objects.filter(used_by__manifest=backup.manifest, kind=kind).order_by("pk"))

    def mark(self, *rows: StoredObject | None, damage: str = "missing") -> None:
        ids = [row.pk for row in rows if row is not None]
        StoredObject.objects.filter(pk__in=ids).update(damage=damage, damaged_since=self.now)

    def mend(self, *rows: StoredObject | None) -> None:
        ids = [row.pk for row in rows if row is not None]
        StoredObject.objects.filter(pk__in=ids).update(damage="", damaged_since=None)

    def spoil(self, row: StoredObject, *, at: int = -200) -> None:
        versions = self.versions_of_key(row.key)
        data = bytearray(versions[0].data)
        data[at % len(data)] ^= 1
        versions[0] = replace(versions[0], data=bytes(data))


@pytest.fixture
def library(db: None, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Library:
    key = SecretStr(base64.b64encode(os.urandom(32)).decode())
    settings.CONFIG = settings.CONFIG.model_copy(update={"master_key": key})
    library = Library()
    monkeypatch.setattr("vaults.storage.client_for", lambda endpoint, credential: library.client)
    return library
