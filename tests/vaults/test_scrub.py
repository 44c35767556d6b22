"""Every byte is read in time, damage is found and never guessed, and what comes back is forgiven."""

from __future__ import annotations

import hashlib
import io
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from botocore.exceptions import ClientError, EndpointConnectionError, IncompleteReadError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backups.models import Backup
from common.errors import UnavailableError
from engine.store.memory import Fault
from tests.factories import make_backup, make_server
from tests.vaults.shelf import START, Shelf, shelf
from vaults import scrub_alarms
from vaults.damage import Damage, healing_list
from vaults.models import Alarm, ObjectUse, StoredObject, Vault
from vaults.reading import stream_object
from vaults.scrubber import ScrubLimits, ScrubResult, due_objects, look_again, scrub_vault
from vaults.stripes import STRIPE_COUNT, is_due, stripe_began, stripe_of

__all__ = ["shelf"]


def scrub(shelf: Shelf, **limits: Any) -> ScrubResult:
    """One run at the shelf's time, without waiting for anything."""
    with time_machine.travel(shelf.now, tick=False):
        return scrub_vault(
            vault_id=str(shelf.vault.pk), clock=shelf.clock, limits=ScrubLimits(**limits), sleep=lambda seconds: None
        )


def fresh(row: StoredObject) -> StoredObject:
    return StoredObject.objects.get(pk=row.pk)


def standing(shelf: Shelf) -> set[str]:
    return set(Alarm.objects.standing().filter(vault=shelf.vault).values_list("code", flat=True))


def spoil(shelf: Shelf, row: StoredObject) -> None:
    """Another byte in the middle, under the same version."""
    versions = shelf.versions(row)
    data = bytearray(versions[0].data)
    data[len(data) // 2] ^= 1
    versions[0] = replace(versions[0], data=bytes(data))


def restore_bytes(shelf: Shelf, row: StoredObject, data: bytes) -> None:
    versions = shelf.versions(row)
    versions[0] = replace(versions[0], data=data)


# --- which and when ---------------------------------------------------------------------------------------------------

HASHES = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2031, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=START.tzinfo)
)


@given(HASHES, MOMENTS)
def test_a_stripe_begins_at_midnight_within_the_last_30_days(sha256: str, now: datetime) -> None:
    began = stripe_began(stripe_of(sha256), now)

    assert timedelta(0) <= now - began < timedelta(days=STRIPE_COUNT)
    assert (began.hour, began.minute, began.toordinal() % STRIPE_COUNT) == (0, 0, stripe_of(sha256))


@given(HASHES, MOMENTS, st.integers(1, 24 * 45))
def test_with_daily_runs_nothing_is_left_unread_longer_than_30_days(sha256: str, start: datetime, hours: int) -> None:
    read_at: datetime | None = None
    gaps = []
    for hour in range(0, 24 * 100, 24):
        now = start + timedelta(hours=hour)
        if is_due(sha256=sha256, read_at=read_at, is_damaged=False, now=now):
            gaps.append(now - read_at if read_at else timedelta(0))
            read_at = now

    assert max(gaps) <= timedelta(days=STRIPE_COUNT)
    # The first read and one per round: not again and again.
    assert len(gaps) <= 1 + 100 // STRIPE_COUNT + 1
    # A run that comes late finds it due; one on the day of the last read does not.
    assert is_due(sha256=sha256, read_at=read_at, is_damaged=False, now=read_at + timedelta(days=30, hours=hours))
    assert not is_due(sha256=sha256, read_at=read_at, is_damaged=False, now=read_at)


def test_all_is_read_in_30_days_and_only_once(shelf: Shelf) -> None:
    rows = [shelf.put() for _ in range(60)]
    scrub(shelf)
    shelf.client.reads.clear()
    per_day = []

    for _ in range(STRIPE_COUNT):
        shelf.pass_time(days=1)
        per_day.append(scrub(shelf).looked_at)

    assert sorted(shelf.client.reads) == sorted(row.key for row in rows)
    assert max(per_day) < len(rows) / 4


