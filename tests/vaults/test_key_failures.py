"""Keys under the master key, and envelopes in the vault, when something is wrong with them: refused, never guessed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from unittest import mock

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigurationError, ConflictError
from engine.crypto import generate_tenant_key, generate_writer_key
from engine.store.base import ObjectKind
from tests.vaults.key_world import MASTER_KEY, KeyWorld, key_world
from vaults import master_key
from vaults.custody import (
    CustomerKeyNeededError,
    catalogue_key_of,
    domain_keys_of,
    private_key_of,
    restore_needs_customer_key,
    session_data_keys,
)
from vaults.envelopes import open_first, record_missing
from vaults.keys import CATALOGUE_KEY_PURPOSE, ID_KEY_PURPOSE, TENANT_KEY_PURPOSE, unwrap_key, wrap_key
from vaults.models import CatalogueKey, Domain, Envelope, TenantKey
from vaults.provisioner import new_domain
from vaults.storage import Credential

OWNER = uuid.UUID(int=7)
KEY = bytes(range(32, 64))


@pytest.fixture
def keys(db: None) -> Iterator[KeyWorld]:
    with key_world() as world:
        yield world


def wrapped(**changes: object) -> bytes:
    return wrap_key(**{"master_key": MASTER_KEY, "key": KEY, "purpose": TENANT_KEY_PURPOSE, "owner": OWNER, **changes})


def unwrap(data: bytes, **changes: object) -> bytes:
    return unwrap_key(
        **{"master_key": MASTER_KEY, "wrapped": data, "purpose": TENANT_KEY_PURPOSE, "owner": OWNER, **changes}
    )


# --- wrapping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"master_key": bytes(32)}, {"purpose": ID_KEY_PURPOSE}, {"owner": uuid.UUID(int=8)}],
    ids=["another master key", "another purpose", "another row"],
)
def test_a_wrapped_key_opens_in_its_own_row_alone(changes: dict[str, object]) -> None:
    assert unwrap(wrapped()) == KEY
    with pytest.raises(ConfigurationError, match="BACKUPSITE_MASTER_KEY") as caught:
        unwrap(wrapped(), **changes)

    assert KEY.hex() not in str(caught.value) and repr(KEY) not in str(caught.value)


@given(place=st.integers(0, 60), bit=st.integers(0, 7), length=st.integers(0, 60))
def test_a_changed_or_cut_row_opens_never(place: int, bit: int, length: int) -> None:
    data = bytearray(wrapped())
    assert len(data) == 61
    data[place] ^= 1 << bit

    for bad in (bytes(data), wrapped()[:length]):
        with pytest.raises(ConfigurationError):
            unwrap(bad)


def test_a_nonce_is_never_used_twice() -> None:
    assert len({wrapped()[1:13] for _ in range(64)}) == 64


def test_a_rewrapped_key_that_does_not_open_replaces_nothing(keys: KeyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a fault of the machine would leave it: the only copy is opened once before."""
    before = list(TenantKey.objects.values_list("pk", "wrapped_private_key"))
    real = master_key.wrap_key

    def faulty(*, key: bytes, **options: object) -> bytes:
        return real(key=bytes(len(key)), **options)

    monkeypatch.setattr(master_key, "wrap_key", faulty)

    with pytest.raises(RuntimeError, match="did not survive") as caught:
        master_key.rewrap_all(old=MASTER_KEY, new=bytes(32), write=True)

    assert list(TenantKey.objects.values_list("pk", "wrapped_private_key")) == before
    assert private_key_of(keys.key).hex() not in str(caught.value)


def test_one_row_that_does_not_open_stops_the_whole_change(keys: KeyWorld) -> None:
    Domain.objects.filter(pk=keys.domain.pk).update(wrapped_map_key=wrapped())

    with pytest.raises(ConfigurationError, match="domain map key"):
        master_key.rewrap_all(old=MASTER_KEY, new=bytes(32), write=True)

    assert private_key_of(keys.key)  # opens with the present master key


# --- halves that do not belong together -------------------------------------------------------------------------------


def test_a_row_whose_halves_were_exchanged_is_not_used(keys: KeyWorld) -> None:
    TenantKey.objects.filter(pk=keys.key.pk).update(public_key=generate_tenant_key().public)
    CatalogueKey.objects.filter(tenant=keys.tenant).update(public_key=generate_writer_key().public)

    with pytest.raises(ConfigurationError, match="do not belong together"):
        private_key_of(keys.key)
    with pytest.raises(ConfigurationError, match="do not belong together"):
        catalogue_key_of(keys.tenant.pk)


