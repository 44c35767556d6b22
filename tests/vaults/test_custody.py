"""Keys of a tenant, envelopes that are let into a good backup, and the keys that a restore gets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as run_settings
from hypothesis import strategies as st

from common.errors import ConfigurationError, ConflictError, UnavailableError
from engine.crypto import DomainKeys, generate_session_keys, generate_tenant_key, key_fingerprint
from engine.envelope import unwrap_envelope
from engine.store.base import ObjectKind
from tests.vaults.key_world import KeyWorld, key_world
from vaults import custody
from vaults.custody import (
    CustomerKeyNeededError,
    EnvelopeRefusedError,
    check_envelope,
    ensure_keys,
    record_envelope,
    restore_needs_customer_key,
    session_data_keys,
)
from vaults.models import CatalogueKey, Envelope, StoredObject, TenantKey
from vaults.provisioner import new_domain
from vaults.storage import Credential

pytestmark = pytest.mark.django_db
Status, Mode = TenantKey.Status, TenantKey.Mode


@pytest.fixture
def keys(db: None) -> Iterator[KeyWorld]:
    with key_world() as world:
        yield world


# --- keys of a tenant -------------------------------------------------------------------------------------------------


def test_a_tenant_gets_its_two_keys_once(keys: KeyWorld) -> None:
    before = (keys.key.pk, CatalogueKey.objects.get(tenant=keys.tenant).pk)

    ensure_keys(keys.tenant)

    assert (keys.key.pk, CatalogueKey.objects.get(tenant=keys.tenant).pk) == before
    assert TenantKey.objects.filter(tenant=keys.tenant).count() == 1


def test_a_worker_that_lost_the_race_makes_no_second_key(keys: KeyWorld) -> None:
    custody._make_once(custody.new_managed_key, keys.tenant)
    custody._make_once(custody._new_catalogue_key, keys.tenant)

    assert TenantKey.objects.filter(tenant=keys.tenant).count() == 1
    assert CatalogueKey.objects.filter(tenant=keys.tenant).count() == 1


def test_a_tenant_with_its_own_key_gets_no_managed_one(keys: KeyWorld) -> None:
    TenantKey.objects.all().delete()
    TenantKey.objects.create(tenant=keys.tenant, mode=Mode.CUSTOMER, public_key=generate_tenant_key().public)

    ensure_keys(keys.tenant)

    assert keys.key.mode == Mode.CUSTOMER


def test_no_key_is_said_as_such(keys: KeyWorld) -> None:
    TenantKey.objects.all().delete()

    with pytest.raises(ConflictError) as caught:
        custody.active_key(keys.tenant.pk)

    assert caught.value.code == "no_tenant_key"


def test_a_private_half_that_was_swapped_is_noticed(keys: KeyWorld) -> None:
    TenantKey.objects.filter(pk=keys.key.pk).update(public_key=generate_tenant_key().public)

    with pytest.raises(ConfigurationError):
        custody.private_key_of(keys.key)


# --- envelopes of a commit --------------------------------------------------------------------------------------------


def checked(world: KeyWorld, data: bytes, written_by: Any, /, **changes: Any) -> bytes:
    values = {
        "tenant": str(world.tenant.pk),
        "domain": str(world.domain.pk),
        "session": written_by.session_id,
        "commitment": written_by.commitment,
        **changes,
    }
    return check_envelope(data, **values)


def test_a_good_envelope_names_its_recipient(keys: KeyWorld) -> None:
    session = keys.new_session()
    public = bytes(keys.key.public_key)

    assert checked(keys, keys.seal(session, public), session) == key_fingerprint(public)


def test_an_envelope_of_another_tenant_domain_session_or_commitment_is_refused(keys: KeyWorld) -> None:
    session, other = keys.new_session(), keys.new_session()
    public = bytes(keys.key.public_key)
    foreign = new_domain(keys.vault, random_bytes=os.urandom)
    good = keys.seal(session, public)

    for data, changes in (
        (keys.seal(session, public, tenant=str(foreign.pk)), {}),
        (keys.seal(session, public, domain=foreign), {}),
        (keys.seal(other, public), {}),
        (good, {"session": other.session_id}),
        (good, {"commitment": other.commitment}),
    ):
        with pytest.raises(EnvelopeRefusedError):
            checked(keys, data, session, **changes)


def test_a_recipient_that_is_not_in_use_is_refused(keys: KeyWorld) -> None:
    session = keys.new_session()
    stranger, untested = generate_tenant_key().public, generate_tenant_key().public
    TenantKey.objects.create(tenant=keys.tenant, mode=Mode.CUSTOMER, status=Status.UNTESTED, public_key=untested)

    for public in (stranger, untested):
        for opened_at in (None, keys.clock() - timedelta(days=900)):
            with pytest.raises(EnvelopeRefusedError, match="does not use"):
                checked(keys, keys.seal(session, public), session, opened_at=opened_at)


def test_a_well_formed_envelope_with_nothing_inside_is_refused(keys: KeyWorld) -> None:
    session = keys.new_session()
    data = keys.seal(session, bytes(keys.key.public_key))

    with pytest.raises(EnvelopeRefusedError, match="does not open"):
        checked(keys, data[:-64] + bytes(64), session)


def test_an_envelope_with_other_domain_keys_is_refused(keys: KeyWorld) -> None:
    session = keys.new_session()
    data = keys.seal(session, bytes(keys.key.public_key), domain_keys=DomainKeys(b"i" * 32, b"m" * 32))

    with pytest.raises(EnvelopeRefusedError, match="other keys"):
        checked(keys, data, session)


def test_every_flipped_byte_is_found(keys: KeyWorld) -> None:
    session = keys.new_session()
    good = keys.seal(session, bytes(keys.key.public_key))

    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        with pytest.raises(EnvelopeRefusedError):
            checked(keys, bytes(bad), session)


@run_settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=600), cut=st.integers(0, 600))
def test_whatever_a_host_stores_is_refused_and_nothing_worse(keys: KeyWorld, data: bytes, cut: int) -> None:
    session = generate_session_keys(os.urandom)
    good = keys.seal(session, bytes(keys.key.public_key))

    for bad in (data, good[:cut] + data if good[:cut] + data != good else b""):
        with pytest.raises(EnvelopeRefusedError):
            checked(keys, bad, session)


def test_a_customers_earlier_key_counts_for_sessions_that_were_open_when_it_was_replaced(keys: KeyWorld) -> None:
    session = keys.new_session()
    retired = TenantKey.objects.create(
        tenant=keys.tenant, mode=Mode.CUSTOMER, status=Status.RETIRED, public_key=generate_tenant_key().public
    )
    data = keys.seal(session, bytes(retired.public_key))
    an_hour = timedelta(hours=1)

    assert checked(keys, data, session, opened_at=retired.changed_at - an_hour)
    for opened_at in (None, retired.changed_at + an_hour):
        with pytest.raises(EnvelopeRefusedError):
            checked(keys, data, session, opened_at=opened_at)


def test_a_second_envelope_for_a_session_is_refused(keys: KeyWorld) -> None:
    session = keys.new_session()
    keys.back_up(keys=session)
    public = bytes(keys.key.public_key)
    second = keys.put(ObjectKind.KEY, keys.seal(session, public))

    with pytest.raises(EnvelopeRefusedError, match="there already"):
        checked(keys, keys.seal(session, public), session)
    with pytest.raises(EnvelopeRefusedError, match="there already"):
        record_envelope(second, writer_session=session.session_id, recipient=key_fingerprint(public))


def test_recording_twice_records_once(keys: KeyWorld) -> None:
    session = keys.new_session()
    row = keys.envelopes_of(keys.back_up(keys=session))[0]

    record_envelope(row, writer_session=session.session_id, recipient=key_fingerprint(bytes(keys.key.public_key)))

    assert Envelope.objects.filter(writer_session=session.session_id.hex()).count() == 1


# --- keys of a restore ------------------------------------------------------------------------------------------------


def data_keys(world: KeyWorld) -> dict[str, bytes]:
    return {session: keys.data_key for session, keys in world.sessions.items()}


def test_a_restore_gets_the_keys_of_the_sessions_it_names_and_no_others(keys: KeyWorld) -> None:
    for _ in range(3):
        keys.back_up()
    wanted = sorted(keys.sessions)[:2]

    found = session_data_keys(keys.domain, wanted)

    assert found == {session: data_keys(keys)[session] for session in wanted}


def test_envelopes_from_before_the_ledger_knew_them_are_found(keys: KeyWorld) -> None:
    keys.back_up(record=False)

    assert session_data_keys(keys.domain, list(keys.sessions)) == data_keys(keys)
    assert Envelope.objects.count() == 1


def test_an_object_that_no_backup_needs_is_not_taken_up(keys: KeyWorld) -> None:
    session = keys.new_session()
    keys.put(ObjectKind.KEY, keys.seal(session, bytes(keys.key.public_key)))

    with pytest.raises(ConflictError) as caught:
        session_data_keys(keys.domain, [session.session_id.hex()])

    assert caught.value.code == "envelope_missing"


def test_a_rotten_envelope_is_said_as_such(keys: KeyWorld) -> None:
    manifest = keys.back_up()
    keys.spoil(keys.envelopes_of(manifest)[0])

    with pytest.raises(ConflictError) as caught:
        session_data_keys(keys.domain, list(keys.sessions))

    assert caught.value.code == "envelope_bad"


def test_a_store_that_is_away_is_no_bad_envelope(keys: KeyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.back_up()

    def away(*_: Any, **__: Any) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr("vaults.envelopes.read_object", away)

    with pytest.raises(UnavailableError):
        session_data_keys(keys.domain, list(keys.sessions))


def test_each_process_reads_with_its_own_credential(keys: KeyWorld) -> None:
    keys.back_up()

    for credential in (Credential.SIGNER, Credential.KEEPER):
        assert session_data_keys(keys.domain, list(keys.sessions), credential=credential) == data_keys(keys)


def test_what_is_sealed_to_the_customer_needs_the_customer(keys: KeyWorld) -> None:
    managed = keys.back_up()
    TenantKey.objects.filter(pk=keys.key.pk).update(status=Status.RETIRED)
    pair = generate_tenant_key()
    TenantKey.objects.create(tenant=keys.tenant, mode=Mode.CUSTOMER, public_key=pair.public)
    session = keys.new_session()
    sealed = keys.back_up(keys=session, reused=keys.envelopes_of(managed))

    assert not restore_needs_customer_key(managed)
    assert restore_needs_customer_key(sealed)
    with pytest.raises(CustomerKeyNeededError, match="backupsite-restore"):
        session_data_keys(keys.domain, [session.session_id.hex()])
    envelope = keys.envelopes_of(sealed)[-1]
    data = keys.store.head(key=f"{keys.vault.bucket}/{envelope.key}").data
    opened = unwrap_envelope(
        data, tenant_private_key=pair.private, tenant=str(keys.tenant.pk), domain=str(keys.domain.pk)
    )
    assert opened.session == session


def test_a_backup_of_another_tenant_never_gives_a_key(keys: KeyWorld) -> None:
    keys.back_up()
    other = KeyWorld()

    with pytest.raises(ConflictError):
        session_data_keys(other.domain, list(keys.sessions))


def test_an_envelope_that_is_gone_from_the_vault_is_not_chosen(keys: KeyWorld) -> None:
    manifest = keys.back_up()
    row = keys.envelopes_of(manifest)[0]
    StoredObject.objects.filter(pk=row.pk).update(status=StoredObject.Status.DELETING, condemned_epoch=1)

    with pytest.raises(ConflictError):
        session_data_keys(keys.domain, list(keys.sessions))
