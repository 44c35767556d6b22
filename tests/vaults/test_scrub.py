"""Every byte is read in time, damage is found and never guessed, and what comes back is forgiven."""

from __future__ import annotations

import hashlib
import io
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, IncompleteReadError
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UnavailableError
from engine.store.memory import Fault
from tests.vaults.scrubbing import fresh, restore_bytes, scrub, spoil, standing
from tests.vaults.shelf import START, Shelf, shelf
from vaults import scrub_alarms
from vaults.damage import Damage, healing_list
from vaults.models import StoredObject
from vaults.reading import stream_object
from vaults.scrubber import ScrubLimits, ScrubResult, due_objects, look_again, scrub_vault
from vaults.stripes import STRIPE_COUNT, is_due, stripe_began, stripe_of

__all__ = ["shelf"]


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