def test_a_second_run_finds_nothing_to_do(shelf: Shelf) -> None:
    shelf.put()

    assert scrub(shelf).looked_at == 1
    assert scrub(shelf).looked_at == 0


def test_days_without_a_run_are_made_up_for(shelf: Shelf) -> None:
    for _ in range(40):
        shelf.put()
    scrub(shelf)

    shelf.pass_time(days=45)

    assert scrub(shelf).looked_at == 40


def test_new_objects_are_read_first_and_old_ones_stay_due(shelf: Shelf) -> None:
    old = [shelf.put(read_at=START - timedelta(days=40)) for _ in range(3)]
    new = [shelf.put() for _ in range(3)]

    ids = list(due_objects(shelf.vault, now=shelf.now))

    assert ids == [row.pk for row in (*new, *old)]


def test_a_run_stops_when_its_time_is_over_and_the_next_one_goes_on(shelf: Shelf, monkeypatch: Any) -> None:
    for _ in range(40):
        shelf.put()
    read = stream_object

    def slowly(*arguments: Any, **options: Any) -> Any:
        shelf.pass_time(seconds=10)
        return read(*arguments, **options)

    monkeypatch.setattr("vaults.looking.stream_object", slowly)

    first = scrub_at_own_time(shelf, longest=timedelta(minutes=2))
    second = scrub_at_own_time(shelf, longest=timedelta(hours=1))

    assert (first.is_complete, first.looked_at) == (False, 16)
    assert (second.is_complete, second.looked_at) == (True, 24)
    assert len(shelf.client.reads) == len(set(shelf.client.reads)) == 40


def scrub_at_own_time(shelf: Shelf, **limits: Any) -> ScrubResult:
    return scrub_vault(
        vault_id=str(shelf.vault.pk), clock=shelf.clock, limits=ScrubLimits(**limits), sleep=lambda seconds: None
    )


def test_the_rate_is_kept(shelf: Shelf) -> None:
    for number in range(8):
        shelf.put(bytes([number]) * 100_000)
    passed = [0.0]

    def sleep(seconds: float) -> None:
        passed[0] += seconds

    scrub_vault(
        vault_id=str(shelf.vault.pk),
        clock=shelf.clock,
        limits=ScrubLimits(bytes_per_second=100_000),
        seconds=lambda: passed[0],
        sleep=sleep,
    )

    # Eight seconds' worth; the first piece goes without waiting.
    assert 6.5 <= passed[0] <= 8.5


def test_a_large_object_is_hashed_in_pieces(shelf: Shelf) -> None:
    row = shelf.put(b"x" * 3_500_000)

    sizes = [len(piece) for piece in stream_object(shelf.vault, row)]

    assert sum(sizes) == 3_500_000
    assert max(sizes) <= 1024 * 1024


@pytest.mark.parametrize("status", ["granted", "deleting", "deleted"])
def test_what_is_not_in_the_vault_is_not_looked_for(shelf: Shelf, status: str) -> None:
    shelf.put(status=status, condemned_epoch=1)

    assert scrub(shelf).looked_at == 0


# --- damage -----------------------------------------------------------------------------------------------------------


def test_wrong_bytes_are_damage_and_nothing_is_deleted(shelf: Shelf) -> None:
    bad, good = shelf.put(), shelf.put()
    spoil(shelf, bad)

    result = scrub(shelf)

    assert result.damaged == [bad.pk]
    assert (fresh(bad).damage, fresh(bad).damaged_since) == (Damage.WRONG_BYTES, shelf.now)
    assert fresh(good).damaged_since is None
    assert standing(shelf) == {scrub_alarms.DAMAGED}
    assert {name for name, _ in shelf.store.operations} <= {"put", "head", "get", "list"}


def test_a_shorter_object_is_damage(shelf: Shelf) -> None:
    row = shelf.put(b"0123456789")
    restore_bytes(shelf, row, b"01234")

    scrub(shelf)

    assert fresh(row).damage == Damage.WRONG_BYTES


def test_a_missing_object_is_damage(shelf: Shelf) -> None:
    row = shelf.put()
    shelf.versions(row).clear()

    scrub(shelf)

    assert fresh(row).damage == Damage.MISSING


