"""What the service writes itself: stored once, locked, seen in the vault, never in place of something else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from common.errors import ConflictError, UnavailableError
from engine.hashing import sha256_hex
from engine.store.base import ObjectKind, object_key
from engine.store.memory import Fault
from tests.vaults.key_world import KeyWorld, key_world
from vaults.keeper import UnverifiedObjectError
from vaults.locks import LONGEST_LOCK
from vaults.models import StoredObject
from vaults.own_objects import store_own_object

pytestmark = pytest.mark.django_db
Status = StoredObject.Status
DATA = b"what the service says"


@pytest.fixture
def keys(db: None) -> Iterator[KeyWorld]:
    with key_world() as world:
        yield world


def key_of(world: KeyWorld, data: bytes = DATA) -> str:
    names = {"tenant": str(world.tenant.pk), "domain": str(world.domain.pk)}
    return object_key(**names, kind=ObjectKind.CONFIG, sha256=sha256_hex(data))


def store(world: KeyWorld, data: bytes = DATA, *, days: int = 30, key: str = "") -> StoredObject:
    now = world.clock()
    return store_own_object(
        world.domain,
        kind=ObjectKind.CONFIG,
        key=key or key_of(world),
        data=data,
        retain_until=now + timedelta(days=days),
        now=now,
    )


def versions_of(world: KeyWorld) -> list[object]:
    return list(world.store._versions[f"{world.vault.bucket}/{key_of(world)}"])


def test_the_same_bytes_are_stored_once_with_the_longer_lock(keys: KeyWorld) -> None:
    first, second, third = store(keys), store(keys, days=60), store(keys, days=10)

    assert first.pk == second.pk == third.pk
    assert len(versions_of(keys)) == 1
    assert keys.store.head(key=f"{keys.vault.bucket}/{key_of(keys)}").retain_until == keys.clock() + timedelta(days=60)


def test_a_lost_reply_is_found_out_by_the_next_try(keys: KeyWorld) -> None:
    keys.store.faults[keys.store.operation_count] = Fault.AFTER
    with pytest.raises(UnavailableError):
        store(keys)
    assert StoredObject.objects.get().status == Status.GRANTED

    row = store(keys)

    assert (row.status, bool(row.version_id), len(versions_of(keys))) == (Status.STORED, True, 1)


def test_a_put_that_did_not_arrive_is_made_again(keys: KeyWorld) -> None:
    keys.store.faults[keys.store.operation_count] = Fault.BEFORE
    with pytest.raises(UnavailableError):
        store(keys)

    assert store(keys).status == Status.STORED


def test_other_bytes_under_the_name_are_not_taken_for_ours(keys: KeyWorld) -> None:
    until = keys.clock() + timedelta(days=90)
    keys.store.put_object(key=f"{keys.vault.bucket}/{key_of(keys)}", data=b"not that, same size!!", retain_until=until)

    with pytest.raises(UnverifiedObjectError):
        store(keys)

    assert StoredObject.objects.get().status == Status.GRANTED


def test_an_object_without_its_lock_is_not_stored(keys: KeyWorld) -> None:
    keys.store.put_object(key=f"{keys.vault.bucket}/{key_of(keys)}", data=DATA)

    with pytest.raises(UnverifiedObjectError):
        store(keys)


def test_no_lock_is_longer_than_the_longest(keys: KeyWorld) -> None:
    assert store(keys, days=9000).retain_until == keys.clock() + LONGEST_LOCK


@pytest.mark.parametrize("status", [Status.DELETING, Status.DELETED])
def test_what_is_being_removed_is_not_brought_back(keys: KeyWorld, status: str) -> None:
    StoredObject.objects.filter(pk=store(keys).pk).update(status=status, condemned_epoch=1)

    with pytest.raises(ConflictError) as caught:
        store(keys)

    assert caught.value.code == "object_removed"


def test_what_was_condemned_is_stored_again(keys: KeyWorld) -> None:
    StoredObject.objects.filter(pk=store(keys).pk).update(status=Status.CONDEMNED, condemned_epoch=1)

    row = store(keys)

    row.refresh_from_db()
    assert (row.status, row.condemned_epoch) == (Status.STORED, None)


def test_a_name_that_is_taken_by_other_bytes_is_refused(keys: KeyWorld) -> None:
    store(keys)

    with pytest.raises(ConflictError) as caught:
        store(keys, b"other", key=key_of(keys))

    assert caught.value.code == "key_taken"


def test_a_lock_that_the_store_does_not_lengthen_is_noticed(keys: KeyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    store(keys)
    monkeypatch.setattr("vaults.own_objects.extend_lock", lambda *_, **__: None)

    with pytest.raises(UnverifiedObjectError):
        store(keys, days=60)
