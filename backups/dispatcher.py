"""Due definitions become jobs, many in one transaction. Any number of beats may run this at once: a slot is taken once.

A definition that is due is locked, so two dispatchers share the work instead of doing it twice; one that somebody edits
at this moment is left for the next tick. The unique (definition, slot) of the jobs holds behind that.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection, transaction

from agents.models import Agent, Node
from backups.models import Backup, Job, JobEvent
from backups.queue import MOST_HINTS, hint_jobs, new_backup, new_job, origin
from backups.states import JobKind
from backups.telling import LATE_AFTER, tell_of_late_run
from definitions.holds import FLEET, Holds, load_holds
from definitions.models import Definition, DefinitionQuerySet
from definitions.past_holds import past_holds
from definitions.schedule import next_run
from tenants.audit import record_many
from tenants.models import Tenant

logger = logging.getLogger(__name__)

BATCH = 500
# After that the rest waits for the next tick: commits are on the same queue.
LONGEST_SECONDS = 20.0


class NextRuns:
    """The next run after `now` of each schedule, computed once however many definitions share it."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._known: dict[tuple[str, str], datetime | None] = {}

    def of(self, definition: Definition) -> datetime | None:
        key = (definition.cron, definition.time_zone)
        if key not in self._known:
            self._known[key] = next_run(cron=definition.cron, time_zone=definition.time_zone, after=self._now)
        return self._known[key]


def dispatch_due(*, now: datetime, clock: Callable[[], float] = time.monotonic) -> int:
    """Write a job for every definition that is due and move its next run behind `now`. Returns how many were written.

    After an outage each definition gets one catch-up run, not one per missed time.
    """
    give_up_at = clock() + LONGEST_SECONDS
    runs, hinted, written = NextRuns(now), Counter[UUID](), 0
    due = due_definitions(now, load_holds(now=now))
    while due.exists():
        jobs, seen = _dispatch_batch(due, now, runs)
        written += len(jobs)
        _hint(jobs, hinted)
        if seen < BATCH or clock() >= give_up_at:
            break
    if written:
        logger.info("definitions dispatched", extra={"count": written})
    return written


def due_definitions(now: datetime, holds: Holds) -> DefinitionQuerySet:
    """Those that nothing holds, on nodes that work, of agents that may.

    What is held stays due, and runs once when the hold is over.
    """
    held: dict[str, set[UUID | None]] = {"definition": set(), "node": set(), "tenant": set(), FLEET: set()}
    for scope, key in holds.targets:
        held[scope].add(key)
    due: DefinitionQuerySet = Definition.objects.filter(
        active=True, next_run_at__lte=now, tenant__status=Tenant.Status.ACTIVE
    )
    if held[FLEET]:
        return due.none()
    resting = Node.Status.MAINTENANCE
    due = due.exclude(backup_node=None, disk__server__node__status=resting).exclude(backup_node__status=resting)
    stopped = [Agent.Status.PENDING, Agent.Status.QUARANTINED, Agent.Status.REVOKED]
    due = due.exclude(disk__server__node=None, disk__server__agent__status__in=stopped)
    columns = {"definition": "pk__in", "node": "disk__server__node__in", "tenant": "tenant__in"}
    for scope, column in columns.items():
        if held[scope]:
            due = due.exclude(**{column: held[scope]})
    return due


@transaction.atomic
def _dispatch_batch(found: DefinitionQuerySet, now: datetime, runs: NextRuns) -> tuple[list[Job], int]:
    """The jobs that were written, and how many definitions were looked at."""
    locked = found.select_for_update(of=("self",), no_key=True, skip_locked=True)
    due = list(
        locked.select_related("disk__server__node", "vault", "tenant", "backup_node").order_by("next_run_at")[:BATCH]
    )
    slots = {definition.pk: definition.next_run_at for definition in due}
    taken, waiting = _taken_slots(slots), _waiting_for_agents(slots)
    new = [one for one in due if (one.pk, slots[one.pk]) not in taken and one.pk not in waiting]
    jobs = _write_jobs(new, slots, now=now)
    _move_next_runs(due, runs)
    for definition in new:
        slot_at = slots[definition.pk]
        if now - slot_at >= LATE_AFTER and not _was_held(definition, slot_at):
            tell_of_late_run(definition, slot_at=slot_at, now=now)
    return jobs, len(due)