def test_another_version_in_its_place_is_damage_even_with_the_same_bytes(shelf: Shelf) -> None:
    row = shelf.put(b"same")
    shelf.versions(row).clear()
    shelf.store.put_object(key=shelf.name(row.key), data=b"same")

    scrub(shelf)

    assert fresh(row).damage == Damage.WRONG_VERSION


def test_markers_and_newer_versions_hide_nothing(shelf: Shelf) -> None:
    row = shelf.put()
    shelf.store.put_object(key=shelf.name(row.key), data=b"not ours")
    shelf.store.delete_object(key=shelf.name(row.key))

    scrub(shelf)

    assert fresh(row).read_at == shelf.now
    assert fresh(row).damaged_since is None


def test_every_one_of_300_single_bit_flips_is_found(shelf: Shelf) -> None:
    rows = [shelf.put() for _ in range(300)]
    for row in rows:
        spoil(shelf, row)

    assert sorted(scrub(shelf).damaged) == sorted(row.pk for row in rows)


def test_what_was_found_good_again_is_forgiven_and_the_alarm_goes(shelf: Shelf) -> None:
    row = shelf.put(b"the right bytes")
    spoil(shelf, row)
    scrub(shelf)
    restore_bytes(shelf, row, b"the right bytes")

    shelf.pass_time(hours=25)
    result = scrub(shelf)

    assert result.mended == [row.pk]
    assert (fresh(row).damage, fresh(row).damaged_since) == ("", None)
    assert standing(shelf) == set()


def test_damage_keeps_the_time_it_was_first_seen(shelf: Shelf) -> None:
    row = shelf.put()
    spoil(shelf, row)
    scrub(shelf)

    shelf.pass_time(days=2)
    result = scrub(shelf)

    assert (result.looked_at, result.damaged) == (1, [])
    assert (fresh(row).damaged_since, fresh(row).read_at) == (START, shelf.now)


def test_an_object_that_is_removed_meanwhile_is_not_called_missing(shelf: Shelf, monkeypatch: Any) -> None:
    row = shelf.put(condemned_epoch=1, status="condemned")

    def gone(*arguments: Any, **options: Any) -> Any:
        # The second look is made where the database is.
        if threading.current_thread() is threading.main_thread():
            StoredObject.objects.filter(pk=row.pk).update(status="deleting")
        raise _refused("NoSuchVersion")

    monkeypatch.setattr(shelf.client, "head_object", gone)

    result = scrub(shelf)

    assert (result.damaged, fresh(row).damaged_since) == ([], None)


def test_the_healing_list_has_packs_and_segments_that_must_not_be_used(shelf: Shelf) -> None:
    since = {"damaged_since": START, "damage": Damage.WRONG_BYTES}
    pack, segment = shelf.put(**since), shelf.put(kind="i", **since)
    shelf.put(kind="k", **since)
    shelf.put()
    shelf.put(status="deleted", **since)

    assert healing_list(shelf.domain) == {pack.sha256, segment.sha256}
    assert healing_list(shelf.new_domain()) == set()


# --- trouble that is no damage ----------------------------------------------------------------------------------------


def _refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 500}}, "GetObject")


def _spoiled() -> dict[str, Any]:
    return {"Body": io.BytesIO(b"something else")}


TROUBLE = [
    EndpointConnectionError(endpoint_url="x"),
    IncompleteReadError(actual_bytes=1, expected_bytes=2),
    _refused("SlowDown"),
    _refused("InternalError"),
    _refused("AccessDenied"),
]


def test_a_first_bad_read_is_read_again_over_a_fresh_connection(shelf: Shelf) -> None:
    row = shelf.put()
    shelf.client.answers[row.key] = [_spoiled()]

    result = scrub(shelf)

    assert (result.damaged, shelf.client.reads, shelf.client.closed) == ([], [row.key] * 2, 1)
    assert fresh(row).damaged_since is None


