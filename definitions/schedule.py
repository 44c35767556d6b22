"""Five-field cron in a time zone. Pure: `now` is passed in; the search is cronsim's, the rules across DST are these:

- A schedule that names hours keeps local time. A local time that does not exist runs once, just after; several of
  them in one gap are one run. A local time that exists twice runs once, the first time.
- A schedule of every hour follows elapsed time: the hour that comes twice has its runs twice, the one that is skipped
  has none, and no hour between two runs becomes longer or shorter.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from itertools import islice

from cronsim import CronSim, CronSimError

from common.errors import InvalidInputError

LONGEST_CRON = 100
# Far enough for 29 February across a century without a leap year; beyond it a schedule counts as never due.
HORIZON = timedelta(days=366 * 9)
EVERY_HOUR = 24
_QUARTER = timedelta(minutes=15)
_ALLOWED = re.compile(r"[0-9A-Za-z*,/#\- ]+")
_STEP = re.compile(r"/(\d+)")
_FIELDS = (("minute", 60), ("hour", 24), ("day of month", 31), ("month", 12), ("day of week", 7))
# Every pair of weekday and leap year comes once in 28 years; a schedule is due in one of any nine.
_CYCLE = range(2001, 2029)
_RAREST_YEARS = 8
_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


def check_cron(expression: str) -> str:
    """The expression with single spaces. Raises InvalidInputError (field `cron`) that says what is wrong."""
    if len(expression) > 10 * LONGEST_CRON or len(text := " ".join(expression.split())) > LONGEST_CRON:
        raise _bad(f"The schedule is longer than {LONGEST_CRON} characters.")
    fields = text.split(" ")
    if len(fields) != len(_FIELDS):
        raise _bad("A schedule has five fields: minute, hour, day of month, month, day of week. Example: 0 22 * * *")
    if not text.isascii() or not _ALLOWED.fullmatch(text):
        raise _bad("A schedule has only digits, names, and the signs * , - / in five fields. Example: 30 2 * * mon-fri")
    _check_steps(fields)
    try:
        CronSim(text, _EPOCH)
    except (CronSimError, ValueError) as error:
        raise _bad(f"The schedule {text!r} cannot be: {error}. Example: 0 22 * * * runs every day at 22:00.") from error
    _refuse_never(text)
    return text


def _check_steps(fields: list[str]) -> None:
    for text, (name, count) in zip(fields, _FIELDS, strict=True):
        if wrong := [step for step in _STEP.findall(text) if int(step) > count]:
            raise _bad(f"A step of {wrong[0]} cannot be: the field {name} has {count} values. Use a smaller one.")


@lru_cache(maxsize=4096)
def _refuse_never(cron: str) -> None:
    """No day matches, as 30 February, or too rarely for anybody to mean it, as a Sunday that is a 29 February."""
    years = [year for year in _CYCLE if _runs_in(cron, year)]
    if not years:
        raise _bad(f"The schedule {cron!r} never happens: no month has such a day.")
    following = [*years[1:], years[0] + len(_CYCLE)]
    if max(after - year for year, after in zip(years, following, strict=True)) > _RAREST_YEARS:
        raise _bad(f"The schedule {cron!r} happens less than once in {_RAREST_YEARS} years. Choose other days.")


def _runs_in(cron: str, year: int) -> bool:
    found = next(CronSim(cron, datetime(year - 1, 12, 31, 23, 59, 59, tzinfo=UTC)), None)
    return found is not None and found.year == year


def check_time_zone(name: str) -> str:
    """The name if it is an IANA zone. Raises InvalidInputError (field `time_zone`)."""
    if name not in zoneinfo.available_timezones():
        raise InvalidInputError(
            f"{name!r} is not a time zone. Use a name such as Europe/Paris.", code="bad_time_zone", field="time_zone"
        )
    return name


def next_runs(*, cron: str, time_zone: str, after: datetime) -> Iterator[datetime]:
    """The run times after `after` in UTC, strictly ascending; ends where none follows within the horizon."""
    last, zone = after.astimezone(UTC), zoneinfo.ZoneInfo(time_zone)
    parsed = CronSim(_explicit(cron), last.astimezone(zone))
    found = _by_elapsed_time(parsed, zone, last) if len(parsed.hours) == EVERY_HOUR else parsed
    for at in (run.astimezone(UTC) for run in found):
        if at - last > HORIZON:
            return
        # Within the hour that comes twice, the search finds what was run when it came first.
        if at > last:
            last = at
            yield at


def _by_elapsed_time(parsed: CronSim, zone: zoneinfo.ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Every minute that shows a time of the schedule. No zone changes its clock but at a quarter of an hour (UTC)."""
    block, last = after.replace(minute=after.minute // 15 * 15, second=0, microsecond=0), after
    while block - last <= HORIZON:
        local = block.astimezone(zone)
        if local.month not in parsed.months or not parsed.match_day(local.date()):
            midnight = datetime.combine(local.date() + timedelta(days=1), time(), tzinfo=zone)
            block = max(midnight.astimezone(UTC), block + _QUARTER)
            continue
        for minute in range(15):
            if local.minute + minute in parsed.minutes:
                last = block + timedelta(minutes=minute)
                yield last
        block += _QUARTER


def next_run(*, cron: str, time_zone: str, after: datetime) -> datetime | None:
    """The first run after `after` in UTC; None when there is none within the horizon."""
    return next(next_runs(cron=cron, time_zone=time_zone, after=after), None)


def follows_elapsed_time(cron: str) -> bool:
    """Whether it runs in every hour, and so by elapsed time; otherwise it keeps local time."""
    return len(CronSim(cron, _EPOCH).hours) == EVERY_HOUR


@lru_cache(maxsize=4096)
def _explicit(cron: str) -> str:
    """The same schedule without stars in its times: for cronsim they change the rule across DST."""
    parsed, days = CronSim(cron, _EPOCH), cron.split(" ", 2)[2]
    minutes = ",".join(str(minute) for minute in sorted(parsed.minutes))
    return f"{minutes} {','.join(str(hour) for hour in sorted(parsed.hours))} {days}"


def explain(cron: str) -> str:
    """The schedule in words."""
    return CronSim(cron, _EPOCH).explain()


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run in the schedule's zone; `note` says what a change of the clock does to it, mostly nothing."""

    at: datetime
    note: str = ""


@dataclass(frozen=True, slots=True)
class SchedulePreview:
    """What a schedule means. `runs` are in the schedule's zone, so that a change of its offset is seen."""

    cron: str
    time_zone: str
    explanation: str
    runs: tuple[PlannedRun, ...]


def preview(*, cron: str, time_zone: str, after: datetime, count: int = 10) -> SchedulePreview:
    """The schedule in words and its next runs. Raises InvalidInputError for a field that is wrong."""
    cron, time_zone = check_cron(cron), check_time_zone(time_zone)
    zone = zoneinfo.ZoneInfo(time_zone)
    times = [run.astimezone(zone) for run in islice(next_runs(cron=cron, time_zone=time_zone, after=after), count)]
    before = [after.astimezone(zone), *times]
    runs = tuple(PlannedRun(at, _note(cron, at, earlier)) for at, earlier in zip(times, before, strict=False))
    return SchedulePreview(cron=cron, time_zone=time_zone, explanation=explain(cron), runs=runs)


def _note(cron: str, at: datetime, earlier: datetime) -> str:
    elapsed, parsed = follows_elapsed_time(cron), CronSim(cron, _EPOCH)
    if not elapsed and not (at.hour in parsed.hours and at.minute in parsed.minutes):
        return f"skipped hour: runs at {at:%H:%M}"
    if at.replace(fold=0).utcoffset() != at.replace(fold=1).utcoffset():
        return "hour comes twice: runs in both" if elapsed else "hour comes twice: runs once"
    if at.utcoffset() != earlier.utcoffset():
        return f"the clock has changed: {at:%Z} from here on"
    return ""


def _bad(message: str) -> InvalidInputError:
    return InvalidInputError(message, code="bad_cron", field="cron")
