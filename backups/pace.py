"""How fast a running job is, and when it ends at this rate. Pure: times come in.

The rate is that of what moved while somebody looked, at most LATELY; the mean since the start until then. A row says
how far its job is, and not since when: what earlier looks saw is a Track (kept by `backups.watching`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

LATELY = timedelta(seconds=30)
# Looks that are closer to each other say nothing about a rate; so few are kept.
_APART = timedelta(seconds=4)
# Movers tell how far they are each second: what has not moved for so long stands still.
STILL_AFTER = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class Seen:
    at: datetime
    done_bytes: int


@dataclass(frozen=True, slots=True)
class Track:
    """What looks at one claim of a job saw, the earliest first and never empty; `moved_at`: after it, nothing moved."""

    fence: int
    moved_at: datetime
    seen: tuple[Seen, ...]
    last_bytes: int


@dataclass(frozen=True, slots=True)
class Pace:
    """`still_seconds`: nothing moved for at least so long; then there is no rate, and nobody knows the end."""

    elapsed_seconds: float
    bytes_per_second: int | None = None
    left_seconds: float | None = None
    still_seconds: float | None = None


def after_look(track: Track | None, *, fence: int, done_bytes: int, now: datetime) -> Track:
    """A new claim begins anew, at its start."""
    here = Seen(now, done_bytes)
    if track is None or track.fence != fence or done_bytes < track.last_bytes:
        return Track(fence, now, (here,), done_bytes)
    late = tuple(one for one in track.seen if one.at >= now - LATELY)
    seen = late if late and now - late[-1].at < _APART else (*late, here)
    return Track(fence, now if done_bytes > track.last_bytes else track.moved_at, seen, done_bytes)


def pace_at(track: Track, *, started_at: datetime, total_bytes: int, now: datetime, is_moving: bool = True) -> Pace:
    """Of a job that runs, when it was looked at just now.

    Not `is_moving`: it is in good order while nothing moves, as a check of what was stored is, or a disk that is served
    and not read. So is what has moved all of it.
    """
    elapsed = max((now - started_at).total_seconds(), 0.0)
    first, done = track.seen[0], track.last_bytes
    if now - track.moved_at >= STILL_AFTER:
        may_stand = not is_moving or 0 < total_bytes <= done
        return Pace(elapsed, still_seconds=None if may_stand else (now - track.moved_at).total_seconds())
    lately = (now - first.at).total_seconds()
    is_known = now - first.at >= _APART
    rate = int((done - first.done_bytes) / lately) if is_known else int(done / elapsed) if elapsed >= 1 else 0
    left = (total_bytes - done) / rate if rate and total_bytes > done else None
    return Pace(elapsed, rate or None, left)
