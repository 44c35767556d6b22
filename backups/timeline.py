"""Restore points of disks, day by day of the person's zone, with the runs that were promised and made none.

What was promised is what the schedule of that time said, not the present one. What something held is no gap: it is
shown as what it was.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from itertools import islice
from uuid import UUID

from agents.models import Disk
from backups.models import Backup
from backups.states import BackupHealth, BackupStatus
from definitions.honest_states import GRACE
from definitions.models import Definition
from definitions.past_holds import past_holds
from definitions.promised import Era, Slot, SlotTimes, slots_of
from definitions.schedule import next_runs
from definitions.schedule_history import eras_of
from tenants.list_fields import midnight
from tenants.models import Person

DAYS = 30
# Of one disk; who backs up more often than hourly sees the newest ones.
MOST_POINTS = 1000
_MOST_SLOTS = 1000
SWITCHED_OFF = "switched off"
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
    `gaps` are times of the schedule that made no backup, `held` says of each of the others what kept it from starting.
    """

    on: date
    points: tuple[Point, ...] = ()
    removed: int = 0
    gaps: tuple[datetime, ...] = ()
    held: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.points or self.gaps or self.removed or self.held)

    @property
    def held_counts(self) -> list[tuple[str, int]]:
        return sorted(Counter(self.held).items())

    @property
    def mark(self) -> str:
        """What its cell shows: the name of a shape."""
        if not self.points:
            return "gap" if self.gaps else "removed" if self.removed else "held" if self.held else "none"
        words = {point.word for point in self.points}
        worst = next(word for word in _WORST_FIRST if word in words)
        return "partly" if self.gaps and worst in {"verified", "unverified"} else worst

    @property
    def sentence(self) -> str:
        counts = [(sum(point.word == word for point in self.points), word) for word in _WORST_FIRST]
        said = [f"{count} {word}" for count, word in counts if count]
        said += [f"{self.removed} made and removed since"] if self.removed else []
        said += [f"{len(self.gaps)} promised and not made"] if self.gaps else []
        said += [f"{count} not due ({words})" for words, count in self.held_counts]
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
    """One line for each disk; a few queries. The definitions are those of the disks; `disk.server` is loaded."""
    first = midnight(now.astimezone(zone).date() - timedelta(days=DAYS - 1), zone)
    points, first = _points_of(disks, person=person, since=first)
    chosen = list(definitions)
    eras, holds = eras_of(chosen), past_holds(chosen, begin=first, end=now)
    gaps: dict[UUID, list[datetime]] = defaultdict(list)
    held: dict[UUID, list[tuple[datetime, str]]] = defaultdict(list)
    for one in chosen:
        for slot in open_slots(eras[one.pk], points.get(one.disk_id, []), since=first, now=now):
            words = holds.words_at(one, slot.at) if slot.active else SWITCHED_OFF
            if words:
                held[one.disk_id].append((slot.at, words))
            else:
                gaps[one.disk_id].append(slot.at)
    return [
        DiskLine(disk, days_of(points.get(disk.pk, []), gaps[disk.pk], held[disk.pk], now=now, zone=zone))
        for disk in disks
    ]


def open_slots(eras: Sequence[Era], points: Sequence[Point], *, since: datetime, now: datetime) -> list[Slot]:
    """The slots that made no backup: neither for the slot nor until the next one. Of many the newest ones.

    Nothing is said of a run that may still be under way.
    """
    end = now - GRACE
    begin = max([since, *(_most_ago(era, end) for era in eras if era.cron and (era.end is None or era.end > since))])
    slots = list(slots_of(eras, SlotTimes(begin, end + timedelta(microseconds=1))))[-_MOST_SLOTS:]
    made, of_slot = sorted(point.at for point in points), {point.slot_at for point in points}

    def is_made(slot: datetime, following: datetime) -> bool:
        found = bisect_left(made, slot)
        return slot in of_slot or (found < len(made) and made[found] < following)

    following = [*(slot.at for slot in slots[1:]), now]
    return [slot for slot, until in zip(slots, following, strict=False) if not is_made(slot.at, until)]


def _most_ago(era: Era, end: datetime) -> datetime:
    """Before that, more slots lie between than are shown."""
    last = end if era.end is None else min(era.end, end)
    runs = list(islice(next_runs(cron=era.cron, time_zone=era.time_zone, after=last), 2))
    return last - (runs[1] - runs[0] if len(runs) == 2 else timedelta(days=DAYS)) * _MOST_SLOTS


def days_of(
    points: Iterable[Point],
    gaps: Iterable[datetime],
    held: Iterable[tuple[datetime, str]] = (),
    *,
    now: datetime,
    zone: tzinfo,
) -> tuple[Day, ...]:
    """DAYS days up to today, the oldest first. Of what was held its words."""
    kept: dict[date, list[Point]] = defaultdict(list)
    removed: dict[date, int] = defaultdict(int)
    missing: dict[date, list[datetime]] = defaultdict(list)
    resting: dict[date, list[str]] = defaultdict(list)
    for point in points:
        on = point.at.astimezone(zone).date()
        if point.kept:
            kept[on].append(point)
        else:
            removed[on] += 1
    for slot in gaps:
        missing[slot.astimezone(zone).date()].append(slot)
    for slot, words in held:
        resting[slot.astimezone(zone).date()].append(words)
    today = now.astimezone(zone).date()

    def day(on: date) -> Day:
        newest_first = sorted(kept[on], key=lambda point: point.at, reverse=True)
        return Day(on, tuple(newest_first), removed[on], tuple(missing[on]), tuple(resting[on]))

    return tuple(day(today - timedelta(days=ago)) for ago in reversed(range(DAYS)))


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
