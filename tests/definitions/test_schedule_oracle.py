"""Ten years, five zones, fifty schedules: nothing missed, nothing double, beside an oracle that shares no code.

What runs at most weekly is compared over the ten years, the rest around every change of a clock, where alone it can go
wrong; `make bench-oracle` compares all of it over the ten years.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from definitions.schedule import check_cron, next_run, next_runs
from tests.definitions.cron_oracle import DAY, Piece, clipped, expected, minute_of, pieces_of

FIRST, LAST = datetime(2026, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)
# A change at 02:00, one of another date, one of half an hour, one that skips midnight, one that repeats it.
ZONES = ["Europe/Berlin", "America/Toronto", "Australia/Lord_Howe", "Africa/Cairo", "America/Havana"]
SPARSE = [
    *["30 2 * * sun", "0 0 * * sun", "0 3 * * 7", "15 1 * * sat", "59 23 * * sat", "0 0 1 * *", "30 2 29 3 *"],
    *["0 0 29 2 *", "30 2 l * *", "0 12 1,15 * *", "45 1 1-7 4,10 *", "0 2 * * 5l", "30 2 * * sun#5", "0 0 * * fri#5"],
    *["0 2 * mar,oct sun", "10 0 31 * *", "30 1 1-7 * */7", "0 0 25-31 10 *", "15 2 28 */3 *", "0 0 13 * fri"],
]
DAILY = [
    *["0 0 * * *", "0 2 * * *", "30 2 * * *", "59 2 * * *", "0 3 * * *", "30 1 * * *", "15 2 * * *", "59 23 * * *"],
    *["0 22 * * *", "30 0 * * *", "0 1 * * *", "45 2 * * mon-sat", "0,30 2 * * *", "*/15 2 * * *", "* 2 * * *"],
    *["10,50 1-3 * * *", "0 */2 * * *", "30 */2 * * *", "30 1-23/2 * * *", "*/20 0-3 * * *", "0 2,3 * * *"],
    *["5 22-23,0-6 * * *", "0 * * * *", "30 * * * *", "17 * * * *", "*/30 * * * *", "*/7 * * * *", "0 0-23 * * *"],
    *["* * * * *", "*/15 * 1-7,25-31 3,4,10,11 *"],
]


@cache
def pieces(zone: str) -> list[Piece]:
    return pieces_of(zone, FIRST, LAST)


def found(cron: str, zone: str, first: int, last: int) -> list[int]:
    """The moments from `first` up to, not with, `last`."""
    after = datetime.fromtimestamp(first * 60, UTC) - timedelta(seconds=1)
    runs = (minute_of(run) for run in next_runs(cron=cron, time_zone=zone, after=after))
    return list(takewhile(lambda moment: moment < last, runs))


def test_it_is_fifty_schedules_that_can_be() -> None:
    assert len({*SPARSE, *DAILY}) == 50
    assert [check_cron(cron) for cron in [*SPARSE, *DAILY]] == [*SPARSE, *DAILY]


@pytest.mark.parametrize("zone", ZONES)
def test_ten_years_of_what_runs_at_most_weekly(zone: str) -> None:
    for cron in SPARSE:
        assert found(cron, zone, minute_of(FIRST), minute_of(LAST)) == expected(cron, pieces(zone)), cron


@pytest.mark.parametrize("zone", ZONES)
def test_every_change_of_the_clock_in_ten_years(zone: str) -> None:
    changes = [piece.start for piece in pieces(zone)[1:]]
    assert len(changes) == 20

    for cron in DAILY:
        around = 28 * 60 if cron.split()[1] != "*" else 3 * 60
        for change in changes:
            first, last = change - around, change + around
            assert found(cron, zone, first, last) == expected(cron, clipped(pieces(zone), first, last)), cron


@settings(max_examples=100, deadline=None)
@given(
    cron=st.sampled_from([cron for cron in [*SPARSE, *DAILY] if cron.split()[1] != "*"]),
    zone=st.sampled_from(ZONES),
    change=st.integers(1, 20),
    seconds=st.integers(-4 * 3600, 4 * 3600),
)
def test_wherever_one_begins_the_next_run_is_the_oracles(cron: str, zone: str, change: int, seconds: int) -> None:
    """A dispatcher that was late, or restarted within the hour that comes twice, runs nothing again."""
    after = datetime.fromtimestamp(pieces(zone)[change].start * 60 + seconds, UTC)
    near = clipped(pieces(zone), minute_of(after) - 2 * DAY, minute_of(after) + 400 * DAY)

    run = next_run(cron=cron, time_zone=zone, after=after)

    following = (moment for moment in expected(cron, near) if moment * 60 > after.timestamp())
    due = next(following, None)
    if due is not None:
        assert run is not None and minute_of(run) == due
