"""When a job begins: in its window, never later than needed, and not all of a fleet at one moment."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agents.agent_messages import AgentPolicy, BandwidthHours, JobOffer, WindowMessage
from agents.program.agent.memory import Anchor, ControlClock
from agents.program.agent.moving import MoveOrder, hold_of, limit_now
from agents.program.agent.pacing import start_in_seconds
from agents.program.agent.places import Settings
from agents.program.agent.policy import bytes_per_second, is_open, next_closing, next_opening
from tests.agents.stand_in import ControlPlane
from tests.agents.test_program_loop import POLICY, World

MINUTE = timedelta(minutes=1)
# Clocks that change at night, by half an hour, from midnight on, and never.
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kolkata")
# Hours around which one of them changes.
CHANGES = (
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 3, 8, 7, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
    datetime(2026, 4, 23, 22, tzinfo=UTC),
)
MOMENTS = st.one_of(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),
    st.builds(lambda at, seconds: at + timedelta(seconds=seconds), st.sampled_from(CHANGES), st.integers(-90000, 9000)),
)
TIMES = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.sampled_from((0, 1, 15, 30, 59)))
WINDOWS = st.builds(WindowMessage, TIMES, TIMES, st.sampled_from(ZONES))


def is_open_by_the_clock(window: WindowMessage, at: datetime) -> bool:
    """As a person would say who looks at the clock on the wall."""
    clock = f"{at.astimezone(ZoneInfo(window.time_zone)):%H:%M}"
    if window.begin <= window.end:
        return window.begin == window.end or window.begin <= clock < window.end
    return not window.end <= clock < window.begin


def first_minute(window: WindowMessage, now: datetime, *, is_open: bool) -> datetime:
    """Looks at the clock each minute for three days."""
    at = now
    while is_open_by_the_clock(window, at) is not is_open:
        at = at.replace(second=0, microsecond=0) + MINUTE
        assert at - now < timedelta(days=3)
    return at


@settings(max_examples=400, deadline=None)
@given(WINDOWS, MOMENTS, st.integers(0, 20_000), st.floats(0, 1, exclude_max=True))
@example(WindowMessage("22:00", "06:00", "UTC"), datetime(2026, 11, 22, 5, 58, tzinfo=UTC), 600, 0.9)
@example(WindowMessage("02:10", "02:50", "Europe/Berlin"), datetime(2026, 3, 28, 22, tzinfo=UTC), 600, 0.9)
@example(WindowMessage("02:30", "05:00", "Europe/Berlin"), datetime(2026, 3, 29, 0, tzinfo=UTC), 600, 0.0)
@example(WindowMessage("02:30", "02:45", "Europe/Berlin"), datetime(2026, 10, 25, 0, 50, tzinfo=UTC), 600, 0.5)
def test_the_start_is_in_the_window_and_never_later_than_needed(
    window: WindowMessage, now: datetime, jitter: int, share: float
) -> None:
    def start(share: float, *, now: datetime = now) -> datetime:
        return now + timedelta(seconds=start_in_seconds(window, now=now, jitter_seconds=jitter, share=share))

    opens = first_minute(window, now, is_open=True)
    found = start(share)
    assert start(0.0) == opens == next_opening(window, now)
    # In this opening of the window, and not by so little that what is in the way makes it miss it.
    assert opens <= found <= opens + timedelta(seconds=jitter)
    if window.begin != window.end:
        closes = first_minute(window, opens, is_open=False)
        assert closes == next_closing(window, opens)
        assert found == opens or found <= closes - MINUTE
        room = min(timedelta(seconds=jitter), max(closes - opens - MINUTE, timedelta()))
    else:
        assert next_closing(window, now) is None
        room = timedelta(seconds=jitter)
    # As much of the room as the share says: even chances are even starts.
    assert abs(found - opens - share * room) < timedelta(milliseconds=1)
    # Asked again meanwhile it is the same while the window is closed, and never sooner when it has opened.
    between = now + (found - now) / 2
    again = start(share, now=between) - found
    assert timedelta(milliseconds=-1) <= again and (between >= opens or again < timedelta(milliseconds=1))


def test_without_a_window_only_the_jitter_counts() -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    assert start_in_seconds(None, now=now, jitter_seconds=600, share=0.5) == 300
    assert next_opening(None, now) == now and next_closing(None, now) is None


# --- the agents of a fleet -------------------------------------------------------------------------------------------


def begun(folder: Path, *, offered: str, window: tuple[str, str], count: int = 40, jitter: int = 600) -> list[datetime]:
    """When agents begin a job that each is offered at this time of the day."""
    chance, found = random.Random(7), []
    for number in range(count):
        policy = msgspec.structs.replace(
            POLICY, number=2, window=WindowMessage(*window, "UTC"), start_jitter_seconds=jitter
        )
        world = World(folder / str(number), plane=ControlPlane(policy=policy, poll_seconds=900), chance=chance.random)
        # Their day begins at noon.
        hour, minute = map(int, offered.split(":"))
        world.seconds = ((hour - 12) % 24) * 3600 + minute * 60.0
        world.plane.offers.append(JobOffer("job-1", "backup"))
        now = world.plane.now()
        while not world.movers and world.plane.now() - now < timedelta(days=1):
            world.pass_time(60)
        found.append(world.start_of_all + timedelta(seconds=world.begun[0]))
    return sorted(found)


def test_jobs_that_wait_for_the_window_do_not_all_begin_at_its_opening(tmp_path: Path) -> None:
    found = begun(tmp_path, offered="21:50", window=("22:00", "06:00"))

    opens = datetime(2026, 11, 21, 22, tzinfo=UTC)
    assert opens <= found[0] and found[-1] < opens + timedelta(seconds=600)
    assert found[-1] - found[0] > timedelta(seconds=480)
    # No minute has more than a quarter of them.
    minutes = [int((at - opens) / MINUTE) for at in found]
    assert max(minutes.count(minute) for minute in range(10)) <= 10


def test_chance_puts_no_job_out_of_its_window(tmp_path: Path) -> None:
    found = begun(tmp_path, offered="05:55", window=("22:00", "06:00"), count=20)

    offered = datetime(2026, 11, 22, 5, 55, tzinfo=UTC)
    assert offered <= found[0] and found[-1] <= offered + 4 * MINUTE
    assert found[-1] - found[0] > 2 * MINUTE


def test_in_the_last_minute_it_begins_at_once(tmp_path: Path) -> None:
    [at] = begun(tmp_path, offered="05:59", window=("22:00", "06:00"), count=1)

    assert at - datetime(2026, 11, 22, 5, 59, tzinfo=UTC) < timedelta(seconds=5)


def test_a_job_that_waits_goes_by_the_policy_of_now_and_by_the_next_window_when_one_passed(tmp_path: Path) -> None:
    night = msgspec.structs.replace(
        POLICY, number=2, window=WindowMessage("22:00", "23:00", "UTC"), start_jitter_seconds=600
    )
    world = World(tmp_path, plane=ControlPlane(policy=night, poll_seconds=300))
    world.plane.offers.append(JobOffer("job-1", "backup"))
    world.why_paused = "The machine runs on battery."
    world.pass_time(24 * 3600)
    assert world.movers == []
    waiting = world.agent.waiting["job-1"]
    opens = datetime(2026, 11, 22, 22, tzinfo=UTC)
    begins = world.plane.now() + timedelta(seconds=waiting.begins_at - world.seconds)
    assert abs(begins - opens - timedelta(seconds=300)) < timedelta(seconds=1)

    world.why_paused = ""
    world.plane.policy = msgspec.structs.replace(night, number=3, window=None)
    world.pass_time(300 + 310)
    assert len(world.movers) == 1


# --- bytes per second -------------------------------------------------------------------------------------------------

HOURS = {
    "in the hour": ([(8, 18, 100)], "UTC", "2026-06-01T08:00Z", 100),
    "its last minute": ([(8, 18, 100)], "UTC", "2026-06-01T17:59Z", 100),
    "before": ([(8, 18, 100)], "UTC", "2026-06-01T07:59Z", 0),
    "after": ([(8, 18, 100)], "UTC", "2026-06-01T18:00Z", 0),
    "over midnight, before it": ([(22, 6, 100)], "UTC", "2026-06-01T23:00Z", 100),
    "over midnight, after it": ([(22, 6, 100)], "UTC", "2026-06-02T05:59Z", 100),
    "over midnight, by day": ([(22, 6, 100)], "UTC", "2026-06-02T06:00Z", 0),
    "until midnight": ([(20, 24, 100)], "UTC", "2026-06-01T23:59Z", 100),
    "until midnight, after it": ([(20, 24, 100)], "UTC", "2026-06-02T00:00Z", 0),
    "the whole day": ([(0, 24, 100)], "UTC", "2026-06-02T00:00Z", 100),
    "the same hour": ([(7, 7, 100)], "UTC", "2026-06-02T23:00Z", 100),
    "hours of a zone, in summer": ([(8, 9, 100)], "Europe/Berlin", "2026-06-01T06:30Z", 100),
    "hours of a zone, in winter": ([(8, 9, 100)], "Europe/Berlin", "2026-12-01T06:30Z", 0),
    "the hour that comes twice": ([(2, 3, 100)], "Europe/Berlin", "2026-10-25T01:30Z", 100),
    "the lowest of several": ([(0, 24, 300), (8, 18, 100), (9, 10, 200)], "UTC", "2026-06-01T09:00Z", 100),
    "one of several": ([(0, 24, 300), (8, 18, 100)], "UTC", "2026-06-01T19:00Z", 300),
    "none is no limit": ([(0, 24, 0), (8, 18, 100)], "UTC", "2026-06-01T09:00Z", 100),
    "nothing": ([], "UTC", "2026-06-01T09:00Z", 0),
}


@pytest.mark.parametrize("case", HOURS)
def test_bytes_per_second_by_the_hour(case: str) -> None:
    rows, zone, at, expected = HOURS[case]
    now = datetime.fromisoformat(at)
    policy = msgspec.structs.replace(POLICY, bandwidth=[BandwidthHours(*row) for row in rows], bandwidth_zone=zone)

    assert bytes_per_second(policy, now) == expected
    assert bytes_per_second(None, now) == 0


@pytest.mark.parametrize(
    ("of_work", "own", "hour", "expected"),
    [
        (0, 0, 0, 0),
        (500, 0, 0, 500),
        (0, 400, 0, 400),
        (0, 0, 300, 300),
        (500, 400, 300, 300),
        (500, 300, 400, 300),
        (300, 400, 500, 300),
    ],
)
def test_the_lowest_of_the_work_agent_toml_and_the_hour_counts(
    of_work: int, own: int, hour: int, expected: int
) -> None:
    at = datetime(2026, 6, 1, 9, tzinfo=UTC)
    policy = AgentPolicy(number=1, issued_at=at, bandwidth=[BandwidthHours(9, 10, hour)])
    order = MoveOrder("", "", "job-1", "backup", "", "", Settings(bytes_per_second=own), policy)
    moments = {"in the hour": at, "after it": at + timedelta(hours=1)}

    def limit(now: datetime) -> int:
        # The machine's own clock is years off: the control plane's time counts.
        clock = ControlClock(Anchor(now.timestamp(), 0.0, 0.0, "b"), since_boot=lambda: 0.0, boot="b")
        return limit_now(order, clock, hold_of(order), of_work)

    assert limit(moments["in the hour"]) == expected
    assert limit(moments["after it"]) == min((one for one in (of_work, own) if one), default=0)


def test_a_window_is_open_from_its_first_moment_and_not_at_its_last() -> None:
    window = WindowMessage("22:00", "06:00", "Europe/Berlin")
    opens, closes = datetime(2026, 11, 21, 21, tzinfo=UTC), datetime(2026, 11, 22, 5, tzinfo=UTC)
    told = [is_open(window, at) for edge in (opens, closes) for at in (edge - timedelta(microseconds=1), edge)]
    assert told == [False, True, True, False]
    assert next_opening(window, opens) == opens and next_opening(window, closes) == opens + timedelta(days=1)
