"""The lock-keeper's work is never lost: what the store has accepted is in the ledger, however the commit ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from common.errors import UnavailableError
from tests.vaults.shelf import Shelf, shelf
from vaults import keeper
from vaults.keeper import UnverifiedObjectError, keep_locked, verify_stored
from vaults.locks import LockRule
from vaults.models import StoredObject

__all__ = ["shelf"]

RULE = LockRule(promised=timedelta(days=14))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_OBJECTS_AT_ONCE", 4)
    monkeypatch.setattr(keeper, "_PARALLEL_CALLS", 1)


def rows_of(shelf: Shelf, count: int) -> list[StoredObject]:
    return [shelf.put(lock_days=2) for _ in range(count)]


def keep(shelf: Shelf, rows: list[StoredObject], **options: Any) -> list[StoredObject]:
    return keep_locked(shelf.vault, rows, rule=RULE, now=shelf.now, **options)


def in_ledger(rows: list[StoredObject]) -> list[datetime]:
    dates = dict(StoredObject.objects.values_list("pk", "retain_until"))
    return [dates[row.pk] for row in rows]


def count_extensions(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, *, fail_at: int | None = None) -> list[str]:
    """Keys in the order in which the store was asked; it fails at the call with this number."""
    asked: list[str] = []
    whole: Callable[..., Any] = shelf.client.put_object_retention

    def extend(**options: Any) -> Any:
        if fail_at is not None and len(asked) == fail_at:
            raise EndpointConnectionError(endpoint_url="x")
        asked.append(options["Key"])
        return whole(**options)

    monkeypatch.setattr(shelf.client, "put_object_retention", extend)
    return asked


def test_the_ledger_has_every_new_date(shelf: Shelf) -> None:
    rows = rows_of(shelf, 10)

    changed = keep(shelf, [*rows, shelf.put(lock_days=30)])

    assert [row.pk for row in changed] == [row.pk for row in rows]
    assert in_ledger(rows) == [RULE.lock_until(shelf.now)] * 10
    assert [shelf.versions(row)[0].retain_until for row in rows] == in_ledger(rows)


@pytest.mark.parametrize("fail_at", range(10))
def test_a_retry_goes_on_where_the_last_one_ended(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, fail_at: int) -> None:
    rows = rows_of(shelf, 10)
    with monkeypatch.context() as patch:
        count_extensions(shelf, patch, fail_at=fail_at)
        with pytest.raises(UnavailableError):
            keep(shelf, rows)

    again = count_extensions(shelf, monkeypatch)
    keep(shelf, list(StoredObject.objects.order_by("pk")))

    assert again == [row.key for row in rows[fail_at:]]
    assert in_ledger(rows) == [RULE.lock_until(shelf.now)] * 10


def test_a_later_date_of_somebody_else_stays(shelf: Shelf) -> None:
    """Two committers at once, one of which promises longer."""
    rows = rows_of(shelf, 5)
    stale = list(StoredObject.objects.order_by("pk"))
    longer = LockRule(promised=timedelta(days=100))

    def meanwhile() -> None:
        keep_locked(shelf.vault, stale, rule=longer, now=shelf.now)

    keep(shelf, rows, progress=_once(meanwhile))

    assert in_ledger(rows) == [longer.lock_until(shelf.now)] * 5


def _once(call: Callable[[], None]) -> Callable[[], None]:
    waiting = [call]
    return lambda: waiting.pop()() if waiting else None


@pytest.mark.parametrize("work", ["verify", "keep"])
def test_progress_is_told_for_each_good_object_in_the_callers_thread(shelf: Shelf, work: str) -> None:
    rows = rows_of(shelf, 9)
    told: list[threading.Thread] = []

    def progress() -> None:
        told.append(threading.current_thread())

    if work == "verify":
        assert verify_stored(shelf.vault, rows, claimed_versions={}, progress=progress) == rows
    else:
        keep(shelf, rows, progress=progress)

    assert told == [threading.main_thread()] * 9


def test_no_progress_is_told_for_what_is_not_there(shelf: Shelf) -> None:
    rows = rows_of(shelf, 3)
    shelf.versions(rows[0]).clear()
    told: list[int] = []

    with pytest.raises(UnverifiedObjectError):
        verify_stored(shelf.vault, rows, claimed_versions={}, progress=lambda: told.append(1))

    assert told == []
