"""What is kept on each date, with bytes and the tail of locks; and the names that fill in schedule and retention."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from common.errors import InvalidInputError
from definitions.presets import RESERVED, preset_for
from definitions.retention import Rules
from definitions.schedule import check_cron
from definitions.simulator import SimulatedDay, simulate

START = datetime(2026, 1, 1, tzinfo=UTC)


def run(rules: Rules, *, days: int = 60, lock_days: int = 14, cron: str = "0 22 * * *") -> list[SimulatedDay]:
    return simulate(
        cron=cron,
        time_zone="UTC",
        rules=rules,
        start=START,
        days=days,
        lock_days=lock_days,
        size_bytes=1000,
        change_bytes=10,
    )


def test_the_first_days_fill_up_and_then_it_stands() -> None:
    days = run(Rules(days=14), lock_days=14)

    assert [len(day.kept) for day in days[:3]] == [1, 2, 3]
    assert {len(day.kept) for day in days[14:]} == {14}
    assert days[0].day == date(2026, 1, 1)
    assert (days[0].kept_bytes, days[-1].kept_bytes, days[-1].tail_bytes) == (1000, 1000 + 13 * 10, 0)


def test_what_is_removed_before_its_lock_ends_is_the_tail() -> None:
    last = run(Rules(count=3), lock_days=14)[-1]

    assert (len(last.kept), last.tail_count) == (3, 11)
    assert (last.kept_bytes, last.tail_bytes) == (1020, 110)


def test_far_apart_ones_cost_more_but_never_more_than_the_disk() -> None:
    last = run(Rules(daily=2, yearly=2), days=400, lock_days=1)[-1]

    assert [kept.at.date() for kept in last.kept] == [date(2027, 2, 4), date(2027, 2, 3), date(2026, 12, 31)]
    assert last.kept_bytes == 1000 + 10 + 34 * 10
    assert run(Rules(yearly=2), days=400)[-1].kept[1].reasons == ("yearly",)


@pytest.mark.parametrize(("days", "cron"), [(0, "0 0 * * *"), (801, "0 0 * * *"), (60, "* * * * *"), (5, "99 * * * *")])
def test_what_cannot_be_worked_out_is_refused(days: int, cron: str) -> None:
    with pytest.raises(InvalidInputError):
        run(Rules(count=1), days=days, cron=cron)


@pytest.mark.parametrize("name", RESERVED)
def test_a_reserved_name_fills_in_a_schedule_of_its_own_minute(name: str) -> None:
    presets = [preset_for(name, seed=f"disk {number}") for number in range(200)]

    assert None not in presets
    assert all(check_cron(preset.cron) == preset.cron for preset in presets if preset)
    assert len({preset.cron for preset in presets if preset}) > 30
    assert presets[0] == preset_for(name, seed="disk 0")


def test_another_name_fills_in_nothing() -> None:
    assert preset_for("nightly", seed="disk") is None


def test_what_is_locked_lies_between_what_is_kept_and_is_counted_once() -> None:
    """Wednesday and Sunday are kept; Tuesday and Monday lie between them, and only Saturday costs more."""
    last = run(Rules(weekly=2), days=14, lock_days=5)[-1]

    assert [kept.at.date() for kept in last.kept] == [date(2026, 1, 14), date(2026, 1, 11)]
    assert (last.kept_bytes, last.tail_count, last.tail_bytes) == (1000 + 3 * 10, 3, 10)


def test_a_lock_that_ends_with_the_day_is_over() -> None:
    last = run(Rules(count=1), days=10, lock_days=3, cron="0 0 * * *")[-1]

    assert ([kept.at.day for kept in last.kept], last.tail_count) == ([10], 1)
