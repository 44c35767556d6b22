"""What retention removes, and what nobody can make it remove."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from common.ids import new_id
from definitions.retention import Candidate, to_remove

START = datetime(2026, 1, 1, tzinfo=UTC)


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
