"""What a definition promised at a time, whatever its schedule says now. Pure: eras and holds in, slots out.

An era is a stretch in which the same was promised: after `begin`, up to and with `end`, as a change of the schedule
makes the times after it other ones. A slot is a time of the schedule that was in force; not every slot was a promise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile

from definitions.schedule import next_run, next_runs


@dataclass(frozen=True, slots=True)
class Era:
    """`end` is None for the present one; `cron` is empty where nobody knows what was promised."""

    cron: str
    time_zone: str
    active: bool
    begin: datetime
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """`active` is False for a time of a schedule that was switched off."""

    at: datetime
    active: bool


@dataclass(frozen=True, slots=True)
class Span:
    """From `begin` on, before `end`; None: still."""

    begin: datetime
    end: datetime | None = None

    def covers(self, at: datetime) -> bool:
        return self.begin <= at and (self.end is None or at < self.end)


class SlotTimes:
    """The times of schedules from `begin` on, before `end`: found once, however many definitions share a schedule."""

    def __init__(self, begin: datetime, end: datetime) -> None:
        self._begin, self._end = begin, end
        self._known: dict[tuple[str, str], list[datetime]] = {}

    def of(self, cron: str, time_zone: str) -> list[datetime]:
        key = (cron, time_zone)
        if key not in self._known:
            runs = next_runs(cron=cron, time_zone=time_zone, after=self._begin - timedelta(microseconds=1))
            self._known[key] = list(takewhile(lambda run: run < self._end, runs))
        return self._known[key]


def slots_of(eras: Iterable[Era], times: SlotTimes) -> Iterator[Slot]:
    """Those within the time of `times`, ascending as the eras are."""
    for era in eras:
        if not era.cron:
            continue
        found = times.of(era.cron, era.time_zone)
        last = len(found) if era.end is None else bisect_right(found, era.end)
        for at in found[bisect_right(found, era.begin) : last]:
            yield Slot(at, era.active)


def first_promise(eras: Iterable[Era], *, after: datetime) -> datetime | None:
    """The first slot behind `after` of an era that was not switched off; it may lie ahead."""
    for era in eras:
        if not era.active or not era.cron or (era.end is not None and era.end <= after):
            continue
        found = next_run(cron=era.cron, time_zone=era.time_zone, after=max(after, era.begin))
        if found is not None and (era.end is None or found <= era.end):
            return found
    return None


def released_at(spans: Sequence[Span], at: datetime) -> datetime | None:
    """When what was held at the moment could begin: the moment itself where nothing held it; None: held still.

    A hold that begins before another one ends goes on in it.
    """
    while held := [span.end for span in spans if span.covers(at)]:
        ends = [end for end in held if end is not None]
        if len(ends) < len(held):
            return None
        at = max(ends)
    return at
