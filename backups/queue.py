"""Writing jobs, and hinting workers at them. The row is what counts; a hint that gets lost is given again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from celery import current_app
from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError

from agents.drivers.registry import content_of
from agents.models import Node
from backups.models import Backup, Job
from backups.states import READING, JobKind, JobState, Priority
from backups.transitions import note_event
from definitions.models import Definition
from tenants.models import Person

logger = logging.getLogger(__name__)

# Messages to one node at a time.
MOST_HINTS = 8
# Reading for minutes and hours: apart from the queue on which commits wait.
CHECKS_QUEUE = "checks"
# What a person waits for is not behind the scrubs and nightly checks.
ASKED_CHECKS_QUEUE = "checks.asked"


@transaction.atomic
def create_backup_job(
    *,
    definition: Definition,
    now: datetime,
    slot_at: datetime | None,
    requested_by: Person | None,
    run_id: UUID | None = None,
) -> Job:
    """A pending backup and its job; the node is told after the transaction. IntegrityError for a slot taken already.

    The definition's row is held: its server does not move to another tenant in between.
    """
    held = Definition.objects.select_for_update(of=("self",), no_key=True).select_related(
        "disk__server__node", "backup_node"
    )
    definition = held.get(pk=definition.pk)
    backup = new_backup(definition, name=_free_name(definition, now), slot_at=slot_at, run_id=run_id)
    backup.save(force_insert=True)
    job = new_job(backup, slot_at=slot_at, requested_by=requested_by)
    job.save(force_insert=True)
    _announce(job, now=now, message=origin(slot_at, requested_by))
    return job


def run_of(server_id: UUID, at: datetime) -> UUID:
    """What is due at the same time on disks of one server is one run, whoever dispatches which of them."""
    return uuid5(server_id, at.isoformat())


def new_backup(definition: Definition, *, name: str, slot_at: datetime | None, run_id: UUID | None = None) -> Backup:
    """Unsaved and pending, of the definition's disk as it is now. What is due has the run of its time."""
    disk = definition.disk
    if slot_at is not None:
        run_id = run_of(disk.server_id, slot_at)
    return Backup(
        tenant_id=definition.tenant_id,
        vault_id=definition.vault_id,
        storage_id=definition.storage_id,
        compression=definition.compression if definition.storage_id is not None else "",
        server=disk.server,
        disk=disk,
        definition=definition,
        # A copy is made by the node that it lies on.
        node=definition.backup_node if definition.storage_id is not None else disk.server.node,
        name=name,
        server_name=disk.server.name,
        disk_number=disk.number,
        type=definition.type,
        content=content_of(disk.driver),
        run_id=run_id,
        slot_at=slot_at,
        size_bytes=disk.size_bytes,
    )


def new_job(backup: Backup, *, slot_at: datetime | None, requested_by: Person | None) -> Job:
    """The unsaved job that makes the backup."""
    return Job(
        kind=JobKind.BACKUP,
        tenant_id=backup.tenant_id,
        disk=backup.disk,
        node=backup.node,
        definition=backup.definition,
        backup=backup,
        backup_name=backup.name,
        run_id=backup.run_id,
        requested_by=requested_by,
        slot_at=slot_at,
        priority=Priority.SCHEDULED if slot_at is not None else Priority.MANUAL,
    )


def create_retry(failed: Job, *, not_before: datetime, now: datetime) -> Job:
    """The next attempt at a scheduled backup that failed: a new backup and a new job of the same time.

    IntegrityError when it has a retry already.
    """
    with transaction.atomic():
        held = Definition.objects.select_for_update(of=("self",), no_key=True).select_related(
            "disk__server__node", "backup_node"
        )
        definition = held.get(pk=failed.definition_id)
        backup = new_backup(definition, name=_free_name(definition, now), slot_at=failed.slot_at)
        backup.save(force_insert=True)
        job = new_job(backup, slot_at=failed.slot_at, requested_by=None)
        job.retry_of, job.attempt, job.not_before = failed, failed.attempt + 1, not_before
        job.save(force_insert=True)
        message = f"Attempt {job.attempt + 1}, not before {not_before:%H:%M:%S} UTC: {failed.message or failed.code}"
        note_event(job, at=now, code="requested", message=message)
    return job


@transaction.atomic
def create_verify_job(*, backup: Backup, now: datetime, requested_by: Person | None) -> Job:
    """A check that waits for the checks' worker. IntegrityError while another one of this backup waits or runs."""
    backup = Backup.objects.select_for_update(of=("self",), no_key=True).get(pk=backup.pk)
    job = Job.objects.create(
        kind=JobKind.VERIFY,
        tenant_id=backup.tenant_id,
        # A copy is read where it lies; what is in a vault, by the checks' worker.
        node=backup.storage.node if backup.storage is not None else None,
        disk_id=backup.disk_id,
        backup=backup,
        backup_name=backup.name,
        requested_by=requested_by,
        total_bytes=backup.size_bytes,
    )
    _announce(job, now=now, message=origin(None, requested_by) or "Its last check is too long ago.")
    return job


def announce_restore(job: Job, *, now: datetime) -> None:
    """Event and hint of a restore job that was just written."""
    _announce(job, now=now, message=origin(None, job.requested_by))