def _was_held(definition: Definition, slot_at: datetime) -> bool:
    """Whether it was not to run at its time: then it is not late."""
    held = past_holds([definition], begin=slot_at, end=slot_at + timedelta(seconds=1))
    return bool(held.words_at(definition, slot_at))


def _taken_slots(slots: Mapping[UUID, datetime]) -> set[tuple[UUID, datetime]]:
    """Slots that have their job already: only the next run is left to be moved."""
    same = Job.objects.filter(definition__in=list(slots), slot_at__in=set(slots.values()))
    return set(same.values_list("definition_id", "slot_at"))


def _waiting_for_agents(slots: Mapping[UUID, datetime]) -> set[UUID]:
    """Definitions with a job that its agent has not done yet: a server that is away for long catches up once."""
    waiting = Job.objects.active().filter(definition__in=list(slots), kind=JobKind.BACKUP, node=None)
    return set(waiting.values_list("definition_id", flat=True))


def _write_jobs(definitions: list[Definition], slots: Mapping[UUID, datetime], *, now: datetime) -> list[Job]:
    names = _free_names(definitions, now)
    backups = [
        new_backup(definition, name=names[definition.pk], slot_at=slots[definition.pk]) for definition in definitions
    ]
    Backup.objects.bulk_create(backups)
    jobs = [new_job(backup, slot_at=backup.slot_at, requested_by=None) for backup in backups]
    for job, definition in zip(jobs, definitions, strict=True):
        job.tenant = definition.tenant
    Job.objects.bulk_create(jobs)
    messages = {job.pk: origin(job.slot_at, None) for job in jobs}
    JobEvent.objects.bulk_create(JobEvent(job=job, at=now, code="requested", message=messages[job.pk]) for job in jobs)
    record_many(action="backup.requested", told=[(job, {"message": messages[job.pk]}) for job in jobs])
    return jobs


def _free_names(definitions: Collection[Definition], now: datetime) -> dict[UUID, str]:
    """Definition -> the name of its next backup. Where it is taken, of the next second that is free."""
    free: dict[UUID, str] = {}
    left, at = list(definitions), now
    while left:
        wanted = {definition.pk: f"{definition.name}-{at:%Y%m%d_%H%M%S}" for definition in left}
        used = set(
            Backup.objects.filter(
                disk__in=[definition.disk_id for definition in left], name__in=set(wanted.values())
            ).values_list("disk_id", "name")
        )
        free |= {d.pk: wanted[d.pk] for d in left if (d.disk_id, wanted[d.pk]) not in used}
        left = [definition for definition in left if definition.pk not in free]
        at += timedelta(seconds=1)
    return free


def _hint(jobs: list[Job], hinted: Counter[UUID]) -> None:
    """After the commit. A node is told of a few jobs of one run only; what a worker finds then is all that waits."""
    chosen = []
    for job in jobs:
        if job.node_id is not None and hinted[job.node_id] < MOST_HINTS:
            hinted[job.node_id] += 1
            chosen.append(job)
    hint_jobs(chosen)


def _move_next_runs(definitions: list[Definition], runs: NextRuns) -> None:
    """One statement in one round trip for all: an UPDATE with a CASE per row takes ten times as long."""
    run_at, key = Definition._meta.get_field("next_run_at"), Definition._meta.pk
    table = connection.ops.quote_name(Definition._meta.db_table)
    with connection.cursor() as cursor:
        cursor.executemany(
            f"UPDATE {table} SET next_run_at = %s WHERE id = %s",  # noqa: S608  # the table's own name
            [
                (run_at.get_db_prep_save(runs.of(row), connection), key.get_db_prep_value(row.pk, connection))
                for row in definitions
            ],
        )
