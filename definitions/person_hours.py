"""The planned day by a person's clock. What is sent and kept are hours of the UTC day. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

from definitions.spread import DAY_MINUTES, PileUp

_UTC = "UTC"


@dataclass(frozen=True, slots=True)
class PersonHour:
    """An hour of the UTC day, with the wall clock of its first and its last minute; `short` heads a column."""

    hour: int
    begin: str
    end: str
    short: str

    @property
    def utc(self) -> str:
        return f"{self.hour:02}:00 UTC"

    @property
    def utc_span(self) -> str:
        return f"{self.hour:02}:00 to {self.hour:02}:59 UTC"


class PersonDay:
    """The 24 hours of the UTC day, from midnight to midnight by the clock of the zone; iterated in that order.

    The offset is that of noon (UTC) of the date. It is no whole hour in some zones: there an hour begins at half past.
    """

    def __init__(self, *, on: date, zone: str) -> None:
        self.on, self.zone = on, zone
        offset = datetime.combine(on, time(12), tzinfo=UTC).astimezone(ZoneInfo(zone)).utcoffset()
        self._offset = int(offset.total_seconds()) // 60 if offset is not None else 0
        self._by_utc = [self._hour(hour) for hour in range(24)]
        self._by_clock = sorted(self._by_utc, key=lambda one: one.begin)

    def __iter__(self) -> Iterator[PersonHour]:
        return iter(self._by_clock)

    def of(self, hour: int) -> PersonHour:
        """The hour of the UTC day, 0 to 23."""
        return self._by_utc[hour]

    @property
    def is_utc(self) -> bool:
        return self.zone == _UTC

    @property
    def offset(self) -> str:
        """UTC+05:30"""
        hours, minutes = divmod(abs(self._offset), 60)
        return f"UTC{'-' if self._offset < 0 else '+'}{hours:02}:{minutes:02}"

    def advice(self, pile: PileUp) -> str:
        """What the API says of the pile, by this clock."""
        hour = self.of(pile.hour)
        return pile.sentence_of(begin=hour.begin, end=hour.end, zone=self.zone)

    def _hour(self, hour: int) -> PersonHour:
        begin = hour * 60 + self._offset
        first = _clock(begin)
        return PersonHour(hour, first, _clock(begin + 59), str(hour) if self.is_utc else first)


def _clock(minute: int) -> str:
    hours, minutes = divmod(minute % DAY_MINUTES, 60)
    return f"{hours:02}:{minutes:02}"
