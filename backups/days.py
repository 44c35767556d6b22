"""How backups went day by day, and what they took up: the calendar and the growth of the first page.

    count_days(tenant, now=...)      keeps the figures of each day that is not settled; twice or late does no harm
    days_of(person, now=...)         the last SHOWN_DAYS days of all that the person sees, the oldest first

Days are those of the person's zone, and so of 23 or 25 hours where the clock changes. What is kept is kept for each
zone in which somebody looks at the tenant, and for UTC, whose days are shown where nothing was kept for the zone yet.

Of a day's jobs the good and the failed ones are those that were asked for on it; a failure that was tried again counts
by what became of the retry. Missed are times of the schedules, as they were then, that no job was made for; those that
a pause, a time without backups or a suspension kept from starting are held instead. Everything comes from rows, so a
day that was not counted in time is counted later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Count, Max, Q, Sum
from django.db.models.functions import TruncDate

from agents.models import Server
from backups.accounting import TAKES_SPACE
from backups.models import Backup, DayFigures, Job
from backups.states import JobKind, JobState
from definitions.honest_states import GRACE
from definitions.models import Definition
from definitions.past_holds import past_holds
from definitions.promised import SlotTimes, slots_of
from definitions.schedule_history import eras_of
from engine.store.base import ObjectKind
from tenants.access import zones_that_see
from tenants.list_fields import midnight
from tenants.models import Person, Tenant
from vaults.models import Domain, StoredObject

SHOWN_DAYS = 30
# What was asked for on a day has ended by then, or is no matter of that day any more.
SETTLED_AFTER = timedelta(days=1)
# Counted while somebody looks, at most; beyond that the kept figures are shown.
LIVE_JOBS = 500
LIVE_OBJECTS = 20_000
LIVE_DEFINITIONS = 2_000
_DAY = timedelta(days=1)
_COUNTS = ("good_count", "failed_count", "missed_count", "held_count", "total_bytes")


@dataclass(frozen=True, slots=True)
class Day:
    """`total_bytes` is what was taken up when it ended, or is now; None where nobody counted."""

    day: date
    good_count: int = 0
    failed_count: int = 0
    missed_count: int = 0
    total_bytes: int | None = None
    held_count: int = 0

    @property
    def run_count(self) -> int:
        return self.good_count + self.failed_count + self.missed_count


@dataclass(frozen=True, slots=True)
class Days:
    """In whose zone they begin and end. `counted_at` is None for what was counted now."""

    days: tuple[Day, ...]
    time_zone: str
    counted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """What days are counted from."""

    jobs: Any
    definitions: Any
    objects: Any
    copies: Any


def shown_days(now: datetime, zone: tzinfo = UTC) -> list[date]:
    """The last SHOWN_DAYS days, the oldest first, today last."""
    today = now.astimezone(zone).date()
    return [today - timedelta(days=ago) for ago in reversed(range(SHOWN_DAYS))]


def count_days(tenant: Tenant, *, now: datetime) -> None:
    """Every shown day of the tenant that was not counted yet, or before it was settled; in each zone."""
    for time_zone in sorted({"UTC", *zones_that_see(tenant)}):
        _count_in(time_zone, tenant, now)


def _count_in(time_zone: str, tenant: Tenant, now: datetime) -> None:
    zone = ZoneInfo(time_zone)
    kept = DayFigures.objects.filter(tenant=tenant, time_zone=time_zone).values_list("day", "counted_at")
    known = {day for day, counted_at in kept if counted_at >= midnight(day + _DAY, zone) + SETTLED_AFTER}
    open_days = [day for day in shown_days(now, zone) if day not in known]
    if not open_days:
        return
    # One stretch from the oldest on: what is settled in between comes out the same.
    counted = count(rows_of_tenant(tenant), open_days[0], now=now, zone=zone)
    DayFigures.objects.bulk_create(
        [_kept(tenant, time_zone, day, now) for day in counted if day.day not in known],
        update_conflicts=True,
        unique_fields=["tenant", "time_zone", "day"],
        update_fields=["counted_at", *_COUNTS],
    )


def days_of(person: Person, *, now: datetime) -> Days:
    """Of the tenants that the person administers, and of single servers elsewhere that are his."""
    own_name, tenants = person.time_zone or "UTC", Tenant.objects.for_user(person).order_by()
    own = ZoneInfo(own_name)
    everything = _rows_of_person(person, tenants, Server.objects.for_user(person))
    days = shown_days(now, own)
    if _is_small(everything, midnight(days[0], own)):
        return Days(tuple(count(everything, days[0], now=now, zone=own)), own_name)
    time_zone = own_name if _is_kept_in(own_name, tenants, days) else "UTC"
    zone = ZoneInfo(time_zone)
    days = shown_days(now, zone)
    kept, counted_at = _kept_days(time_zone, tenants, days)
    elsewhere = Server.objects.for_user(person).exclude(tenant__in=tenants.values("pk"))
    # For who sees every tenant there is no elsewhere, and looking for it is a walk over all servers.
    if not person.is_superuser and elsewhere.exists():
        counted = count(_rows_of_servers(elsewhere), days[0], now=now, zone=zone, most_objects=LIVE_OBJECTS)
        kept = [_sum(first, second) for first, second in zip(kept, counted, strict=True)]
    return Days(tuple(kept), time_zone, counted_at)


# --- where the rows are -----------------------------------------------------------------------------------------------


def rows_of_tenant(tenant: Tenant) -> Rows:
    """As `accounting.stored_bytes` sums them: what a moved server left behind is of the tenant that has it now."""
    return Rows(
        Job.objects.filter(tenant=tenant),
        Definition.objects.filter(tenant=tenant),
        StoredObject.objects.filter(Q(domain__held_for=tenant) | Q(domain__tenant=tenant, domain__held_for=None)),
        Backup.objects.filter(tenant=tenant, storage__isnull=False),
    )


def _rows_of_servers(servers: Any) -> Rows:
    keys = servers.order_by().values("pk")
    return Rows(
        Job.objects.filter(disk__server__in=keys),
        Definition.objects.filter(disk__server__in=keys),
        StoredObject.objects.filter(domain__server__in=keys),
        Backup.objects.filter(server__in=keys, storage__isnull=False),
    )


def _rows_of_person(person: Person, tenants: Any, servers: Any) -> Rows:
    held, own = tenants.values("pk"), servers.order_by().values("pk")
    ways = (Q(held_for__in=held), Q(tenant__in=held, held_for=None), Q(server__in=own))
    # Each by its own index: with an OR over several tables the database reads all objects of all tenants.
    domains, *others = (Domain.objects.filter(way).order_by().values("pk") for way in ways)
    return Rows(
        Job.objects.for_user(person),
        Definition.objects.for_user(person),
        StoredObject.objects.filter(domain__in=domains.union(*others)),
        Backup.objects.for_user(person).filter(storage__isnull=False),
    )


def _is_small(rows: Rows, begin: datetime) -> bool:
    jobs = rows.jobs.filter(created_at__gte=begin).order_by()
    if jobs[: LIVE_JOBS + 1].count() > LIVE_JOBS:
        return False
    if rows.definitions.order_by()[: LIVE_DEFINITIONS + 1].count() > LIVE_DEFINITIONS:
        return False
    return _has_few_objects(rows, LIVE_OBJECTS)


def _has_few_objects(rows: Rows, most: int) -> bool:
    return bool(rows.objects.order_by()[: most + 1].count() <= most)


# --- kept -------------------------------------------------------------------------------------------------------------


def _kept(tenant: Tenant, time_zone: str, day: Day, now: datetime) -> DayFigures:
    counts = {name: getattr(day, name) or 0 for name in _COUNTS}
    return DayFigures(tenant=tenant, time_zone=time_zone, day=day.day, counted_at=now, **counts)


def _is_kept_in(time_zone: str, tenants: Any, days: Sequence[date]) -> bool:
    """Whether as much was counted in the zone as by UTC: a person may have chosen it a minute ago."""
    if time_zone == "UTC":
        return True
    kept = DayFigures.objects.filter(tenant__in=tenants.values("pk"), day__gte=days[0], day__lt=days[-1])
    by_zone = kept.filter(time_zone__in=[time_zone, "UTC"]).order_by().values_list("time_zone")
    counts = dict(by_zone.annotate(count=Count("pk")))
    return counts.get(time_zone, 0) >= counts.get("UTC", 0)


def _kept_days(time_zone: str, tenants: Any, days: Sequence[date]) -> tuple[list[Day], datetime | None]:
    kept = DayFigures.objects.filter(tenant__in=tenants.values("pk"), time_zone=time_zone, day__gte=days[0]).order_by()
    found = {
        row.pop("day"): row
        for row in kept.values("day").annotate(**{name: Sum(name) for name in _COUNTS}, counted=Max("counted_at"))
    }
    counted_at = max((row.pop("counted") for row in found.values()), default=None)
    return [Day(day, **found.get(day, {})) for day in days], counted_at


def _sum(first: Day, second: Day) -> Day:
    totals = [total for total in (first.total_bytes, second.total_bytes) if total is not None]
    return Day(
        first.day,
        first.good_count + second.good_count,
        first.failed_count + second.failed_count,
        first.missed_count + second.missed_count,
        sum(totals) if totals else None,
        first.held_count + second.held_count,
    )


# --- counted ----------------------------------------------------------------------------------------------------------


def count(rows: Rows, first: date, *, now: datetime, zone: tzinfo = UTC, most_objects: int | None = None) -> list[Day]:
    """Each day from the first to today. Without totals where there are more objects than that to be summed."""
    days = [first + _DAY * number for number in range((now.astimezone(zone).date() - first).days + 1)]
    verdicts = _verdicts(rows.jobs, first, now, zone)
    missed, held = _missed(rows, first, now, zone)
    is_cut = most_objects is not None and not _has_few_objects(rows, most_objects)
    totals: Sequence[int | None] = [None] * len(days) if is_cut else _totals(rows, days, zone)
    return [
        Day(day, *verdicts.get(day, (0, 0)), missed[day], total, held[day])
        for day, total in zip(days, totals, strict=True)
    ]


def _verdicts(jobs: Any, first: date, now: datetime, zone: tzinfo) -> dict[date, tuple[int, int]]:
    begin = midnight(first, zone)
    ran = jobs.filter(kind=JobKind.BACKUP, created_at__gte=begin, created_at__lte=now).order_by()
    good, failed = Q(state=JobState.OK), Q(state=JobState.FAILED, retry=None)
    by_day = ran.annotate(on=TruncDate("created_at", tzinfo=zone)).values("on")
    found = by_day.annotate(good=Count("pk", filter=good), failed=Count("pk", filter=failed))
    return {row["on"]: (row["good"], row["failed"]) for row in found}


def _missed(rows: Rows, first: date, now: datetime, zone: tzinfo) -> tuple[Counter[date], Counter[date]]:
    """Of each day the times that were to be and were not; and those that something held."""
    begin, end = midnight(first, zone), now - GRACE
    ran: dict[Any, set[datetime]] = {}
    # A job is made at its time or after it.
    made = rows.jobs.filter(kind=JobKind.BACKUP, created_at__gte=begin, slot_at__gte=begin).order_by()
    for definition_id, slot_at in made.values_list("definition", "slot_at"):
        ran.setdefault(definition_id, set()).add(slot_at)
    chosen = list(rows.definitions.filter(created_at__lt=end).select_related("disk__server").order_by())
    eras, holds, times = eras_of(chosen), past_holds(chosen, begin=begin, end=end), SlotTimes(begin, end)
    missed, held = Counter[date](), Counter[date]()
    for definition in chosen:
        done = ran.get(definition.pk, set())
        for slot in slots_of(eras[definition.pk], times):
            if slot.active and slot.at not in done:
                counted = held if holds.words_at(definition, slot.at) else missed
                counted[slot.at.astimezone(zone).date()] += 1
    return missed, held


def _totals(rows: Rows, days: Sequence[date], zone: tzinfo) -> list[int]:
    """What was there at the end of each day: all that came until then without what went. Two sums of the ledger."""
    changes: Counter[date] = Counter()
    present = Q(status__in=TAKES_SPACE)
    # Of what was granted and never came there is no version.
    gone = Q(status=StoredObject.Status.DELETED, deleted_at__isnull=False) & ~Q(version_id="")
    objects = rows.objects.exclude(kind=ObjectKind.CONFIG).order_by()
    _add(changes, objects.filter(present | gone), "granted_at", "size_bytes", 1, zone)
    _add(changes, objects.filter(gone), "deleted_at", "size_bytes", -1, zone)
    copies = rows.copies.filter(stored_bytes__isnull=False, finished_at__isnull=False).order_by()
    _add(changes, copies, "finished_at", "stored_bytes", 1, zone)
    _add(changes, copies.filter(erased_at__isnull=False), "erased_at", "stored_bytes", -1, zone)
    total = sum(amount for day, amount in changes.items() if day < days[0])
    totals = []
    for day in days:
        total += changes[day]
        totals.append(total)
    return totals


def _add(changes: Counter[date], rows: Any, moment: str, size: str, sign: int, zone: tzinfo) -> None:
    by_day = rows.annotate(on=TruncDate(moment, tzinfo=zone)).values("on")
    for row in by_day.annotate(amount=Sum(size)):
        changes[row["on"]] += sign * row["amount"]
