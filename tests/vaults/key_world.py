"""A tenant with a vault in the model store, and backups reduced to what keys are about: envelopes and who needs them.

Each credential may do here what its policy lets it do, and nothing else.
"""

from __future__ import annotations

import base64
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

from django.conf import settings
from django.db import transaction
from pydantic import SecretStr

from engine.crypto import SessionKeys, TenantKeyPair, generate_session_keys, generate_tenant_key, key_fingerprint
from engine.envelope import seal_envelope
from engine.hashing import sha256_hex
from engine.store.base import ObjectKind, object_key
from engine.store.memory import ModelStore
from tests import factories
from tests.model_s3 import ModelClient
from vaults.custody import active_key, domain_keys_of, ensure_keys, record_envelope
from vaults.locks import LockRule
from vaults.models import Domain, ObjectUse, StoredObject, TenantKey
from vaults.provisioner import new_domain

MASTER_KEY = bytes(range(32))
BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
_ALLOWED = {
    "signer": {"get_object", "head_bucket", "put_object"},
    "keeper": {"get_object", "head_object", "head_bucket", "list_object_versions", "put_object_retention"},
    "copier": {"put_object"},
}
_count = itertools.count(1)


class Killed(BaseException):
    """The process is gone at this place."""


class Clock:
    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime:
        return self.now


class CredentialClient:
    """The model client as one credential sees it. `before` and `after` may end the process around any call."""

    def __init__(self, client: ModelClient, credential: str, around: Callable[[str], None]) -> None:
        self._client = client
        self._allowed = _ALLOWED[credential]
        self._around = around

    def __getattr__(self, name: str) -> Any:
        assert name in self._allowed, f"this credential may not {name}"

        def call(**options: Any) -> Any:
            self._around(f"before {name}")
            answer = getattr(self._client, name)(**options)
            self._around(f"after {name}")
            return answer

        return call


class KeyWorld:
    def __init__(self) -> None:
        self.clock = Clock()
        self.store = ModelStore(now=self.clock)
        self.places: list[str] = []
        self.kill_at: int | None = None
        self.tenant = factories.make_tenant()
        self.vault = factories.make_vault(self.tenant)
        ensure_keys(self.tenant)
        self.domain = new_domain(self.vault, random_bytes=os.urandom)
        self.sessions: dict[str, SessionKeys] = {}
        self.manifests: list[StoredObject] = []

    @property
    def rule(self) -> LockRule:
        return self.vault.lock_rule

    @property
    def key(self) -> TenantKey:
        return active_key(self.tenant.pk)

    def client_for(self, endpoint: object, credential: str) -> CredentialClient:
        return CredentialClient(ModelClient(self.store, now=self.clock), str(credential), self._around)

    def _around(self, place: str) -> None:
        if self.kill_at == len(self.places):
            self.places.append(place)
            raise Killed(place)
        self.places.append(place)

    # --- a host -------------------------------------------------------------------------------------------------------

    def seal(self, keys: SessionKeys, public_key: bytes, domain: Domain | None = None, **changes: Any) -> bytes:
        domain = domain or self.domain
        values = {
            "session": keys,
            "domain_keys": domain_keys_of(domain),
            "tenant": str(domain.tenant_id),
            "domain": str(domain.pk),
            "tenant_public_key": public_key,
            **changes,
        }
        return seal_envelope(**values)

    def new_session(self) -> SessionKeys:
        keys = generate_session_keys(os.urandom)
        self.sessions[keys.session_id.hex()] = keys
        return keys

    def back_up(
        self,
        *,
        reused: list[StoredObject] | None = None,
        public_key: bytes | None = None,
        keys: SessionKeys | None = None,
        record: bool = True,
    ) -> StoredObject:
        """A manifest that needs one new session and the envelopes `reused`; returns the manifest's row."""
        public = public_key or bytes(self.key.public_key)
        keys = keys or self.new_session()
        data = self.seal(keys, public)
        envelope = self.put(ObjectKind.KEY, data)
        if record:
            with transaction.atomic():
                record_envelope(envelope, writer_session=keys.session_id, recipient=key_fingerprint(public))
        manifest = self.put(ObjectKind.MANIFEST, b"manifest %d" % next(_count))
        needed = [envelope, *(reused or [])]
        ObjectUse.objects.bulk_create([ObjectUse(manifest=manifest, needed=row) for row in needed])
        self.manifests.append(manifest)
        return manifest

    def put(self, kind: ObjectKind, data: bytes) -> StoredObject:
        sha256 = sha256_hex(data)
        key = object_key(tenant=str(self.tenant.pk), domain=str(self.domain.pk), kind=kind, sha256=sha256)
        until = self.rule.lock_until(self.clock())
        place = f"{self.vault.bucket}/{key}"
        version = self.store.put_object(key=place, data=data, sha256=sha256, retain_until=until, if_none_match=True)
        return StoredObject.objects.create(
            vault=self.vault,
            domain=self.domain,
            session_id=self.domain.pk,
            kind=str(kind),
            key=key,
            size_bytes=len(data),
            sha256=sha256,
            md5_base64="",
            status=StoredObject.Status.STORED,
            version_id=version.version_id,
            retain_until=until,
            granted_at=self.clock(),
        )

    def envelopes_of(self, manifest: StoredObject) -> list[StoredObject]:
        return list(StoredObject.objects.filter(used_by__manifest=manifest, kind="k").order_by("pk"))

    def spoil(self, row: StoredObject) -> None:
        """The bytes of the object rot in the vault."""
        versions = self.store._versions[f"{row.vault.bucket}/{row.key}"]
        for place, version in enumerate(versions):
            versions[place] = type(version)(
                **{name: getattr(version, name) for name in version.__slots__ if name != "data"}, data=b"rotten"
            )

    def customer_key(self) -> tuple[TenantKeyPair, str]:
        pair = generate_tenant_key()
        return pair, pair.public.hex()

    def pass_time(self, **time: float) -> None:
        self.clock.now += timedelta(**time)


@contextmanager
def key_world() -> Iterator[KeyWorld]:
    config = settings.CONFIG.model_copy(update={"master_key": SecretStr(base64.b64encode(MASTER_KEY).decode())})
    with mock.patch.object(settings, "CONFIG", config):
        world = KeyWorld()
        with (
            mock.patch("vaults.storage.client_for", world.client_for),
            mock.patch("vaults.storage.timezone.now", world.clock),
            mock.patch("vaults.rotation.current_app.send_task"),
        ):
            yield world
