from __future__ import annotations

from datetime import timedelta

import pytest

from engine.errors import StoreDeniedError, StoreError, StoreNotFoundError
from engine.store.base import ObjectRef
from engine.store.memory import Fault, ModelStore, PreconditionError
from tests.engine.support import NOW


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> ModelStore:
    return ModelStore(now=clock)


DAY = timedelta(days=1)


def test_a_locked_version_cannot_be_deleted_before_its_date(store: ModelStore, clock: Clock) -> None:
    version = store.put_object(key="a", data=b"x", retain_until=NOW + DAY)

    with pytest.raises(StoreDeniedError):
        store.delete_version(key="a", version_id=version.version_id)

    clock.now = NOW + DAY
    store.delete_version(key="a", version_id=version.version_id)
    with pytest.raises(StoreNotFoundError):
        store.head(key="a")


def test_a_lock_is_only_extended(store: ModelStore) -> None:
    version = store.put_object(key="a", data=b"x", retain_until=NOW + 2 * DAY)

    with pytest.raises(StoreDeniedError):
        store.put_retention(key="a", version_id=version.version_id, retain_until=NOW + DAY)

    store.put_retention(key="a", version_id=version.version_id, retain_until=NOW + 3 * DAY)
    assert store.head(key="a").retain_until == NOW + 3 * DAY


def test_a_delete_marker_hides_but_does_not_remove(store: ModelStore) -> None:
    version = store.put_object(key="a", data=b"x", retain_until=NOW + DAY)

    marker = store.delete_object(key="a")

    with pytest.raises(StoreNotFoundError):
        store.head(key="a")
    assert store.get(ObjectRef("a", version.sha256, 1, version.version_id)) == b"x"
    store.delete_version(key="a", version_id=marker.version_id)
    assert store.head(key="a").version_id == version.version_id


def test_a_second_put_is_a_new_version_unless_forbidden(store: ModelStore) -> None:
    first = store.put_object(key="a", data=b"x")
    second = store.put_object(key="a", data=b"y")

    with pytest.raises(PreconditionError):
        store.put_object(key="a", data=b"z", if_none_match=True)

    assert [version.version_id for version in store.list_versions(prefix="a")] == [
        first.version_id,
        second.version_id,
    ]


def test_a_past_lock_date_is_refused(store: ModelStore) -> None:
    with pytest.raises(StoreError):
        store.put_object(key="a", data=b"x", retain_until=NOW)


def test_a_wrong_checksum_is_refused(store: ModelStore) -> None:
    with pytest.raises(StoreError, match="checksum"):
        store.put_object(key="a", data=b"x", sha256="0" * 64)


@pytest.mark.parametrize(("fault", "is_stored"), [(Fault.BEFORE, 0), (Fault.AFTER, 1), (Fault.REFUSE, 0)])
def test_a_fault_strikes_at_its_operation(store: ModelStore, fault: Fault, is_stored: int) -> None:
    store.faults = {0: fault}

    with pytest.raises(StoreError) as caught:
        store.put_object(key="a", data=b"x")

    assert caught.value.transient is (fault is not Fault.REFUSE)
    assert len(store.list_versions()) == is_stored
