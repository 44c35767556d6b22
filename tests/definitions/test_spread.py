"""That a window's runs are spread level, and that one more moves nothing but itself."""

from __future__ import annotations

import random
from datetime import date, time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from definitions.spread import (
    STEP_MINUTES,
    Load,
    Placed,
    Task,
    Window,
    busiest_share,
    pile_ups,
    place,
    rebalance,
    steps_of,
)

ON = date(2026, 1, 14)
NIGHT = Window(time(22), time(6), "Europe/Berlin")
BAR = 1.25


def tasks(count: int, *, seed: int, window: Window = NIGHT, uneven: bool = True) -> list[Task]:
    chance = random.Random(seed)
    return [
        Task(
            key=f"definition-{number}",
            node=f"node-{number % 20}",
            window=window,
            minutes=chance.randint(3, 30) if uneven else STEP_MINUTES,
            load=chance.uniform(1, 6) if uneven else 1.0,
        )
        for number in range(count)
    ]


def starts(placed: list[Placed]) -> list[float]:
    counted = [0.0] * (24 * 60 // STEP_MINUTES)
    for item in placed:
        counted[item.utc_minute(ON) // STEP_MINUTES] += 1
    return counted


def test_5000_alike_over_20_nodes_start_level_in_all_and_on_each_node() -> None:
    placed = rebalance(tasks(5000, seed=1, uneven=False), on=ON)

    within = steps_of(NIGHT, on=ON)
    assert len(within) == 96
    assert busiest_share(starts(placed), within) <= BAR
    for node in range(20):
        assert busiest_share(starts([item for item in placed if item.task.node == f"node-{node}"]), within) <= BAR


def test_5000_uneven_ones_load_the_busiest_five_minutes_hardly_more_than_the_mean() -> None:
    placed = rebalance(tasks(5000, seed=2), on=ON)

    load, within = Load(placed, on=ON), steps_of(NIGHT, on=ON)
    assert busiest_share(load.of_all, within) <= BAR
    assert len(load.of_node) == 20
    assert max(busiest_share(steps, within) for steps in load.of_node.values()) <= BAR


def test_one_after_the_other_they_become_level_too() -> None:
    load, within = Load(on=ON), steps_of(NIGHT, on=ON)

    for task in tasks(5000, seed=3):
        place(task, load=load)

    assert busiest_share(load.of_all, within) <= BAR


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Toronto", "Asia/Kolkata"])
@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 1439), length=st.integers(5, 1440), count=st.integers(1, 25), seed=st.integers(0, 99))
def test_every_start_lies_in_its_window_and_its_end_where_it_can(
    zone: str, start: int, length: int, count: int, seed: int
) -> None:
    end = (start + length) % 1440
    window = Window(time(start // 60, start % 60), time(end // 60, end % 60), zone)

    for item in rebalance(tasks(count, seed=seed, window=window), on=ON):
        assert 0 <= item.offset < window.minutes
        assert window.offset_of(item.local) == item.offset
        assert item.offset + item.task.minutes <= max(window.minutes, item.task.minutes)


def test_the_same_tasks_get_the_same_starts_in_any_order() -> None:
    ordered = tasks(300, seed=4)
    mixed = random.Random(5).sample(ordered, len(ordered))

    assert set(rebalance(ordered, on=ON)) == set(rebalance(mixed, on=ON))


def test_the_window_keeps_its_local_hours_in_summer_and_winter() -> None:
    item = Placed(Task("one", "node", NIGHT), 150)

    assert (item.cron, item.local) == ("30 0 * * *", time(0, 30))
    assert (item.utc_minute(date(2026, 1, 14)), item.utc_minute(date(2026, 7, 15))) == (23 * 60 + 30, 22 * 60 + 30)


def test_one_more_goes_where_there_is_least() -> None:
    crowd = [Placed(Task(f"c{number}", "node", NIGHT), number % 240) for number in range(240)]

    added = place(Task("new", "node", NIGHT), load=Load(crowd, on=ON))

    assert added.offset >= 240


@settings(max_examples=60, deadline=None)
@given(count=st.integers(2, 8), seed=st.integers(0, 10**6))
def test_few_do_not_stand_close_together(count: int, seed: int) -> None:
    """Most of the night is free: whatever their keys are, no three start within an hour, and no pile is left."""
    placed = rebalance([Task(f"{seed}-{number}", "node", NIGHT) for number in range(count)], on=ON)

    starts_at = sorted(item.offset for item in placed)
    assert all(later - one > 60 for one, later in zip(starts_at, starts_at[2:], strict=False))
    assert pile_ups(placed, on=ON) == []


def test_what_is_fixed_counts_and_stays() -> None:
    fixed = [Placed(Task(f"c{number}", "node", NIGHT), number % 240) for number in range(240)]
    moved = rebalance([Task(f"m{number}", "node", NIGHT) for number in range(100)], on=ON, fixed=fixed)

    assert min(item.offset for item in moved) >= 240
    assert len(moved) == 100


def test_definitions_that_pile_up_are_named() -> None:
    level = rebalance([Task(f"l{number}", "calm", NIGHT) for number in range(96)], on=ON)
    crowd = [Placed(Task(f"c{number}", "node", NIGHT), 185) for number in range(5)]

    found = pile_ups([*level, *crowd], on=ON)

    assert [(item.node, item.hour, item.keys) for item in found] == [("node", 0, ("c0", "c1", "c2", "c3", "c4"))]
    assert "5 definitions start on node between 00:00 and 00:59 UTC" in found[0].sentence


def test_a_node_is_measured_by_its_own_windows() -> None:
    """All of one short hour's work in that hour is no pile, however wide the windows of other nodes are."""
    noon = Window(time(12), time(13), "UTC")
    short = [Placed(Task(f"s{number}", "short", noon), number * 5) for number in range(12)]
    wide = rebalance([Task(f"w{number}", "wide", NIGHT) for number in range(96)], on=ON)

    assert pile_ups([*short, *wide], on=ON) == []
