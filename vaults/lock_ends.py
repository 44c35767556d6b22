"""The ends of a vault's locks as a person reads them: by week, with what stays locked after each. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

MOST_WEEKS = 26


@dataclass(frozen=True, slots=True)
class LockedWeek:
    """`until` is its last day; bytes whose locks end within it, and those that are locked beyond it."""

    first: date
    until: date
    ending_bytes: int
    left_bytes: int


def lock_weeks(tail: Iterable[tuple[str, int]], *, today: date) -> list[LockedWeek]:
    """Of [ISO date, bytes]; weeks in which no lock ends are left out. The last row has all that ends later."""
    weeks: dict[date, int] = {}
    last = today
    for text, size_bytes in tail:
        day = date.fromisoformat(text)
        if day >= today:
            monday = day - timedelta(days=day.weekday())
            weeks[monday] = weeks.get(monday, 0) + size_bytes
            last = max(last, day)
    mondays, left = sorted(weeks), sum(weeks.values())
    found = []
    for number, monday in enumerate(mondays[:MOST_WEEKS]):
        until, ending = monday + timedelta(days=6), weeks[monday]
        if number == MOST_WEEKS - 1:
            until, ending = max(last, until), left
        left -= ending
        found.append(LockedWeek(monday, until, ending, left))
    return found
