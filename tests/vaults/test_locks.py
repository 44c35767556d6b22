"""The lock arithmetic keeps its invariant: every object of an ok backup is locked at least R from its commit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaults.locks import LONGEST_LOCK, LockRule, generation_end

START = datetime(2026, 1, 1, tzinfo=UTC)
moments = st.timedeltas(timedelta(0), timedelta(days=4000)).map(lambda since: START + since)
rules = st.builds(
    LockRule,
    promised=st.integers(1, 365).map(lambda days: timedelta(days=days)),
    generation=st.sampled_from([timedelta(days=1), timedelta(days=5), timedelta(days=10)]),
)


@given(moments, st.sampled_from([1, 5, 10]))
def test_a_generation_ends_at_or_after_now_and_within_its_length(now: datetime, days: int) -> None:
    end = generation_end(now, timedelta(days=days))

    assert now <= end < now + timedelta(days=days)


@given(rules, moments, st.timedeltas(timedelta(0), timedelta(hours=24)))
def test_an_object_written_in_a_session_outlives_the_promise_of_its_commit(
    rule: LockRule, opened: datetime, took: timedelta
) -> None:
    committed = opened + took

    assert rule.lock_until(opened) >= rule.promised_until(committed)
    assert rule.lock_until(opened) >= rule.needed_until(committed)


@given(rules, moments, st.integers(1, 800))
def test_a_live_object_is_extended_at_most_once_per_generation(rule: LockRule, start: datetime, hours: int) -> None:
    locked, extended_in = rule.lock_until(start), []
    for step in range(0, hours * 4, 6):
        now = start + timedelta(hours=step)
        if locked < rule.needed_until(now):
            locked = rule.lock_until(now)
            extended_in.append(generation_end(now, rule.generation))
        assert locked >= rule.promised_until(now)

    assert len(extended_in) == len(set(extended_in))


@pytest.mark.case("CP-22")
def test_a_date_is_clamped_because_it_can_never_be_taken_back() -> None:
    rule = LockRule(promised=timedelta(days=40_000))

    assert rule.lock_until(START) == START + LONGEST_LOCK


@pytest.mark.parametrize("microsecond", [0, 1, 999_999])
def test_dates_are_whole_seconds_as_stores_keep_them(microsecond: int) -> None:
    rule = LockRule(promised=timedelta(days=14))

    assert rule.lock_until(START.replace(microsecond=microsecond)).microsecond == 0
