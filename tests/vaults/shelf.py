"""A vault over the model store: objects with their rows in the ledger, and a clock that a test moves."""

from __future__ import annotations

import base64
import hashlib
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.store.memory import ModelStore
from tests.factories import make_tenant, make_vault
from tests.model_s3 import ModelClient
from vaults.models import Domain, StoredObject, Vault

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class CountingClient(ModelClient):
    """Counts whole reads, and can answer some of them otherwise, once each."""

    def __init__(self, store: ModelStore, *, now: Any) -> None:
        super().__init__(store, now=now)
        self.reads: list[str] = []
        self.answers: dict[str, list[Any]] = {}
        self.closed = 0

    def close(self) -> None:
        self.closed += 1

    def get_object(self, *, Bucket: str, Key: str, **options: Any) -> dict[str, Any]:
        self.reads.append(Key)
        waiting = self.answers.get(Key)
        if waiting:
            answer = waiting.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return super().get_object(Bucket=Bucket, Key=Key, **options)


@dataclass
class Shelf:
    """The vault, its store, and its time."""

    vault: Vault
    now: datetime = START
    store: ModelStore = field(init=False)
    client: CountingClient = field(init=False)
    domain: Domain = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.store = ModelStore(now=self.clock)
        self.client = CountingClient(self.store, now=self.clock)
        self.domain = self.new_domain()

    def clock(self) -> datetime:
        return self.now

    def pass_time(self, **amount: float) -> None:
        self.now += timedelta(**amount)

    def new_domain(self) -> Domain:
        vault = self.vault
        return Domain.objects.create(tenant=vault.tenant, vault=vault, wrapped_id_key=b"x", wrapped_map_key=b"x")

    def put(self, data: bytes | None = None, *, kind: str = "p", lock_days: float = 30, **fields: Any) -> StoredObject:
        """An object in the store, locked, and its row."""
        self.count += 1
        data = data if data is not None else f"object {self.count}".encode()
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"t/{self.vault.tenant_id}/d/{self.domain.pk}/{kind}/{sha256}"
        retain_until = self.now + timedelta(days=lock_days)
        version = self.store.put_object(key=self.name(key), data=data, retain_until=retain_until)
        values: dict[str, Any] = {
            "vault": self.vault,
            "domain": self.domain,
            "session_id": uuid.UUID(int=1),
            "kind": kind,
            "key": key,
            "size_bytes": len(data),
            "sha256": sha256,
            "md5_base64": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "status": StoredObject.Status.STORED,
            "version_id": version.version_id,
            "retain_until": retain_until,
            "granted_at": self.now,
            **fields,
        }
        return StoredObject.objects.create(**values)

    def name(self, key: str) -> str:
        return f"{self.vault.bucket}/{key}"

    def versions(self, row: StoredObject) -> list[Any]:
        """The store's own list: tests change it behind everybody's back."""
        return self.store._versions[self.name(row.key)]


@pytest.fixture
def shelf(db: None, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    shelf = Shelf(make_vault(make_tenant()))
    monkeypatch.setattr("vaults.storage.client_for", lambda endpoint, credential: shelf.client)
    return shelf
