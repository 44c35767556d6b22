"""When a country changes its clock: next runs are decided anew, so that no local time loses its run or gets two.

A next run is kept as a moment. After an update of the time zone database that moment may be another local time. So the
rules by which it was decided are kept, too: they say which local time was meant, and the new ones when that is now.
"""

from __future__ import annotations

import io
import logging
import time
import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path

from cronsim import CronSim
from django.db import transaction

from definitions.models import Definition
from definitions.schedule import follows_elapsed_time, next_runs
from definitions.zone_models import ZoneRules

logger = logging.getLogger(__name__)

# A process looks when it begins, and then this often.
LOOK_AGAIN_SECONDS = 3600.0
# No clock ever skipped more in one night, but for two islands that skipped a day.
_LONGEST_GAP = timedelta(hours=3)
_SECOND = timedelta(seconds=1)
_looked_at: float | None = None


def follow_zone_changes(*, now: datetime, clock: Callable[[], float] = time.monotonic) -> int:
    """Call before anything is dispatched. Returns how many next runs are at another moment now; mostly it only looks.

    A process keeps the rules that it has read: after an update of the database workers are started anew.
    """
    global _looked_at
    if _looked_at is not None and clock() - _looked_at < LOOK_AGAIN_SECONDS:
        return 0
    moved = sum(_follow(zone, now) for zone in _zones_in_use())
    _looked_at = clock()
    return moved


def _zones_in_use() -> list[str]:
    used = Definition.objects.filter(active=True).order_by().values_list("time_zone", flat=True).distinct()
    return sorted(used)


@transaction.atomic
def _follow(time_zone: str, now: datetime) -> int:
    data = zone_file(time_zone)
    known = ZoneRules.objects.filter(pk=time_zone).values_list("data", flat=True).first()
    if known is not None and bytes(known) == data:
        return 0
    rules, is_new = ZoneRules.objects.get_or_create(pk=time_zone, defaults={"data": data, "noted_at": now})
    if is_new:
        return 0
    rules = ZoneRules.objects.select_for_update().get(pk=time_zone)
    before = zoneinfo.ZoneInfo.from_file(io.BytesIO(bytes(rules.data)), key=time_zone)
    # What this process has read of the zone may be the old rules still.
    zoneinfo.ZoneInfo.clear_cache(only_keys=[time_zone])
    moved = _move(time_zone, before, now)
    rules.data, rules.noted_at = data, now
    rules.save()
    logger.warning("rules of a time zone changed", extra={"time_zone": time_zone, "next_runs_moved": moved})
    return moved


def _move(time_zone: str, before: zoneinfo.ZoneInfo, now: datetime) -> int:
    planned = Definition.objects.filter(active=True, time_zone=time_zone, next_run_at__isnull=False)
    moved = 0
    for cron, at in planned.order_by().values_list("cron", "next_run_at").distinct():
        meant = same_run(cron=cron, time_zone=time_zone, before=before, at=at)
        # What is due by both is only late; it runs once, now.
        if meant != at and not (at <= now and meant <= now):
            moved += planned.filter(cron=cron, next_run_at=at).update(next_run_at=meant)
    return moved


def same_run(*, cron: str, time_zone: str, before: zoneinfo.ZoneInfo, at: datetime) -> datetime:
    """When the run that was planned for `at` under the rules `before` is by the zone's present ones, in UTC.

    It may be over already. A schedule of every hour follows elapsed time: its run stays, or is the next after it. What
    was no time of the schedule, such as a run that a person asked for at once, stays too.
    """
    if follows_elapsed_time(cron):
        return next(next_runs(cron=cron, time_zone=time_zone, after=at - _SECOND), at)
    meant = at.astimezone(before).replace(tzinfo=None, fold=0)
    in_gap = not _is_a_time_of(cron, meant)
    if in_gap and not _is_after_a_gap(before, at):
        return at
    earliest = meant - _LONGEST_GAP if in_gap else meant
    zone = zoneinfo.ZoneInfo(time_zone)
    # Of a local time that does not exist now, the run is just after: it is found from before the gap.
    begin = earliest.replace(tzinfo=zone).astimezone(UTC) - _LONGEST_GAP
    found = next_runs(cron=cron, time_zone=time_zone, after=begin)
    return next((run for run in found if run.astimezone(zone).replace(tzinfo=None) >= earliest), at)


def _is_a_time_of(cron: str, local: datetime) -> bool:
    return next(CronSim(cron, local - _SECOND), None) == local


def _is_after_a_gap(zone: zoneinfo.ZoneInfo, at: datetime) -> bool:
    """Whether the clock was put forward right at this moment: what runs then was meant for a time that was skipped."""
    after, earlier = at.astimezone(zone).utcoffset(), (at - _SECOND).astimezone(zone).utcoffset()
    return after is not None and earlier is not None and after > earlier


def zone_file(time_zone: str) -> bytes:
    """The zone's file, found where Python finds it: the system's database first, then the one of the package."""
    parts = time_zone.split("/")
    for folder in zoneinfo.TZPATH:
        path = Path(folder, *parts)
        if path.is_file():
            return path.read_bytes()
    return resources.files("tzdata").joinpath("zoneinfo", *parts).read_bytes()
