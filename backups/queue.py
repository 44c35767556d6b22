"""Writing jobs, and hinting workers at them. The row is what counts; a hint that gets lost is given again."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID

from celery import current_app
from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError

from backups.models import Backup, Job
from backups.states import ON_A_NODE, JobKind, JobState
from backups.transitions import note_event
from definitions.models import Definition
from tenants.models import Person

logger = logging.getLogger(__name__)

# Reading for minutes and hours: apart from the queue on which commits wait.
CHECKS_QUEUE = "checks"


@transaction.atomic
def create_backup_job(
    *, definition: Definition, now: datetime, slot_at: datetime | None, requested_by: Person | None
) -> Job:
    """A pending backup and its job; the node is told after the transaction. IntegrityError for a slot taken already.

    The definition's row is held: its server does not move to another tenant in between.
    """
    held = Definition.objects.select_for_update(of=("self",), no_key=True).select_related("disk__server__node")
    definition = held.get(pk=definition.pk)
    disk = definition.disk
    backup = Backup.objects.create(
        tenant_id=definition.tenant_id,
        vault_id=definition.vault_id,
        server=disk.server,
        disk=disk,
        definition=definition,
        node=disk.server.node,
        name=_free_name(definition, now),
        server_name=disk.server.name,
        disk_number=disk.number,
        type=definition.type,
        slot_at=slot_at,
        size_bytes=disk.size_bytes,
    )
    job = Job.objects.create(
        kind=JobKind.BACKUP,
        tenant_id=definition.tenant_id,
        disk=disk,
        node=disk.server.node,
        definition=definition,
        backup=backup,
        backup_name=backup.name,
        requested_by=requested_by,
        slot_at=slot_at,
    )
    _announce(job, now=now, message=_origin(slot_at, requested_by))
    return job


@transaction.atomic
def create_verify_job(*, backup: Backup, now: datetime, requested_by: Person | None) -> Job:
    """A check that waits for the checks' worker. IntegrityError while another one of this backup waits or runs."""
    backup = Backup.objects.select_for_update(of=("self",), no_key=True).get(pk=backup.pk)
    job = Job.objects.create(
        kind=JobKind.VERIFY,
        tenant_id=backup.tenant_id,
        disk_id=backup.disk_id,
        backup=backup,
        backup_name=backup.name,
        requested_by=requested_by,
        total_bytes=backup.size_bytes,
    )
    _announce(job, now=now, message=_origin(None, requested_by) or "Its last check is too long ago.")
    return job


def announce_restore(job: Job, *, now: datetime) -> None:
    """Event and hint of a restore job that was just written."""
    _announce(job, now=now, message=_origin(None, job.requested_by))


def _announce(job: Job, *, now: datetime, message: str) -> None:
    note_event(job, at=now, code="requested", message=message)
    transaction.on_commit(lambda: hint_job(job))


def _origin(slot_at: datetime | None, requested_by: Person | None) -> str:
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
    Job.objects.filter(pk=job.pk).update(hinted_at=timezone.now())
    if job.node is None:
        _send("backups.tasks.verify_backup", queue=CHECKS_QUEUE, job_id=str(job.pk))
    else:
        _send("backups.tasks.run_job", queue=job.node.queue, job_id=str(job.pk))


def hint_next(disk_id: UUID) -> None:
    """A disk became free: hint at the oldest job that waits for it."""
    waiting = Job.objects.filter(disk_id=disk_id, state=JobState.PENDING, kind__in=ON_A_NODE)
    job = waiting.select_related("node").order_by("created_at").first()
    if job is not None:
        hint_job(job)


def hint_next_check() -> None:
    """The checks' worker became free, or forgot: hint at the check that waits longest."""
    job = Job.objects.filter(kind=JobKind.VERIFY, state=JobState.PENDING).order_by("created_at", "pk").first()
    if job is not None:
        hint_job(job)


def hint_commit(session_id: UUID) -> None:
    """Tell the control worker that a session asks for its commit."""
    _send("backups.tasks.commit_session", queue="system", session_id=str(session_id))


def hint_retention(definition_id: UUID | None) -> None:
    """Tell the control worker that a definition has a new good backup."""
    if definition_id is not None:
        _send("backups.tasks.apply_retention", queue="system", definition_id=str(definition_id))


def hint_description(domain_id: UUID) -> None:
    """Tell the control worker that a domain has a new good backup: its description may have to say something new."""
    _send("backups.tasks.describe_domain", queue="system", domain_id=str(domain_id))


def _send(task: str, *, queue: str, **arguments: str) -> None:
    try:
        current_app.send_task(task, kwargs=arguments, queue=queue, retry=False, ignore_result=True)
    except (OperationalError, OSError):
        logger.warning("broker does not answer; the sweep will send the hint again", extra={"task": task})
