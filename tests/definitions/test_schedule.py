"""The schedule across DST, its errors, and its horizon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidInputError
from definitions.schedule import check_cron, check_time_zone, explain, next_run, next_runs

BERLIN = "Europe/Berlin"


@pytest.mark.case("IN-02")
@pytest.mark.parametrize(
    "expression",
    [
        "",
        "* * * *",
        "* * * * * *",
        "61 * * * *",
        "0 24 * * *",
        "0 0 30 2 *",
        "*/0 * * * *",
        "0 0 * * 8",
        "٣ * * * *",
        "0 0 * * mon;rm",
        ",".join("0" for _ in range(200)) + " * * * *",
        "@daily",
        "5-1 * * * *",
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_its_field(expression: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_cron(expression)

    assert caught.value.field == "cron"
    assert caught.value.code == "bad_cron"


@pytest.mark.parametrize("expression", ["0 22 * * *", "*/15 8-18 * * mon-fri", "30 2 1,15 jan,jul *", "5 4 L * *"])
def test_a_schedule_that_can_be_is_kept_with_single_spaces(expression: str) -> None:
    assert check_cron("  " + expression.replace(" ", "   ")) == expression
    assert explain(expression)


@pytest.mark.case("CP-09")
def test_a_local_time_that_does_not_exist_runs_once_just_after() -> None:
    before = datetime(2026, 3, 28, 12, tzinfo=UTC)

    runs = list(islice(next_runs(cron="30 2 * * *", time_zone=BERLIN, after=before), 2))

    assert [run.astimezone(ZoneInfo(BERLIN)).strftime("%d %H:%M") for run in runs] == ["29 03:00", "30 02:30"]


@pytest.mark.case("CP-10")
def test_a_local_time_that_exists_twice_runs_once() -> None:
    before = datetime(2026, 10, 24, 12, tzinfo=UTC)

    runs = list(islice(next_runs(cron="30 2 * * *", time_zone=BERLIN, after=before), 2))

    assert runs == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 26, 1, 30, tzinfo=UTC)]


def test_a_run_is_strictly_after_the_given_time() -> None:
    now = datetime(2026, 1, 1, 22, 0, tzinfo=UTC)

    assert next_run(cron="0 22 * * *", time_zone="UTC", after=now) == now + timedelta(days=1)


@pytest.mark.case("IN-02")
def test_leap_days_are_found_across_a_century_without_one() -> None:
    after = datetime(2096, 3, 1, tzinfo=UTC)

    assert next_run(cron="0 0 29 2 *", time_zone="UTC", after=after) == datetime(2104, 2, 29, tzinfo=UTC)


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_time_zone("Europe/Atlantis")

    assert caught.value.field == "time_zone"


@given(
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    zone=st.sampled_from(["UTC", BERLIN, "America/Toronto", "Asia/Kolkata", "Australia/Lord_Howe"]),
    day=st.integers(0, 3650),
)
def test_a_daily_schedule_runs_once_per_local_day(minute: int, hour: int, zone: str, day: int) -> None:
    after = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)

    runs = list(islice(next_runs(cron=f"{minute} {hour} * * *", time_zone=zone, after=after), 4))

    days = [run.astimezone(ZoneInfo(zone)).date() for run in runs]
    assert days == [days[0] + timedelta(days=number) for number in range(4)]
