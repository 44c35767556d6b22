"""Five-field cron in a time zone. Pure: `now` is passed in; the rules across DST are cronsim's (Debian cron's).

A local time that does not exist runs once, just after; one that exists twice runs once (for fixed times of day).
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from cronsim import CronSim, CronSimError

from common.errors import InvalidInputError

LONGEST_CRON = 100
# Far enough for 29 February across a century without a leap year; beyond it a schedule counts as never due.
HORIZON = timedelta(days=366 * 9)
_ALLOWED = re.compile(r"[0-9A-Za-z*,/#\- ]+")


def check_cron(expression: str) -> str:
    """The expression with single spaces. Raises InvalidInputError (field `cron`) that says what is wrong."""
    text = " ".join(expression.split())
    if len(text) > LONGEST_CRON:
        raise _bad(f"The schedule is longer than {LONGEST_CRON} characters.")
    if len(text.split(" ")) != 5:
        raise _bad("A schedule has five fields: minute, hour, day of month, month, day of week. Example: 0 22 * * *")
    if not text.isascii() or not _ALLOWED.fullmatch(text):
        raise _bad("A schedule has only digits, names, and the signs * , - / in five fields. Example: 30 2 * * mon-fri")
    try:
        CronSim(text, datetime(2024, 1, 1, tzinfo=UTC))
    except (CronSimError, ValueError) as error:
        raise _bad(f"The schedule {text!r} cannot be: {error}. Example: 0 22 * * * runs every day at 22:00.") from error
    return text


def check_time_zone(name: str) -> str:
    """The name if it is an IANA zone. Raises InvalidInputError (field `time_zone`)."""
    if name not in zoneinfo.available_timezones():
        raise InvalidInputError(
            f"{name!r} is not a time zone. Use a name such as Europe/Paris.", code="bad_time_zone", field="time_zone"
        )
    return name


def next_runs(*, cron: str, time_zone: str, after: datetime) -> Iterator[datetime]:
    """The run times after `after` in UTC, ascending; ends at the horizon."""
    local = after.astimezone(zoneinfo.ZoneInfo(time_zone))
    for run in CronSim(cron, local):
        if run - local > HORIZON:
            return
        yield run.astimezone(UTC)


def next_run(*, cron: str, time_zone: str, after: datetime) -> datetime | None:
    """The first run after `after` in UTC; None when there is none within the horizon."""
    return next(next_runs(cron=cron, time_zone=time_zone, after=after), None)


def explain(cron: str) -> str:
    """The schedule in words."""
    return CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC)).explain()


@dataclass(frozen=True, slots=True)
class SchedulePreview:
    """What a schedule means. `runs` are in the schedule's zone, so that a change of its offset is seen."""

    cron: str
    time_zone: str
    explanation: str
    runs: tuple[datetime, ...]


def preview(*, cron: str, time_zone: str, after: datetime, count: int = 10) -> SchedulePreview:
    """The schedule in words and its next runs. Raises InvalidInputError for a field that is wrong."""
    cron, time_zone = check_cron(cron), check_time_zone(time_zone)
    zone = zoneinfo.ZoneInfo(time_zone)
    runs = islice(next_runs(cron=cron, time_zone=time_zone, after=after), count)
    return SchedulePreview(
        cron=cron, time_zone=time_zone, explanation=explain(cron), runs=tuple(run.astimezone(zone) for run in runs)
    )


def _bad(message: str) -> InvalidInputError:
    return InvalidInputError(message, code="bad_cron", field="cron")
