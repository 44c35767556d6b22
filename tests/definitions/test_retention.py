"""What retention removes, and what nobody can make it remove."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ids import new_id
from definitions.retention import Candidate, Rules, judge
from definitions.retention import to_remove as plain_to_remove

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=41)
BERLIN = ZoneInfo("Europe/Berlin")


def to_remove(*, candidates: Iterable[Candidate], keep: int) -> list[Candidate]:
    return plain_to_remove(candidates=candidates, rules=Rules(count=keep), now=NOW, zone=BERLIN)


def reasons(candidates: Iterable[Candidate], *, now: datetime = NOW, **rules: int) -> dict[Candidate, set[str]]:
    """What is kept, and why."""
    verdicts = judge(candidates=candidates, rules=Rules(**rules), now=now, zone=BERLIN)
    return {verdict.candidate: set(verdict.reasons) for verdict in verdicts if verdict.kept}


def scheduled(day: int) -> Candidate:
    slot = START + timedelta(days=day)
    return Candidate(id=new_id(), created_at=slot + timedelta(seconds=3), slot_at=slot)


def manual(hour: int) -> Candidate:
    return Candidate(id=new_id(), created_at=START + timedelta(hours=hour), slot_at=None)


def test_the_oldest_beyond_the_count_are_removed() -> None:
    candidates = [scheduled(day) for day in range(5)]

    removed = to_remove(candidates=candidates, keep=3)

    assert set(removed) == set(candidates[:2])


def test_zero_keeps_all() -> None:
    assert to_remove(candidates=[scheduled(day) for day in range(50)], keep=0) == []


@pytest.mark.case("AZ-16")
def test_a_hundred_manual_backups_do_not_push_out_scheduled_ones() -> None:
    good = [scheduled(day) for day in range(3)]
    flood = [manual(1000 + hour) for hour in range(100)]

    removed = to_remove(candidates=[*good, *flood], keep=3)

    assert not set(good) & set(removed)
    assert len(removed) == 97


def test_of_two_backups_in_one_slot_only_the_newer_counts() -> None:
    first, later = scheduled(1), scheduled(1)
    later = Candidate(id=later.id, created_at=first.created_at + timedelta(minutes=1), slot_at=first.slot_at)

    assert to_remove(candidates=[first, later, scheduled(2)], keep=2) == [first]


@given(
    st.lists(st.one_of(st.integers(0, 40).map(scheduled), st.integers(0, 900).map(manual)), max_size=60),
    st.integers(0, 10),
)
def test_it_never_removes_more_than_allowed(candidates: list[Candidate], keep: int) -> None:
    removed = to_remove(candidates=candidates, keep=keep)

    kept = set(candidates) - set(removed)
    assert len(removed) == len(set(removed)) and set(removed) <= set(candidates)
    slots = {candidate.slot_at for candidate in candidates if candidate.slot_at}
    kept_slots = {candidate.slot_at for candidate in kept if candidate.slot_at}
    if keep:
        assert kept_slots == set(sorted(slots)[-keep:])
        assert len([one for one in kept if one.slot_at is None]) == min(
            keep, len([one for one in candidates if one.slot_at is None])
        )
    else:
        assert not removed


def damaged(candidate: Candidate) -> Candidate:
    return Candidate(candidate.id, candidate.created_at, candidate.slot_at, healthy=False)


def test_damaged_backups_do_not_push_out_good_ones() -> None:
    good = [scheduled(day) for day in range(3)]
    bad = [damaged(scheduled(day)) for day in range(10, 20)]

    assert to_remove(candidates=[*good, *bad], keep=3) == []


def test_a_damaged_backup_goes_when_it_is_older_than_all_that_is_kept() -> None:
    old = damaged(scheduled(0))

    assert to_remove(candidates=[old, scheduled(1), scheduled(2)], keep=2) == [old]
    assert to_remove(candidates=[old, scheduled(1)], keep=2) == []


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=40, unique_by=lambda item: item[0]),
    st.integers(1, 10),
)
def test_the_newest_good_backups_always_stay(days: list[tuple[int, bool]], keep: int) -> None:
    candidates = [scheduled(day) if good else damaged(scheduled(day)) for day, good in days]
    healthy = sorted((item for item in candidates if item.healthy), key=lambda item: item.created_at)

    removed = set(to_remove(candidates=candidates, keep=keep))

    assert not set(healthy[-keep:]) & removed
    assert removed <= set(candidates)


def test_periods_keep_the_newest_of_each_and_say_so() -> None:
    year = [scheduled(day) for day in range(400)]

    kept = reasons(year, now=START + timedelta(days=400), daily=3, weekly=2, monthly=3, yearly=2)

    days = {candidate.slot_at: why for candidate, why in kept.items() if candidate.slot_at}
    assert {f"{day:%Y-%m-%d}": why for day, why in days.items()} == {
        # 4 February 2027 is a Thursday.
        "2027-02-04": {"daily", "weekly", "monthly", "yearly", "last good"},
        "2027-02-03": {"daily"},
        "2027-02-02": {"daily"},
        "2027-01-31": {"weekly", "monthly"},
        "2026-12-31": {"monthly", "yearly"},
    }


def test_by_age_all_of_so_many_days_stay_and_the_last_good_one_for_ever() -> None:
    week = [scheduled(day) for day in range(8)]

    kept = reasons(week, now=START + timedelta(days=8), days=3)
    later = reasons(week, now=START + timedelta(days=1000), days=3)

    assert kept.keys() == set(week[-3:])
    assert later == {week[-1]: {"last good"}}


def test_a_backup_belongs_to_the_local_day_that_it_was_due_on() -> None:
    late = replace(scheduled(3), created_at=START + timedelta(days=4, hours=5))

    kept = reasons([scheduled(2), late, replace(scheduled(4), created_at=START + timedelta(days=4, hours=6))], daily=3)

    assert len(kept) == 3


def test_the_hour_that_comes_twice_is_two() -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    twice = [Candidate(new_id(), first + timedelta(hours=hour), first + timedelta(hours=hour)) for hour in range(2)]

    assert len(reasons(twice, hourly=2)) == 2


def test_the_last_verified_one_and_what_is_held_stay_below_newer_ones() -> None:
    held, verified = replace(scheduled(0), held=True), replace(scheduled(1), verified=True)
    newer = [scheduled(day) for day in range(2, 10)]

    kept = reasons([held, verified, *newer], count=2)

    assert kept == {
        held: {"held"},
        verified: {"last verified"},
        newer[-2]: {"count"},
        newer[-1]: {"count", "last good"},
    }


@pytest.mark.parametrize("rule", ["count", "days", "hourly", "daily", "weekly", "monthly", "yearly"])
def test_every_rule_alone_lets_something_go_and_keeps_the_newest(rule: str) -> None:
    years = [scheduled(day) for day in range(0, 900, 9)]

    kept = reasons(years, now=START + timedelta(days=900), **{rule: 2})

    assert years[-1] in kept
    assert 1 <= len(kept) <= 2


CANDIDATES = st.lists(
    st.builds(
        lambda hour, slot, healthy, verified, held: Candidate(
            new_id(),
            START + timedelta(hours=hour),
            START + timedelta(hours=hour) if slot else None,
            healthy=healthy,
            verified=verified and healthy,
            held=held,
        ),
        st.integers(0, 24 * 40),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    max_size=40,
)
RULES = st.builds(Rules, *(st.integers(0, 4) for _ in range(7)))


@given(CANDIDATES, RULES)
def test_whatever_the_rules_are_the_floor_stays_and_twice_is_once(candidates: list[Candidate], rules: Rules) -> None:
    removed = plain_to_remove(candidates=candidates, rules=rules, now=NOW, zone=BERLIN)

    kept = [candidate for candidate in candidates if candidate not in removed]
    good = [candidate for candidate in candidates if candidate.healthy]
    for items in (good, [candidate for candidate in good if candidate.verified]):
        if items:
            assert max(items, key=lambda item: (item.created_at, item.id)) in kept
    assert not [candidate for candidate in removed if candidate.held]
    assert plain_to_remove(candidates=kept, rules=rules, now=NOW, zone=BERLIN) == []


@given(CANDIDATES, RULES)
def test_a_rule_more_never_removes_more(candidates: list[Candidate], rules: Rules) -> None:
    if rules.keep_all:
        return
    more = replace(rules, count=rules.count + 1, daily=rules.daily + 1, days=rules.days + 1)

    fewer_removed = plain_to_remove(candidates=candidates, rules=more, now=NOW, zone=BERLIN)

    assert set(fewer_removed) <= set(plain_to_remove(candidates=candidates, rules=rules, now=NOW, zone=BERLIN))


def test_a_backup_is_kept_for_its_days_and_not_for_a_moment_longer() -> None:
    newest, last = scheduled(40), scheduled(10)
    over = last.created_at + timedelta(days=5)

    assert reasons([newest, last], now=over - timedelta(microseconds=1), days=5)[last] == {"days"}
    assert last not in reasons([newest, last], now=over, days=5)


def test_the_last_good_one_is_a_good_one_though_a_damaged_one_is_newer() -> None:
    """All are too old for the rules: what is left is the newest that could be restored, and no damaged one."""
    good, older = scheduled(2), scheduled(1)
    damaged = replace(scheduled(3), healthy=False)

    assert reasons([older, good, damaged], days=5) == {good: {"last good"}}


def test_a_damaged_one_does_not_stand_for_its_slot() -> None:
    whole = scheduled(1)
    damaged = replace(scheduled(1), created_at=whole.created_at + timedelta(hours=1), healthy=False)

    assert reasons([whole, damaged, scheduled(2)], count=2)[whole] == {"count"}
