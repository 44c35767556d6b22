"""The scrub looks at locks too: one that is shorter than accepted is told, and set again as far as somebody vouches."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backups.models import Backup
from tests.factories import make_backup, make_server
from tests.vaults.scrubbing import fresh, scrub, standing
from tests.vaults.shelf import START, Shelf, shelf
from vaults import scrub_alarms
from vaults.damage import Damage, healing_list
from vaults.models import ObjectUse, StoredObject, Vault

__all__ = ["shelf"]


def shorten(shelf: Shelf, row: StoredObject, until: datetime | None) -> None:
    versions = shelf.versions(row)
    versions[0] = replace(versions[0], retain_until=until)


@pytest.mark.parametrize("left", [timedelta(days=14, hours=23), None])
def test_a_lock_that_is_shorter_than_accepted_is_told_and_set_again(shelf: Shelf, left: timedelta | None) -> None:
    row = shelf.put(lock_days=15)
    shorten(shelf, row, START + left if left else None)

    scrub(shelf)

    assert fresh(row).damage == Damage.SHORT_LOCK
    assert standing(shelf) == {scrub_alarms.SHORT_LOCKS}
    assert shelf.versions(row)[0].retain_until == row.retain_until
    assert healing_list(shelf.domain) == {row.sha256}


def test_the_mark_goes_when_the_lock_is_found_kept_a_day_later(shelf: Shelf) -> None:
    row = shelf.put(lock_days=15)
    shorten(shelf, row, None)
    scrub(shelf)

    scrub(shelf)
    assert standing(shelf) == {scrub_alarms.SHORT_LOCKS}
    shelf.pass_time(hours=25)
    scrub(shelf)

    assert fresh(row).damage == ""
    assert standing(shelf) == set()


def believe(row: StoredObject, until: datetime) -> StoredObject:
    """The ledger says so, rightly or not."""
    StoredObject.objects.filter(pk=row.pk).update(retain_until=until)
    return fresh(row)


def test_a_date_that_no_rule_gives_is_told_and_never_asked_for(shelf: Shelf) -> None:
    """As a ledger made again from a manifest that lies about its time might say: the lock could not be taken back."""
    row = shelf.put(lock_days=5)
    believe(row, START + timedelta(days=365 * 70))

    for _ in range(3):
        scrub(shelf)
        shelf.pass_time(hours=25)

    assert shelf.versions(row)[0].retain_until == START + timedelta(days=5)
    assert standing(shelf) >= {scrub_alarms.ABSURD_DATES}
    believe(row, START + timedelta(days=5))
    scrub(shelf)
    assert standing(shelf) == set()


@given(days=st.integers(1, 40_000), promised=st.sampled_from([1, 14, 365, 3650]))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_look_locks_longer_than_the_vault_promises_from_now(shelf: Shelf, days: int, promised: int) -> None:
    Vault.objects.filter(pk=shelf.vault.pk).update(immutable_days=promised)
    row = shelf.put(lock_days=1)
    wanted = believe(row, shelf.now + timedelta(days=days)).retain_until

    scrub(shelf)

    locked = shelf.versions(row)[0].retain_until
    bound = Vault.objects.get().lock_rule.lock_until(shelf.now)
    assert locked <= max(shelf.now + timedelta(days=1), min(wanted, bound))
    # What the vault itself promises is restored in full.
    if wanted <= bound:
        assert locked == wanted
    assert (scrub_alarms.ABSURD_DATES in standing(shelf)) == StoredObject.objects.filter(
        retain_until__gt=shelf.now + timedelta(days=3661)
    ).exists()


def promise(shelf: Shelf, row: StoredObject, *, days: float, begun: timedelta = timedelta(0), **fields: Any) -> Backup:
    """A backup that needs the object and was promised so many days from `begun` after START."""
    server = make_server(shelf.vault.tenant)
    manifest = shelf.put(kind="m")
    ObjectUse.objects.create(manifest=manifest, needed=row)
    at = START + begun
    return make_backup(server, manifest=manifest, finished_at=at, immutable_until=at + timedelta(days=days), **fields)


@pytest.mark.parametrize("removed", [False, True], ids=["in the catalogue", "removed"])
def test_a_longer_promise_of_a_backup_is_restored_at_once(shelf: Shelf, removed: bool) -> None:
    """As a definition with years of immutability leaves it: ledger and promise agree, so nothing is left to steps."""
    row = shelf.put(lock_days=3600)
    promise(shelf, row, days=3595, removed_at=START if removed else None)
    shorten(shelf, row, None)

    scrub(shelf)

    assert shelf.versions(row)[0].retain_until == row.retain_until


def test_a_manifest_s_own_longer_promise_is_restored_at_once(shelf: Shelf) -> None:
    row = shelf.put(kind="m", lock_days=400)
    make_backup(
        make_server(shelf.vault.tenant),
        manifest=row,
        finished_at=START,
        immutable_until=START + timedelta(days=395),
    )
    shorten(shelf, row, None)

    scrub(shelf)

    assert shelf.versions(row)[0].retain_until == row.retain_until


def test_neither_the_ledger_nor_a_promise_alone_makes_a_long_lock(shelf: Shelf) -> None:
    by_ledger, by_promise = shelf.put(lock_days=1), shelf.put(lock_days=20)
    promise(shelf, by_promise, days=3000)
    for row in (by_ledger, by_promise):
        shorten(shelf, row, None)
    believe(by_ledger, START + timedelta(days=3000))

    scrub(shelf)

    bound = shelf.vault.lock_rule.lock_until(START)
    assert shelf.versions(by_ledger)[0].retain_until == bound
    assert shelf.versions(by_promise)[0].retain_until == START + timedelta(days=20)


def test_a_promise_that_began_in_the_future_counts_for_nothing(shelf: Shelf) -> None:
    """As a catalogue made again from a manifest that lies about its time might hold."""
    row = shelf.put(lock_days=1)
    promise(shelf, row, days=14, begun=timedelta(days=2000))
    believe(row, START + timedelta(days=2014))

    scrub(shelf)

    assert shelf.versions(row)[0].retain_until == shelf.vault.lock_rule.lock_until(START)


@given(ledger=st.integers(1, 3700), promised=st.integers(1, 3650))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_lock_is_longer_than_both_ledger_and_rules_allow(shelf: Shelf, ledger: int, promised: int) -> None:
    row = shelf.put(lock_days=1)
    backup = promise(shelf, row, days=promised)
    wanted = believe(row, shelf.now + timedelta(days=ledger)).retain_until

    scrub(shelf)

    rule = shelf.vault.lock_rule
    allowed = max(rule.lock_until(shelf.now), backup.immutable_until + timedelta(days=12))
    locked = shelf.versions(row)[0].retain_until
    assert locked <= max(START + timedelta(days=1), min(wanted, allowed))
    if shelf.now + timedelta(days=1) < wanted <= shelf.now + timedelta(days=3661):
        assert locked == min(wanted, allowed)


def test_what_nobody_vouches_for_is_restored_step_by_step(shelf: Shelf) -> None:
    row = shelf.put(lock_days=40)
    shorten(shelf, row, None)
    least = []

    for _ in range(40):
        scrub(shelf)
        least.append(shelf.versions(row)[0].retain_until - shelf.now)
        shelf.pass_time(hours=25)
        if not fresh(row).damage:
            break

    assert shelf.versions(row)[0].retain_until == row.retain_until
    assert fresh(row).damage == ""
    assert min(least) >= timedelta(days=14)


def test_a_longer_lock_and_one_that_is_over_are_in_order(shelf: Shelf) -> None:
    longer, over = shelf.put(lock_days=5), shelf.put(lock_days=1)
    shorten(shelf, longer, START + timedelta(days=50))
    shorten(shelf, over, None)
    shelf.pass_time(days=2)

    scrub(shelf)

    assert not StoredObject.objects.exclude(damaged_since=None).exists()


def test_a_longer_lock_is_written_down(shelf: Shelf) -> None:
    """After a crash between the store and the ledger, or when the ledger was made again from the bucket."""
    row = shelf.put(lock_days=5)
    shorten(shelf, row, START + timedelta(days=50))

    scrub(shelf)

    assert fresh(row).retain_until == START + timedelta(days=50)
