"""Restore points of disks, day by day of the person's zone, with the runs that were promised and made none."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from itertools import islice, pairwise
from uuid import UUID

from agents.models import Disk
from backups.models import Backup
from backups.states import BackupHealth, BackupStatus
from definitions.honest_states import GRACE
from definitions.models import Definition
from definitions.schedule import next_runs
from tenants.models import Person

DAYS = 30
# Of one disk; who backs up more often than hourly sees the newest ones.
MOST_POINTS = 1000
_MOST_SLOTS = 1000
_BAD = {BackupHealth.DAMAGED: "damaged", BackupHealth.MISSING: "lost"}
# Of several points of a day its cell shows the worst one.
_WORST_FIRST = ("lost", "damaged", "pending", "unverified", "verified")


@dataclass(frozen=True, slots=True)
class Point:
    """One backup. `kept` is False for one that was made and has left the catalogue since."""

    key: UUID
    name: str
    at: datetime
    status: str
    health: str
    kept: bool = True
    slot_at: datetime | None = None

    @property
    def word(self) -> str:
        if self.status in {BackupStatus.LOST, BackupStatus.PENDING}:
            return str(self.status)
        return _BAD.get(BackupHealth(self.health)) or str(self.health)


@dataclass(frozen=True, slots=True)
class Day:
    """`points` in the catalogue, the newest first; `removed` counts those that retention or a person took out since;
    `gaps` are times of the schedule that made no backup.
    """

    on: date
    points: tuple[Point, ...] = ()
    removed: int = 0
    gaps: tuple[datetime, ...] = ()

    @property
    def mark(self) -> str:
        """What its cell shows: the name of a shape."""
        if not self.points:
            return "gap" if self.gaps else "removed" if self.removed else "none"
        words = {point.word for point in self.points}
        worst = next(word for word in _WORST_FIRST if word in words)
        return "partly" if self.gaps and worst in {"verified", "unverified"} else worst

    @property
    def sentence(self) -> str:
        counts = [(sum(point.word == word for point in self.points), word) for word in _WORST_FIRST]
        said = [f"{count} {word}" for count, word in counts if count]
        said += [f"{self.removed} made and removed since"] if self.removed else []
        said += [f"{len(self.gaps)} promised and not made"] if self.gaps else []
        return ", ".join(said) or "nothing promised"


@dataclass(frozen=True, slots=True)
class DiskLine:
    """The last days of one disk, the oldest first."""

    disk: Disk
    days: tuple[Day, ...]

    @property
    def gap_count(self) -> int:
        return sum(len(day.gaps) for day in self.days)

    def day(self, on: date) -> Day | None:
        return next((day for day in self.days if day.on == on), None)


def timelines_of(
    disks: Sequence[Disk], definitions: Iterable[Definition], *, person: Person, now: datetime, zone: tzinfo
) -> list[DiskLine]:
    """One line for each disk; one query. The definitions are those of the disks that promise something."""
    first = _midnight(now.astimezone(zone).date() - timedelta(days=DAYS - 1), zone)
    points, first = _points_of(disks, person=person, since=first)
    gaps: dict[UUID, list[datetime]] = defaultdict(list)
    for one in definitions:
        if one.active:
            gaps[one.disk_id] += missed_slots(one, points.get(one.disk_id, []), since=first, now=now)
    return [DiskLine(disk, days_of(points.get(disk.pk, []), gaps[disk.pk], now=now, zone=zone)) for disk in disks]


def missed_slots(definition: Definition, points: Sequence[Point], *, since: datetime, now: datetime) -> list[datetime]:
    """The times of its schedule, as it is now, that made no backup: neither for the slot nor until the next one.

    Nothing is said of the time before the definition was there, nor of a run that may still be under way.
    """
    schedule = {"cron": definition.cron, "time_zone": definition.time_zone}
    end = now - GRACE
    following = list(islice(next_runs(**schedule, after=end), 2))
    shortest = following[1] - following[0] if len(following) == 2 else timedelta(days=DAYS)
    begin = max(since, definition.created_at, end - shortest * _MOST_SLOTS)
    slots = [slot for slot in islice(next_runs(**schedule, after=begin), _MOST_SLOTS) if slot <= end]
    made, of_slot = sorted(point.at for point in points), {point.slot_at for point in points}

    def is_made(slot: datetime, following: datetime) -> bool:
        found = bisect_left(made, slot)
        return slot in of_slot or (found < len(made) and made[found] < following)

    return [slot for slot, following in pairwise([*slots, now]) if not is_made(slot, following)]


def days_of(points: Iterable[Point], gaps: Iterable[datetime], *, now: datetime, zone: tzinfo) -> tuple[Day, ...]:
    """DAYS days up to today, the oldest first."""
    kept: dict[date, list[Point]] = defaultdict(list)
    removed: dict[date, int] = defaultdict(int)
    missing: dict[date, list[datetime]] = defaultdict(list)
    for point in points:
        on = point.at.astimezone(zone).date()
        if point.kept:
            kept[on].append(point)
        else:
            removed[on] += 1
    for slot in gaps:
        missing[slot.astimezone(zone).date()].append(slot)
    today = now.astimezone(zone).date()
    days = [today - timedelta(days=ago) for ago in reversed(range(DAYS))]
    return tuple(
        Day(on, tuple(sorted(kept[on], key=lambda point: point.at, reverse=True)), removed[on], tuple(missing[on]))
        for on in days
    )


def _points_of(disks: Sequence[Disk], *, person: Person, since: datetime) -> tuple[dict[UUID, list[Point]], datetime]:
    """By disk; and since when they are all of them, which is later where there are too many."""
    # By the server: there is an index of its backups by age.
    servers = {disk.server_id for disk in disks}
    found = Backup.objects.for_user(person).filter(server__in=servers, created_at__gte=since)
    columns = ("disk_id", "pk", "name", "created_at", "status", "health", "removed_at", "slot_at")
    points: dict[UUID, list[Point]] = defaultdict(list)
    most = MOST_POINTS * max(len(disks), 1)
    rows = list(found.order_by("-created_at").values_list(*columns)[:most])
    for disk, key, name, at, status, health, removed_at, slot_at in rows:
        points[disk].append(Point(key, name, at, status, health, removed_at is None, slot_at))
    return points, rows[-1][3] if len(rows) == most else since


def _midnight(on: date, zone: tzinfo) -> datetime:
    return datetime(on.year, on.month, on.day, tzinfo=zone)
