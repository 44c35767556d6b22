"""What a definition says of itself, and when each state begins and ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definitions.honest_states import GRACE, Facts, State, standing_of
from definitions.promised import Era, Span

SLOT = datetime(2026, 1, 14, 22, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
# Made a month ago, all went well up to yesterday, and the run of SLOT is due.
GOOD = Facts(
    cron="0 22 * * *",
    time_zone="UTC",
    active=True,
    since=SLOT - 30 * DAY,
    next_run_at=SLOT,
    last_slot_at=SLOT - DAY,
    last_good_at=SLOT - DAY + HOUR,
    last_good_slot_at=SLOT - DAY,
    last_verified_at=SLOT - 3 * DAY,
    locked_until=SLOT + 14 * DAY,
    promised_until=SLOT + 13 * DAY,
)


def states(now: datetime, **changes: Any) -> list[State]:
    return [finding.state for finding in standing_of(replace(GOOD, **changes), now=now).findings]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (timedelta(0), [State.PROTECTED]),
        (GRACE - timedelta(seconds=1), [State.PROTECTED]),
        (GRACE, [State.LATE]),
        (6 * HOUR + GRACE - timedelta(seconds=1), [State.LATE]),
        # A quarter of the interval and 15 minutes after the slot: 1.25 intervals and 15 minutes after the one before.
        (6 * HOUR + GRACE, [State.MISSED]),
        (DAY + 2 * HOUR, [State.STALE, State.MISSED]),
    ],
)
@pytest.mark.parametrize("dispatched", [True, False])
def test_a_run_that_makes_no_good_backup(after: timedelta, expected: list[State], dispatched: bool) -> None:
    """Whether the dispatcher is away, or ran and all jobs fail: the same is said at the same time."""
    now = SLOT + after
    moved = {"last_slot_at": SLOT, "next_run_at": SLOT + DAY} if dispatched else {}

    assert states(now, **moved) == expected


def test_a_later_run_that_fails_too_does_not_start_the_clock_anew() -> None:
    now = SLOT + 2 * DAY + GRACE

    found = standing_of(replace(GOOD, last_slot_at=SLOT + 2 * DAY, next_run_at=SLOT + 3 * DAY), now=now)

    assert [finding.state for finding in found.findings] == [State.STALE, State.MISSED]
    assert found.findings[1].since == SLOT
    assert found.findings[1].sentence == "The run of 2026-01-14 22:00 UTC has made no good backup."


def test_a_good_backup_made_by_hand_after_the_slot_heals_it() -> None:
    assert states(SLOT + 10 * HOUR, last_good_at=SLOT + 9 * HOUR, last_good_slot_at=None) == [State.PROTECTED]


def test_a_good_backup_of_the_very_moment_counts_for_the_slot() -> None:
    assert states(SLOT + 10 * HOUR, last_good_at=SLOT, last_good_slot_at=None) == [State.PROTECTED]


def test_one_on_workdays_is_not_missed_at_the_weekend() -> None:
    friday = datetime(2026, 1, 16, 22, tzinfo=UTC)
    changes = {"cron": "0 22 * * mon-fri", "last_slot_at": friday, "next_run_at": friday + 3 * DAY}

    assert states(friday + 2.5 * DAY, last_good_at=friday + HOUR, last_good_slot_at=friday, **changes) == [
        State.PROTECTED
    ]


def test_a_new_one_waits_then_is_stale() -> None:
    new = {"last_slot_at": None, "last_good_at": None, "last_good_slot_at": None, "since": SLOT - HOUR}
    no_lock = {"locked_until": None, "promised_until": None, "last_verified_at": None}

    assert states(SLOT - HOUR, **new, **no_lock) == [State.WAITING]
    assert states(SLOT + 7 * HOUR, **new, **no_lock)[0] == State.STALE
    assert State.MISSED in states(SLOT + 7 * HOUR, **new, **no_lock)


def test_an_rpo_of_its_own_counts() -> None:
    assert states(SLOT - HOUR, rpo=timedelta(hours=12)) == [State.STALE]
    assert State.STALE not in states(SLOT + 3 * DAY, rpo=timedelta(days=5))


def test_unverified_and_unlocked_are_said_beside_it() -> None:
    assert states(SLOT, last_verified_at=SLOT - 36 * DAY) == [State.UNVERIFIED]
    assert states(SLOT, last_verified_at=None, since=SLOT - 90 * DAY) == [State.UNVERIFIED]
    assert states(SLOT, last_verified_at=None) == [State.PROTECTED]
    assert states(SLOT, locked_until=None) == [State.UNLOCKED]
    assert states(SLOT, locked_until=SLOT + 2 * DAY) == [State.UNLOCKED]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"locked_until": None}, "Its last good backup has no lock in the vault."),
        ({"locked_until": SLOT + 2 * DAY}, "ends at 2026-01-16 22:00 UTC, not at 2026-01-27 22:00 UTC"),
        # The store kept its promise, and the last good backup is still the last one.
        ({"locked_until": SLOT - DAY, "promised_until": SLOT - DAY}, "ended at 2026-01-13 22:00 UTC"),
        ({"locked_until": SLOT, "promised_until": None}, "ended at 2026-01-14 22:00 UTC"),
        ({"vault_locks": False}, "Its vault has no lock"),
        (
            {"vault_locks": False, "last_good_at": None, "last_good_slot_at": None, "since": SLOT},
            "Its vault has no lock",
        ),
    ],
)
def test_what_could_be_deleted_is_unlocked_and_says_why(changes: dict[str, Any], said: str) -> None:
    worst = standing_of(replace(GOOD, **changes), now=SLOT).findings[0]

    assert worst.state == State.UNLOCKED
    assert said in worst.sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"locked_until": SLOT + timedelta(seconds=1), "promised_until": SLOT},
        # The promise is over and the lock goes on: it was kept.
        {"locked_until": SLOT + DAY, "promised_until": SLOT - DAY},
        {"locked_until": SLOT + DAY, "promised_until": None},
        {"locked_until": None, "promised_until": None},
    ],
)
def test_what_is_locked_still_is_not_unlocked(changes: dict[str, Any]) -> None:
    assert states(SLOT, **changes) == [State.PROTECTED]


@pytest.mark.parametrize(
    ("hours", "expected"),
    [(1, [State.PROTECTED]), (12.3, [State.LATE]), (19, [State.MISSED]), (37, [State.STALE, State.MISSED])],
)
def test_what_became_daily_yesterday_missed_nothing_while_it_was_weekly(hours: float, expected: list[State]) -> None:
    """The last good one is five days old; the schedule was changed at ten, and the first daily run fails."""
    changed = SLOT - 12 * HOUR
    weekly = Era("0 22 * * fri", "UTC", active=True, begin=SLOT - 30 * DAY, end=changed)
    good = {"last_good_at": SLOT - 5 * DAY, "last_good_slot_at": SLOT - 5 * DAY, "last_slot_at": SLOT - 5 * DAY}

    assert states(changed + hours * HOUR, earlier=(weekly,), **good) == expected


def test_what_was_missed_before_the_schedule_was_changed_stays_missed() -> None:
    changed = SLOT + 8 * HOUR
    daily = Era("0 22 * * *", "UTC", active=True, begin=SLOT - 30 * DAY, end=changed)
    weekly = {"cron": "0 22 * * fri", "next_run_at": SLOT + 2 * DAY, "last_slot_at": SLOT, "earlier": (daily,)}

    found = standing_of(replace(GOOD, **weekly), now=SLOT + 2 * DAY + HOUR)

    assert [(one.state, one.since) for one in found.findings] == [(State.MISSED, SLOT)]


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        *[(-30, [State.HELD]), (0.2, [State.PROTECTED]), (1, [State.LATE]), (7, [State.MISSED])],
        (50, [State.STALE, State.MISSED]),
    ],
)
def test_after_a_pause_of_days_the_clock_begins_when_it_ended(hours: float, expected: list[State]) -> None:
    ended = SLOT + 5 * DAY
    now = ended + hours * HOUR
    pauses = (Span(SLOT - HOUR, ended if now >= ended else None),)

    assert states(now, pauses=pauses, held_because="paused" if now < ended else "") == expected


def test_what_is_held_says_why_and_is_still_missed() -> None:
    found = standing_of(replace(GOOD, held_because="The node is paused: new disks"), now=SLOT + 8 * HOUR)

    assert [finding.state for finding in found.findings] == [State.MISSED, State.HELD]
    assert found.findings[1].sentence == "The node is paused: new disks"
    assert [finding.state for finding in found.alerts] == [State.MISSED]


def test_an_inactive_one_alarms_nobody_about_its_schedule() -> None:
    assert states(SLOT + 30 * DAY, active=False, next_run_at=None, last_verified_at=SLOT) == [State.INACTIVE]


@given(minutes=st.lists(st.integers(0, 60 * 24 * 6), min_size=2, max_size=8))
def test_while_nothing_happens_it_only_gets_worse(minutes: list[int]) -> None:
    seen: set[State] = set()
    for minute in sorted(minutes):
        found = set(states(SLOT + timedelta(minutes=minute), last_verified_at=SLOT + 30 * DAY))
        alarms = found & {State.MISSED, State.STALE}
        assert seen <= alarms
        seen = alarms
