"""A tenant's vault for the tests of the stand-alone tool: several servers, in a model store or in a real bucket."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.alone.bucket import VERSIONS_KEPT, StoredBytes, StoredVersion
from engine.backup import BlockSource
from engine.compression import Compressor
from engine.crypto import DomainKeys, key_fingerprint, tenant_key_from_private, writer_key_from_private
from engine.description import DiskLabel, Labels, VaultFacts, build_description, description_key, parse_description
from engine.hashing import sha256_hex
from engine.recovery import RecoveryKey
from engine.store.base import ObjectRef
from engine.store.memory import ModelStore
from engine.writer import BackupBase, WriteContext, WriteResult, write_disk_backup
from tests.engine.support import ImageSource, noise, seeded_bytes

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CATALOGUE_KEY = writer_key_from_private(noise(32, "catalogue"))
TENANT_KEY = tenant_key_from_private(noise(32, "tenant"))
RECOVERY_KEY = RecoveryKey(TENANT_KEY.private, key_fingerprint(CATALOGUE_KEY.public))
WRITER_KEY = writer_key_from_private(noise(32, "writer"))


@dataclass
class Server:
    """One domain in a store; `sink` takes what is written, `source` reads a base."""

    sink: Any
    source: Any
    tenant: str = "acme"
    domain: str = "web01"
    tenant_public_key: bytes = TENANT_KEY.public
    sequence: int = 0
    description_sequence: int = 0
    results: list[WriteResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random_bytes = seeded_bytes(f"{self.tenant}/{self.domain}")
        self.domain_keys = DomainKeys(id_key=noise(32, self.domain + "id"), map_key=noise(32, self.domain + "map"))

    def back_up(
        self, image: bytes | bytearray | BlockSource, *, base: WriteResult | None = None, **changes: Any
    ) -> WriteResult:
        self.sequence += 1
        context = WriteContext(
            tenant=self.tenant,
            domain=self.domain,
            source_id="disk-0",
            sequence=self.sequence,
            created_at=NOW + timedelta(days=self.sequence),
            domain_keys=self.domain_keys,
            tenant_public_key=self.tenant_public_key,
            writer_key=WRITER_KEY,
            random_bytes=self.random_bytes,
            block_size=4096,
            fan_out=16,
            pack_size=64 * 1024,
            previous_sha256=self.results[-1].manifest.sha256 if self.results and base is None else None,
        )
        result = write_disk_backup(
            source=ImageSource(image) if isinstance(image, bytes | bytearray) else image,
            sink=self.sink,
            base=BackupBase(base.manifest, self.source, [WRITER_KEY.public]) if base is not None else None,
            context=replace(context, **changes),
        )
        self.results.append(result)
        return result

    def describe(self, **changes: Any) -> ObjectRef:
        self.description_sequence += 1
        disk = DiskLabel(source_id="disk-0", number=1, name="vda", size_bytes=1 << 20, latest_sequence=self.sequence)
        labels = Labels(
            tenant_title="Acme GmbH",
            server_name=f"server {self.domain}",
            disks=[disk],
            vault=VaultFacts(region="RBX", immutable_days=14),
            definitions=["daily"],
        )
        values: dict[str, Any] = {
            "tenant": self.tenant,
            "domain": self.domain,
            "sequence": self.description_sequence,
            "created_at": NOW,
            "writers": [WRITER_KEY.public],
            "labels": labels,
            "map_key": self.domain_keys.map_key,
            "catalogue_key": CATALOGUE_KEY,
            "salt": self.random_bytes(16),
            "compressor": Compressor(1),
        }
        data = build_description(**values | changes)
        body = parse_description(data, catalogue_fingerprint=key_fingerprint(data[-96:-64])).body
        return self.put(description_key(body, sha256=sha256_hex(data)), data)

    def put(self, key: str, data: bytes) -> ObjectRef:
        return self.sink.put(key=key, data=data, sha256=sha256_hex(data))


class ModelBucket:
    """Bucket over a model store."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self.reads: list[str] = []

    def folders(self, prefix: str) -> list[str]:
        keys = {version.key for version in self.store.list_versions(prefix=prefix)}
        return sorted({key[len(prefix) :].split("/")[0] for key in keys})

    def versions(self, prefix: str) -> Iterator[list[StoredVersion]]:
        by_key: dict[str, list[StoredVersion]] = {}
        for version in self.store.list_versions(prefix=prefix):
            if not version.is_delete_marker:
                stored = StoredVersion(version.key, version.version_id, len(version.data))
                by_key.setdefault(version.key, []).append(stored)
        for key in sorted(by_key):
            yield by_key[key][:VERSIONS_KEPT]

    def read(self, version: StoredVersion, *, offset: int, length: int) -> StoredBytes:
        self.reads.append(version.key)
        found = self.store.head(key=version.key, version_id=version.version_id)
        return StoredBytes(found.data[offset : offset + length], found.retain_until)

    def size_of(self, *, key: str, version_id: str) -> int:
        return len(self.store.head(key=key, version_id=version_id).data)


class BotoSink:
    """ObjectSink and ObjectSource over a real bucket, with a lock on everything."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client = client
        self.bucket = bucket
        self.retain_until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)

    def put(self, *, key: str, data: bytes | bytearray | memoryview, sha256: str) -> ObjectRef:
        body = bytes(data)
        answer = self.client.put_object(
            Bucket=self.bucket,
            Key=key,
            Body=body,
            ContentMD5=base64.b64encode(hashlib.md5(body).digest()).decode(),
            ObjectLockMode="COMPLIANCE",
            ObjectLockRetainUntilDate=self.retain_until,
        )
        return ObjectRef(key, sha256, len(body), answer["VersionId"])

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        answer = self.client.get_object(Bucket=self.bucket, Key=ref.key, VersionId=ref.version_id)
        data = answer["Body"].read()
        return data[offset : len(data) if length is None else offset + length]

    def all_keys(self) -> list[str]:
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.bucket)
        return sorted({version["Key"] for page in pages for version in page.get("Versions", [])})

    def cover(self) -> None:
        """What somebody with stolen rights could do: junk and a delete marker over every object."""
        for key in self.all_keys():
            self.client.put_object(Bucket=self.bucket, Key=key, Body=b"junk")
            self.client.delete_object(Bucket=self.bucket, Key=key)


def copy_without(store: ModelStore, gone: set[str]) -> ModelStore:
    """The same objects in a new store, with other version ids, without some keys."""
    other = ModelStore(now=lambda: NOW)
    other.put_object(key="shift-the-version-ids", data=b"1")
    for version in store.list_versions():
        if version.key not in gone:
            other.put_object(key=version.key, data=version.data)
    return other


def model_server(**changes: Any) -> tuple[Server, ModelBucket]:
    store = ModelStore(now=lambda: NOW)
    return Server(store, store, **changes), ModelBucket(store)


def flipped(data: bytes, position: int = -20) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)
