"""A tenant whose key is replaced: asking for it, one round, and that everything opens with the key in use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.crypto import SessionKeys
from engine.envelope import unwrap_envelope
from tests.factories import make_person
from tests.vaults.key_world import KeyWorld, key_world
from vaults.custody import (
    fingerprint,
    private_key_of,
    sessions_of,
)
from vaults.models import TenantKey
from vaults.rotation import Round, rewrap, rotate_managed_key


@pytest.fixture
def keys(db: None) -> Iterator[KeyWorld]:
    with key_world() as world:
        yield world


def rotate(world: KeyWorld) -> TenantKey:
    person = make_person(superadmin=True)
    return rotate_managed_key(world.tenant, replaced=world.key.pk, actor=person, now=world.clock())


def run_round(world: KeyWorld) -> Round:
    return rewrap(world.tenant.pk, now=world.clock())


def expected(world: KeyWorld) -> dict[str, bytes]:
    return {session: keys.data_key for session, keys in world.sessions.items()}


def opens_with_the_active_key_alone(world: KeyWorld) -> None:
    """Read from the store itself: each session that a manifest needs has an envelope for the key in use."""
    key = world.key
    private, recipient = private_key_of(key), fingerprint(key)
    for manifest in world.manifests:
        rows = world.envelopes_of(manifest)
        opened: dict[str, SessionKeys] = {}
        for row in rows:
            if row.envelope.recipient == recipient:
                version = world.store.head(key=f"{world.vault.bucket}/{row.key}", version_id=row.version_id)
                names = {"tenant": str(world.tenant.pk), "domain": str(world.domain.pk)}
                unwrapped = unwrap_envelope(version.data, tenant_private_key=private, **names)
                opened[unwrapped.session.session_id.hex()] = unwrapped.session
                assert version.retain_until is not None
                assert version.retain_until >= max(other.retain_until for other in rows)
        assert opened == {session: world.sessions[session] for session in sessions_of(manifest)}
