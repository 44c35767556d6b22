"""When a schedule runs, worked out apart from the code: no cronsim, no search, only the clock of a zone in pieces.

Walls are minutes of local time since 1970, moments are minutes of UTC since 1970.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

DAY = 24 * 60
_FIRST = date(1970, 1, 1)
_NAMES = {
    name: number
    for names, start in (("jan feb mar apr may jun jul aug sep oct nov dec", 1), ("sun mon tue wed thu fri sat", 0))
    for number, name in enumerate(names.split(), start)
}


@dataclass(frozen=True)
class Piece:
    """From `start` to `end` (UTC minutes) local time is UTC and `offset` minutes."""

    start: int
    end: int
    offset: int


def pieces_of(zone: str, first: datetime, last: datetime) -> list[Piece]:
    """The zone's clock between two moments: asked every six hours, each change then found to the minute."""
    begin, end = minute_of(first), minute_of(last)
    found, start = [], begin
    for moment in range(begin, end, 6 * 60):
        until = min(moment + 6 * 60, end)
        while (offset := _offset(zone, moment)) != _offset(zone, until):
            change = next(at for at in range(moment + 1, until + 1) if _offset(zone, at) != offset)
            found.append(Piece(start, change, offset))
            start = moment = change
    return [*found, Piece(start, end, _offset(zone, end - 1))]


def clipped(pieces: list[Piece], first: int, last: int) -> list[Piece]:
    """The same clock for a shorter time."""
    within = (Piece(max(one.start, first), min(one.end, last), one.offset) for one in pieces)
    return [piece for piece in within if piece.start < piece.end]


def expected(cron: str, pieces: list[Piece]) -> list[int]:
    """The moments at which it runs, ascending."""
    minutes, hours, *days = cron.lower().split(" ")
    times = sorted(hour * 60 + minute for hour in _values(hours, 0, 23) for minute in _values(minutes, 0, 59))
    elapsed = len(_values(hours, 0, 23)) == 24
    found, highest = [], pieces[0].start + pieces[0].offset - 1
    for piece in pieces:
        low, high = piece.start + piece.offset, piece.end + piece.offset
        if elapsed:
            found += [wall - piece.offset for wall in _walls(times, days, low, high)]
            continue
        # Every minute of local time is passed once: by being shown, or by being jumped over.
        passed = _walls(times, days, min(highest + 1, high), high) if highest < high else iter(())
        found += [max(wall, low) - piece.offset for wall in passed]
        highest = max(highest, high - 1)
    return sorted(set(found))


def minute_of(moment: datetime) -> int:
    return int(moment.timestamp()) // 60


def _walls(times: list[int], days: list[str], low: int, high: int) -> Iterator[int]:
    for number in range(low // DAY, high // DAY + 1):
        if _is_day(_FIRST + timedelta(days=number), *days):
            yield from (wall for time in times if low <= (wall := number * DAY + time) < high)


def _is_day(day: date, of_month: str, months: str, of_week: str) -> bool:
    if day.month not in _values(months, 1, 12):
        return False
    last_of_month = (day + timedelta(days=1)).day == 1
    weekday = day.isoweekday() % 7
    by_month = last_of_month if of_month == "l" else day.day in _values(of_month, 1, 31)
    if nth := re.fullmatch(r"(\w+)#(\d)", of_week):
        by_week = weekday == _number(nth[1]) % 7 and (day.day - 1) // 7 == int(nth[2]) - 1
    elif of_week.endswith("l"):
        by_week = weekday == int(of_week[0]) % 7 and (day + timedelta(days=7)).month != day.month
    else:
        by_week = weekday in {value % 7 for value in _values(of_week, 0, 7)}
    return by_month and by_week if "*" in (of_month[0], of_week[0]) else by_month or by_week


def _values(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for item in field.split(","):
        span, _, step = item.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        end = _number(last) if last else (high if step else _number(first))
        found |= set(range(_number(first), end + 1, int(step or 1)))
    return found


def _number(text: str) -> int:
    return _NAMES[text] if text in _NAMES else int(text)


def _offset(zone: str, moment: int) -> int:
    offset = datetime.fromtimestamp(moment * 60, UTC).astimezone(ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return int(offset.total_seconds()) // 60