def _announce(job: Job, *, now: datetime, message: str) -> None:
    note_event(job, at=now, code="requested", message=message)
    transaction.on_commit(lambda: hint_job(job))


def origin(slot_at: datetime | None, requested_by: Person | None) -> str:
    """Why a job is there, for its first event."""
    if slot_at is not None:
        return f"Due at {slot_at:%Y-%m-%d %H:%M:%S} UTC by its schedule."
    return f"Asked for by {requested_by}." if requested_by else ""


def _free_name(definition: Definition, now: datetime) -> str:
    name = f"{definition.name}-{now:%Y%m%d_%H%M%S}"
    while Backup.objects.filter(disk_id=definition.disk_id, name=name).exists():
        now += timedelta(seconds=1)
        name = f"{definition.name}-{now:%Y%m%d_%H%M%S}"
    return name


def hint_job(job: Job) -> None:
    """Tell the worker's queue that the job is there. Never raises for a broker that is away."""
    if job.node is None and job.kind != JobKind.VERIFY:
        # Its agent asks: nothing is ever sent to a server.
        return
    Job.objects.filter(pk=job.pk).update(hinted_at=timezone.now())
    if job.node is None:
        queue = CHECKS_QUEUE if job.requested_by_id is None else ASKED_CHECKS_QUEUE
        _send("backups.tasks.verify_backup", queue=queue, job_id=str(job.pk))
    else:
        _send_run(job, job.node)


def hint_next(disk_id: UUID) -> None:
    """A disk became free: hint at the oldest job that waits for it, or else at one that waits for its node."""
    waiting = Job.objects.filter(state=JobState.PENDING, node__isnull=False).select_related("node")
    of_disk = waiting.filter(disk_id=disk_id).order_by("created_at").first()
    job = of_disk or waiting.filter(node__servers__disks=disk_id).order_by("-priority", "created_at").first()
    if job is not None:
        hint_job(job)


def hint_nodes(waiting: Mapping[UUID, int]) -> None:
    """Tell each node that so many jobs wait for it. What a worker takes is decided when it asks (`choosing`).

    A few messages per node are enough: the end of each job hints at the next one.
    """
    chosen: list[UUID] = []
    for node_id, count in waiting.items():
        jobs = Job.objects.filter(node_id=node_id, state=JobState.PENDING)
        first = jobs.order_by("-priority", "created_at").values_list("pk", flat=True)
        chosen += first[: min(count, MOST_HINTS)]
    hint_jobs(Job.objects.filter(pk__in=chosen).select_related("node"))


def hint_jobs(jobs: Iterable[Job]) -> None:
    """Tell the queue of each job's node, over one connection. Ends with the first that the broker does not take."""
    chosen = list(jobs)
    Job.objects.filter(pk__in=[job.pk for job in chosen]).update(hinted_at=timezone.now())
    for job in chosen:
        if job.node is not None and not _send_run(job, job.node):
            return


def hint_next_check(*, asked: bool) -> None:
    """A checks' worker became free, or forgot: hint at the check of its queue that waits longest."""
    checks = Job.objects.filter(kind=JobKind.VERIFY, state=JobState.PENDING, node=None)
    waiting = checks.filter(requested_by__isnull=not asked)
    job = waiting.order_by("created_at", "pk").first()
    if job is not None:
        hint_job(job)


def hint_commit(session_id: UUID) -> None:
    """Tell the control worker that a session asks for its commit."""
    _send("backups.tasks.commit_session", queue="system", session_id=str(session_id))


def hint_retention(definition_id: UUID | None) -> None:
    """Tell the control worker that a definition has a new good backup."""
    if definition_id is not None:
        _send("backups.tasks.apply_retention", queue="system", definition_id=str(definition_id))


def hint_rest_of_retention(after: UUID) -> None:
    """The daily run of retention goes on behind this definition."""
    _send("backups.tasks.apply_retention_everywhere", queue="system", after=str(after))


def hint_description(domain_id: UUID) -> None:
    """Tell the control worker that a domain has a new good backup: its description may have to say something new."""
    _send("backups.tasks.describe_domain", queue="system", domain_id=str(domain_id))


def hint_tending(storage_id: UUID, node_name: str) -> None:
    """Tell the node of a storage that something there is to be removed or looked at."""
    _send("backups.tasks.tend_storage", queue=Node(name=node_name).queue, storage_id=str(storage_id))


def hint_sweep(node: Node) -> None:
    """Tell a node's worker to look for leftovers."""
    _send("backups.tasks.sweep_node", queue=node.queue, node=node.name)


def _send_run(job: Job, node: Node) -> bool:
    """To the node's workers; what reads a backup also to its worker for restores. Whoever is free first takes it."""
    sent = _send("backups.tasks.run_job", queue=node.queue, job_id=str(job.pk))
    if sent and job.kind in READING:
        return _send("backups.tasks.run_restore", queue=node.restore_queue, job_id=str(job.pk))
    return sent


def _send(task: str, *, queue: str, **arguments: str) -> bool:
    """False when the broker does not answer."""
    try:
        current_app.send_task(task, kwargs=arguments, queue=queue, retry=False, ignore_result=True)
    except (OperationalError, OSError):
        logger.warning("broker does not answer; the sweep will send the hint again", extra={"task": task})
        return False
    return True
