"""How backups went day by day, and what they took up: the calendar and the growth of the first page.

    count_days(tenant, now=...)      keeps the figures of each day that is not settled; twice or late does no harm
    days_of(person, now=...)         the last SHOWN_DAYS days of all that the person sees, the oldest first

Days are those of UTC. Of a day's jobs the good and the failed ones are those that were asked for on it; a failure that
was tried again counts by what became of the retry. Missed are times of the schedules, as they are now, that no job was
made for and that nothing held. Everything comes from rows, so a day that was not counted in time is counted later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import takewhile
from typing import Any

from django.db.models import Count, Max, Q, Sum
from django.db.models.functions import TruncDate

from agents.models import Server
from backups.accounting import TAKES_SPACE
from backups.models import Backup, DayFigures, Job
from backups.states import JobKind, JobState
from definitions.holds import ends_at
from definitions.honest_states import GRACE
from definitions.models import BlackoutWindow, Definition, DefinitionPause
from definitions.schedule import next_runs
from engine.store.base import ObjectKind
from tenants.models import Person, Tenant
from vaults.models import StoredObject

SHOWN_DAYS = 30
# What was asked for on a day has ended by then, or is no matter of that day any more.
SETTLED_AFTER = timedelta(days=1)
# Counted while somebody looks, at most; beyond that the kept figures are shown.
LIVE_JOBS = 500
LIVE_OBJECTS = 20_000
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Day:
    """`total_bytes` is what was taken up when it ended, or is now; None where nobody counted."""

    day: date
    good_count: int = 0
    failed_count: int = 0
    missed_count: int = 0
    total_bytes: int | None = None

    @property
    def begins_at(self) -> datetime:
        return datetime.combine(self.day, time(), tzinfo=UTC)

    @property
    def ends_at(self) -> datetime:
        return self.begins_at + _DAY

    @property
    def run_count(self) -> int:
        return self.good_count + self.failed_count + self.missed_count


@dataclass(frozen=True, slots=True)
class Days:
    """`counted_at` is None for what was counted now."""

    days: tuple[Day, ...]
    counted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """What days are counted from."""

    jobs: Any
    definitions: Any
    objects: Any
    copies: Any


def shown_days(now: datetime) -> list[date]:
    """The last SHOWN_DAYS days, the oldest first, today last."""
    today = now.astimezone(UTC).date()
    return [today - timedelta(days=ago) for ago in reversed(range(SHOWN_DAYS))]


def count_days(tenant: Tenant, *, now: datetime) -> None:
    """Every shown day of the tenant that was not counted yet, or before it was settled."""
    kept = DayFigures.objects.filter(tenant=tenant).values_list("day", "counted_at")
    known = {day for day, counted_at in kept if counted_at >= Day(day).ends_at + SETTLED_AFTER}
    open_days = [day for day in shown_days(now) if day not in known]
    if not open_days:
        return
    # One stretch from the oldest on: what is settled in between comes out the same.
    counted = count(rows_of_tenant(tenant), open_days[0], now=now)
    DayFigures.objects.bulk_create(
        [_kept(tenant, day, now) for day in counted if day.day not in known],
        update_conflicts=True,
        unique_fields=["tenant", "day"],
        update_fields=["counted_at", "good_count", "failed_count", "missed_count", "total_bytes"],
    )


def days_of(person: Person, *, now: datetime) -> Days:
    """Of the tenants that the person administers, and of single servers elsewhere that are his."""
    days, tenants = shown_days(now), Tenant.objects.for_user(person).order_by()
    everything = _rows_of_person(person, tenants, Server.objects.for_user(person))
    if _is_small(everything, days[0]):
        return Days(tuple(count(everything, days[0], now=now)))
    kept, counted_at = _kept_days(tenants, days)
    elsewhere = Server.objects.for_user(person).exclude(tenant__in=tenants.values("pk"))
    # For who sees every tenant there is no elsewhere, and looking for it is a walk over all servers.
    if not person.is_superuser and elsewhere.exists():
        own = count(_rows_of_servers(elsewhere), days[0], now=now, most_objects=LIVE_OBJECTS)
        kept = [_sum(first, second) for first, second in zip(kept, own, strict=True)]
    return Days(tuple(kept), counted_at)


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
    of_tenants = Q(domain__held_for__in=held) | Q(domain__tenant__in=held, domain__held_for=None)
    return Rows(
        Job.objects.for_user(person),
        Definition.objects.for_user(person),
        StoredObject.objects.filter(of_tenants | Q(domain__server__in=own)),
        Backup.objects.for_user(person).filter(storage__isnull=False),
    )


def _is_small(rows: Rows, first: date) -> bool:
    jobs = rows.jobs.filter(created_at__gte=Day(first).begins_at).order_by()
    if jobs[: LIVE_JOBS + 1].count() > LIVE_JOBS:
        return False
    return _has_few_objects(rows, LIVE_OBJECTS)


def _has_few_objects(rows: Rows, most: int) -> bool:
    return bool(rows.objects.order_by()[: most + 1].count() <= most)


# --- kept -------------------------------------------------------------------------------------------------------------


def _kept(tenant: Tenant, day: Day, now: datetime) -> DayFigures:
    return DayFigures(
        tenant=tenant,
        day=day.day,
        counted_at=now,
        good_count=day.good_count,
        failed_count=day.failed_count,
        missed_count=day.missed_count,
        total_bytes=day.total_bytes or 0,
    )


def _kept_days(tenants: Any, days: Sequence[date]) -> tuple[list[Day], datetime | None]:
    names = ("good_count", "failed_count", "missed_count", "total_bytes")
    kept = DayFigures.objects.filter(tenant__in=tenants.values("pk"), day__gte=days[0]).order_by()
    found = {
        row.pop("day"): row
        for row in kept.values("day").annotate(**{name: Sum(name) for name in names}, counted=Max("counted_at"))
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
    )


# --- counted ----------------------------------------------------------------------------------------------------------


def count(rows: Rows, first: date, *, now: datetime, most_objects: int | None = None) -> list[Day]:
    """Each day from the first to today. Without totals where there are more objects than that to be summed."""
    days = [first + _DAY * number for number in range((now.astimezone(UTC).date() - first).days + 1)]
    verdicts, missed = _verdicts(rows.jobs, first, now), Counter(_missed(rows, first, now))
    is_cut = most_objects is not None and not _has_few_objects(rows, most_objects)
    totals: Sequence[int | None] = [None] * len(days) if is_cut else _totals(rows, days)
    return [Day(day, *verdicts.get(day, (0, 0)), missed[day], total) for day, total in zip(days, totals, strict=True)]


def _verdicts(jobs: Any, first: date, now: datetime) -> dict[date, tuple[int, int]]:
    ran = jobs.filter(kind=JobKind.BACKUP, created_at__gte=Day(first).begins_at, created_at__lte=now).order_by()
    good, failed = Q(state=JobState.OK), Q(state=JobState.FAILED, retry=None)
    by_day = ran.annotate(on=TruncDate("created_at", tzinfo=UTC)).values("on")
    found = by_day.annotate(good=Count("pk", filter=good), failed=Count("pk", filter=failed))
    return {row["on"]: (row["good"], row["failed"]) for row in found}


def _missed(rows: Rows, first: date, now: datetime) -> Iterator[date]:
    """The day of each time that was to be and was not."""
    begin, end = Day(first).begins_at, now - GRACE
    ran: dict[Any, set[datetime]] = {}
    # A job is made at its time or after it.
    made = rows.jobs.filter(kind=JobKind.BACKUP, created_at__gte=begin, slot_at__gte=begin).order_by()
    for definition_id, slot_at in made.values_list("definition", "slot_at"):
        ran.setdefault(definition_id, set()).add(slot_at)
    planned, holds = _Planned(begin, end), _Holds(begin, end)
    running = rows.definitions.filter(active=True, tenant__status=Tenant.Status.ACTIVE, created_at__lt=end)
    for definition in running.select_related("disk__server").order_by():
        done = ran.get(definition.pk, set())
        slots = planned.of(definition)
        # It was another schedule then: nothing is known of what that one missed.
        since = max([definition.created_at, definition.changed_at, *(done - slots)])
        for slot in slots - done:
            if slot > since and not holds.held(definition, slot):
                yield slot.astimezone(UTC).date()


class _Planned:
    """The times of each schedule within [begin, end), found once however many definitions share it."""

    def __init__(self, begin: datetime, end: datetime) -> None:
        self._begin, self._end = begin, end
        self._known: dict[tuple[str, str], set[datetime]] = {}

    def of(self, definition: Definition) -> set[datetime]:
        key = (definition.cron, definition.time_zone)
        if key not in self._known:
            runs = next_runs(cron=key[0], time_zone=key[1], after=self._begin - timedelta(microseconds=1))
            self._known[key] = set(takewhile(lambda run: run < self._end, runs))
        return self._known[key]


class _Holds:
    """Pauses of the time and all blackouts: two queries, whatever is asked."""

    def __init__(self, begin: datetime, end: datetime) -> None:
        ended = Q(ended_at__lte=begin) | Q(until__lte=begin)
        self._pauses = list(DefinitionPause.objects.filter(starts_at__lt=end).exclude(ended))
        self._windows = list(BlackoutWindow.objects.all())

    def held(self, definition: Definition, at: datetime) -> bool:
        return any(_covers(pause, at) and _is_of(pause, definition) for pause in self._pauses) or any(
            _is_of(window, definition) and ends_at(window, now=at) is not None for window in self._windows
        )


def _covers(pause: DefinitionPause, at: datetime) -> bool:
    ends = [end for end in (pause.ended_at, pause.until) if end is not None]
    return bool(pause.starts_at <= at and all(at < end for end in ends))


def _is_of(hold: DefinitionPause | BlackoutWindow, definition: Definition) -> bool:
    """The narrowest of what it names counts; without any it is for the whole fleet."""
    if getattr(hold, "definition_id", None):
        return bool(hold.definition_id == definition.pk)
    if hold.node_id:
        return bool(hold.node_id == definition.disk.server.node_id)
    return not hold.tenant_id or bool(hold.tenant_id == definition.tenant_id)


def _totals(rows: Rows, days: Sequence[date]) -> list[int]:
    """What was there at the end of each day: all that came until then without what went. Two sums of the ledger."""
    changes: Counter[date] = Counter()
    present = Q(status__in=TAKES_SPACE)
    # Of what was granted and never came there is no version.
    gone = Q(status=StoredObject.Status.DELETED, deleted_at__isnull=False) & ~Q(version_id="")
    objects = rows.objects.exclude(kind=ObjectKind.CONFIG).order_by()
    _add(changes, objects.filter(present | gone), "granted_at", "size_bytes", 1)
    _add(changes, objects.filter(gone), "deleted_at", "size_bytes", -1)
    copies = rows.copies.filter(stored_bytes__isnull=False, finished_at__isnull=False).order_by()
    _add(changes, copies, "finished_at", "stored_bytes", 1)
    _add(changes, copies.filter(erased_at__isnull=False), "erased_at", "stored_bytes", -1)
    total = sum(amount for day, amount in changes.items() if day < days[0])
    totals = []
    for day in days:
        total += changes[day]
        totals.append(total)
    return totals


def _add(changes: Counter[date], rows: Any, moment: str, size: str, sign: int) -> None:
    by_day = rows.annotate(on=TruncDate(moment, tzinfo=UTC)).values("on")
    for row in by_day.annotate(amount=Sum(size)):
        changes[row["on"]] += sign * row["amount"]