@pytest.mark.parametrize("trouble", TROUBLE, ids=lambda error: str(error)[:40])
def test_trouble_is_never_damage_and_the_object_stays_due(shelf: Shelf, trouble: Exception) -> None:
    row, other = shelf.put(), shelf.put()
    shelf.client.answers[row.key] = [trouble, trouble]

    result = scrub(shelf)

    assert (result.put_off, result.damaged) == (1, [])
    assert (fresh(row).read_at, fresh(row).damaged_since) == (None, None)
    assert fresh(other).read_at == shelf.now
    assert list(due_objects(shelf.vault, now=shelf.now)) == [row.pk]


@pytest.mark.parametrize("trouble", TROUBLE, ids=lambda error: str(error)[:40])
def test_damage_that_is_seen_once_and_trouble_after_it_are_no_damage(shelf: Shelf, trouble: Exception) -> None:
    row = shelf.put()
    shelf.client.answers[row.key] = [_spoiled(), trouble]

    assert scrub(shelf).put_off == 1
    assert fresh(row).damaged_since is None


def test_a_store_that_is_away_ends_the_run(shelf: Shelf, monkeypatch: Any) -> None:
    for _ in range(40):
        shelf.put()

    def away(**options: Any) -> Any:
        shelf.client.reads.append("asked")
        raise EndpointConnectionError(endpoint_url="x")

    for call in ("head_object", "get_object", "head_bucket"):
        monkeypatch.setattr(shelf.client, call, away)

    with pytest.raises(UnavailableError):
        scrub(shelf)

    # One part at most, not all forty.
    assert len(shelf.client.reads) <= 20
    assert not StoredObject.objects.exclude(damaged_since=None).exists()


def test_what_stays_unread_too_long_raises_an_alarm(shelf: Shelf) -> None:
    row = shelf.put()
    shelf.client.answers[row.key] = [_refused("InternalError")] * 4
    scrub(shelf)
    assert standing(shelf) == set()

    shelf.pass_time(hours=49)
    scrub(shelf)
    assert standing(shelf) == {scrub_alarms.LATE}

    scrub(shelf)
    assert standing(shelf) == set()


@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_at_any_call_of_a_run_makes_no_damage(shelf: Shelf, fault: Fault) -> None:
    for _ in range(3):
        shelf.put()
    before = shelf.store.operation_count
    scrub(shelf)
    calls = shelf.store.operation_count - before

    for number in range(calls):
        StoredObject.objects.update(read_at=None)
        shelf.store.faults = {shelf.store.operation_count + number: fault}
        scrub(shelf)

    assert calls >= 6
    assert not StoredObject.objects.exclude(damaged_since=None).exists()


# --- locks ------------------------------------------------------------------------------------------------------------


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


# --- judged by keys ---------------------------------------------------------------------------------------------------


def test_right_bytes_do_not_clear_what_does_not_open(shelf: Shelf) -> None:
    row = shelf.put(damage=Damage.DOES_NOT_OPEN, damaged_since=START)

    result = scrub(shelf)

    assert (fresh(row).damage, result.mended) == (Damage.DOES_NOT_OPEN, [])
    assert fresh(row).read_at == shelf.now


def test_wrong_bytes_are_said_of_what_does_not_open(shelf: Shelf) -> None:
    row = shelf.put(damage=Damage.DOES_NOT_OPEN, damaged_since=START)
    spoil(shelf, row)

    scrub(shelf)

    assert fresh(row).damage == Damage.WRONG_BYTES


def test_objects_can_be_looked_at_at_once(shelf: Shelf) -> None:
    good, bad, unclear = shelf.put(read_at=START), shelf.put(read_at=START), shelf.put(read_at=START)
    spoil(shelf, bad)
    shelf.client.answers[unclear.key] = [_refused("SlowDown")] * 2

    found = look_again(shelf.vault, [good, bad, unclear], clock=shelf.clock)

    assert found == {good.pk: None, bad.pk: Damage.WRONG_BYTES}
    assert fresh(bad).damage == Damage.WRONG_BYTES
    assert hashlib.sha256(shelf.versions(good)[0].data).hexdigest() == good.sha256
