"""What rules and a schedule keep, day by day, with bytes and the tail that locks add. Pure: an estimate, not a promise.

Bytes are those of one deduplicated disk: the newest backup needs its whole size, each older one what changed between it
and the next newer one that is there, never more than the disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, pairwise, takewhile
from uuid import UUID
from zoneinfo import ZoneInfo

from common.errors import InvalidInputError
from definitions.retention import Candidate, Reason, Rules, judge
from definitions.schedule import check_cron, check_time_zone, next_runs

LONGEST_DAYS = 800
MOST_RUNS = 10_000


@dataclass(frozen=True, slots=True)
class Kept:
    at: datetime
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class SimulatedDay:
    """The end of a local day. `tail_bytes` are of backups that were removed and are locked still."""

    day: date
    kept: tuple[Kept, ...]
    kept_bytes: int
    tail_bytes: int
    tail_count: int


def simulate(
    *,
    cron: str,
    time_zone: str,
    rules: Rules,
    start: datetime,
    days: int,
    lock_days: int,
    size_bytes: int,
    change_bytes: int,
) -> list[SimulatedDay]:
    """Each day from `start` on, when every run succeeds. `change_bytes` change between two runs.

    Raises InvalidInputError for a schedule that cannot be, and for more days or runs than are worked out.
    """
    zone = ZoneInfo(check_time_zone(time_zone))
    waiting = _runs(check_cron(cron), time_zone, start, days)
    number_of = {at: number for number, at in enumerate(waiting)}
    waiting.reverse()
    kept: list[Candidate] = []
    locked: list[datetime] = []
    found = []
    for day in (start.astimezone(zone).date() + timedelta(days=number) for number in range(days)):
        end = datetime.combine(day + timedelta(days=1), time(), tzinfo=zone).astimezone(UTC)
        while waiting and waiting[-1] < end:
            at = waiting.pop()
            kept.append(Candidate(UUID(int=number_of[at]), at, at))
        verdicts = judge(candidates=kept, rules=rules, now=end, zone=zone)
        removed = [item.candidate.created_at for item in verdicts if not item.kept]
        locked = [at for at in (*locked, *removed) if at + timedelta(days=lock_days) > end]
        shown = tuple(Kept(item.candidate.created_at, item.reasons) for item in verdicts if item.kept)
        kept = [item.candidate for item in verdicts if item.kept]
        numbers = [number_of[item.at] for item in shown]
        here = _stored_bytes(numbers, size_bytes, change_bytes)
        both = _stored_bytes([*numbers, *(number_of[at] for at in locked)], size_bytes, change_bytes)
        found.append(SimulatedDay(day, shown, here, both - here, len(locked)))
    return found


def _runs(cron: str, time_zone: str, start: datetime, days: int) -> list[datetime]:
    if not 1 <= days <= LONGEST_DAYS:
        raise InvalidInputError(f"Choose 1 to {LONGEST_DAYS} days.", code="bad_days", field="days")
    end = start + timedelta(days=days + 1)
    following = takewhile(lambda at: at < end, next_runs(cron=cron, time_zone=time_zone, after=start))
    runs = list(islice(following, MOST_RUNS + 1))
    if len(runs) > MOST_RUNS:
        raise InvalidInputError(f"These are more than {MOST_RUNS} runs. Choose fewer days.", field="days")
    return runs


def _stored_bytes(numbers: list[int], size_bytes: int, change_bytes: int) -> int:
    """Of the backups made by the runs with these numbers."""
    if not numbers:
        return 0
    newest_first = sorted(numbers, reverse=True)
    gaps = (newer - older for newer, older in pairwise(newest_first))
    return size_bytes + sum(min(size_bytes, change_bytes * gap) for gap in gaps)