def test_keys_of_another_tenant_open_nothing_here(keys: KeyWorld) -> None:
    other = wrap_key(master_key=MASTER_KEY, key=KEY, purpose=CATALOGUE_KEY_PURPOSE, owner=uuid.uuid4())
    CatalogueKey.objects.filter(tenant=keys.tenant).update(wrapped_private_key=other)
    Domain.objects.filter(pk=keys.domain.pk).update(wrapped_id_key=wrapped(purpose=ID_KEY_PURPOSE))

    with pytest.raises(ConfigurationError):
        catalogue_key_of(keys.tenant.pk)
    with pytest.raises(ConfigurationError):
        domain_keys_of(Domain.objects.get(pk=keys.domain.pk))


def test_the_private_half_of_a_customer_s_key_is_not_to_be_had(keys: KeyWorld) -> None:
    key = TenantKey(tenant=keys.tenant, mode="customer", public_key=generate_tenant_key().public)

    with pytest.raises(CustomerKeyNeededError):
        private_key_of(key)


def test_a_process_without_the_master_key_opens_nothing(keys: KeyWorld) -> None:
    without = settings.CONFIG.model_copy(update={"master_key": None})
    with (
        mock.patch.object(settings, "CONFIG", without),
        pytest.raises(ConfigurationError, match="MASTER_KEY is not set"),
    ):
        private_key_of(keys.key)


# --- envelopes in the vault -------------------------------------------------------------------------------------------


def envelope_of(keys: KeyWorld) -> Envelope:
    [row] = keys.envelopes_of(keys.back_up())
    return Envelope.objects.select_related("stored_object__vault__endpoint").get(pk=row.pk)


def first_of(keys: KeyWorld, *envelopes: Envelope) -> bytes:
    private = {envelope.recipient: private_key_of(keys.key) for envelope in envelopes}
    return open_first(keys.domain, envelopes, private, Credential.KEEPER).session.session_id


def test_a_row_that_names_another_session_than_its_object_is_refused(keys: KeyWorld) -> None:
    envelope = envelope_of(keys)
    assert first_of(keys, envelope).hex() == envelope.writer_session
    envelope.writer_session = "00" * 16

    with pytest.raises(ConflictError, match="another session") as caught:
        first_of(keys, envelope)

    assert caught.value.code == "envelope_bad"


def test_a_whole_envelope_stands_in_for_a_rotten_one(keys: KeyWorld) -> None:
    rotten, whole = envelope_of(keys), envelope_of(keys)
    keys.spoil(rotten.stored_object)

    assert first_of(keys, rotten, whole).hex() == whole.writer_session
    with pytest.raises(ConflictError, match="does not open"):
        first_of(keys, rotten)


def test_no_envelope_at_all_is_said(keys: KeyWorld) -> None:
    with pytest.raises(ConflictError) as caught:
        first_of(keys)

    assert caught.value.code == "envelope_missing"


def test_of_unrecorded_objects_only_this_domain_s_sound_envelopes_are_recorded(keys: KeyWorld) -> None:
    """A key object of a good backup that is rubbish, or another domain's, is passed over and the next one read."""
    elsewhere = new_domain(keys.vault, random_bytes=os.urandom)
    foreign = keys.seal(keys.new_session(), bytes(keys.key.public_key), domain=elsewhere)
    odd = [keys.put(ObjectKind.KEY, data) for data in (b"rubbish", foreign)]
    manifest = keys.back_up(reused=odd, record=False)
    assert not Envelope.objects.exists()

    record_missing(keys.domain, credential=Credential.KEEPER)
    record_missing(keys.domain, credential=Credential.KEEPER)

    [recorded] = Envelope.objects.all()
    assert recorded.stored_object in keys.envelopes_of(manifest)
    assert recorded.stored_object_id not in {row.pk for row in odd}


def test_only_a_tenant_with_a_customer_s_key_needs_it(keys: KeyWorld) -> None:
    manifest = keys.back_up()
    assert not restore_needs_customer_key(manifest)

    customer = generate_tenant_key()
    TenantKey.objects.create(tenant=keys.tenant, mode="customer", status="retired", public_key=customer.public)
    assert not restore_needs_customer_key(manifest)
    theirs = keys.back_up(public_key=customer.public)

    assert restore_needs_customer_key(theirs)
    with pytest.raises(CustomerKeyNeededError, match="backupsite-restore"):
        session_data_keys(keys.domain, [keys.envelopes_of(theirs)[0].envelope.writer_session])


def test_a_session_sealed_to_nobody_we_know_is_missing_and_not_the_customer_s(keys: KeyWorld) -> None:
    stranger = keys.back_up(public_key=generate_tenant_key().public)

    with pytest.raises(ConflictError) as caught:
        session_data_keys(keys.domain, [keys.envelopes_of(stranger)[0].envelope.writer_session, os.urandom(16).hex()])

    assert caught.value.code == "envelope_missing"
    assert "2 sessions" in caught.value.message
