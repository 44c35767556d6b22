"""How fast a job is: what moved while somebody looked, the mean before, and nothing where nothing moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backups.pace import Pace, Track, after_look, pace_at
from tests.factories import GIB

START = datetime(2026, 3, 1, 22, tzinfo=UTC)
MIB = 2**20


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def looked(*looks: tuple[float, int], fence: int = 1) -> Track:
    """After looks at (seconds since the start, bytes done)."""
    track = None
    for seconds, done in looks:
        track = after_look(track, fence=fence, done_bytes=done, now=at(seconds))
    assert track is not None
    return track


def pace(*looks: tuple[float, int], total: int = GIB) -> Pace:
    return pace_at(looked(*looks), started_at=START, total_bytes=total, now=at(looks[-1][0]))


@pytest.mark.parametrize(
    ("done", "seconds", "rate", "left"),
    [(0, 10, None, None), (GIB // 4, 10, GIB // 40, 30), (GIB, 10, GIB // 10, None), (GIB // 4, 0, None, None)],
)
def test_who_looks_for_the_first_time_sees_the_mean(
    done: int, seconds: int, rate: int | None, left: int | None
) -> None:
    found = pace((seconds, done))

    assert found.bytes_per_second == rate
    assert (None if found.left_seconds is None else round(found.left_seconds)) == left
    assert found.still_seconds is None


def test_who_goes_on_looking_sees_what_moved_lately() -> None:
    """A GiB of which 512 MiB came in an hour, and then 10 MiB with each second."""
    looks = [(3600 + second, 512 * MIB + 10 * MIB * second) for second in range(0, 20, 2)]

    found = pace(*looks)

    assert found.bytes_per_second == 10 * MIB
    assert round(found.left_seconds or 0) == 33


def test_what_was_long_ago_does_not_count() -> None:
    looks = [*((second, 100 * MIB * second) for second in range(0, 60, 2))]
    looks += [(60 + second, 6000 * MIB + MIB * second) for second in range(0, 60, 2)]

    assert pace(*looks, total=100 * GIB).bytes_per_second == MIB


def test_what_does_not_move_has_no_rate_and_no_end_and_says_for_how_long() -> None:
    moving = [(second, 10 * MIB * second) for second in range(0, 12, 2)]
    looks = [*moving, *((second, 100 * MIB) for second in range(12, 120, 2))]

    found, just_before = pace(*looks), pace(*looks[:15])

    assert found == Pace(elapsed_seconds=118, still_seconds=108)
    assert just_before.still_seconds is None
    # Already slower: the rate of late falls with each look.
    assert just_before.bytes_per_second is not None and just_before.bytes_per_second < 5 * MIB


def test_what_is_in_good_order_while_nothing_moves_does_not_stand_still() -> None:
    """All of it moved and is being checked; or a disk is served, and nobody reads it."""
    looks = ((0, MIB), (60, MIB), (62, MIB))

    assert pace(*looks, total=MIB) == Pace(elapsed_seconds=62)
    served = pace_at(looked(*looks), started_at=START, total_bytes=0, now=at(62), is_moving=False)
    assert served == Pace(elapsed_seconds=62)
    assert pace(*looks, total=0).still_seconds == 62


def test_who_comes_back_is_told_since_when_nothing_moved() -> None:
    assert pace((0, MIB), (900, MIB)).still_seconds == 900
    assert pace((0, MIB), (900, 2 * MIB)).still_seconds is None


def test_what_moves_again_has_a_rate_again() -> None:
    found = pace((0, MIB), (60, MIB), (62, 3 * MIB), (66, 7 * MIB), (70, 11 * MIB))

    assert (found.still_seconds, found.bytes_per_second) == (None, MIB)


def test_another_claim_begins_anew() -> None:
    """Its bytes are counted from nothing: that is no rate below nothing, and no standing still."""
    before = looked((0, 0), (60, 600 * MIB))

    taken_over = after_look(before, fence=2, done_bytes=0, now=at(100))
    less = after_look(before, fence=1, done_bytes=5 * MIB, now=at(100))

    assert pace_at(taken_over, started_at=START, total_bytes=GIB, now=at(100)) == Pace(elapsed_seconds=100)
    assert (less.moved_at, len(less.seen)) == (at(100), 1)


def test_a_track_stays_small_however_often_somebody_looks() -> None:
    assert len(looked(*((tenth / 10, tenth) for tenth in range(5000))).seen) <= 9
