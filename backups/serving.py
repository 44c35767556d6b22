"""Backups that a node serves read-only over NBD, for some hours, without restoring them.

Such a job holds its backup as a restore does: nothing of it is removed meanwhile. It touches no disk, so backups and
restores of the disk go on.
"""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from agents.models import Node
from agents.protocol import ServeDone, Serving
from backups.models import Backup, Job, Session
from backups.queue import announce_restore
from backups.services import refuse_source
from backups.states import JobKind, JobState, Priority
from backups.transitions import finish_job, note_event
from common.errors import ConflictError, InvalidInputError
from engine.manifest import CONTENT_DISK
from tenants.models import Person

LONGEST_HOURS = 24
USUAL_HOURS = 4
# Each is a process of its own with some hundred megabytes.
MOST_ON_A_NODE = 8
SERVED = "served"


@transaction.atomic
def request_serving(*, backup: Backup, hours: int, actor: Person, now: datetime) -> Job:
    """Serve the backup on the node of its server, or where it was made when the server is gone.

    InvalidInputError for another time than 1 to 24 hours. ConflictError for a backup that is not good or is no disk
    image in a vault, a node in maintenance or one that serves as many as it may.
    """
    if not 1 <= hours <= LONGEST_HOURS:
        raise InvalidInputError(f"A backup is served for 1 to {LONGEST_HOURS} hours.", field="hours")
    # Neither it nor its server moves to another tenant before the job is there.
    held = Backup.objects.select_for_update(of=("self",), no_key=True).select_related("server__node", "node")
    backup = held.get(pk=backup.pk)
    _refuse_content(backup)
    node = _node_of(backup)
    job = Job.objects.create(
        kind=JobKind.SERVE,
        tenant_id=backup.tenant_id,
        disk_id=backup.disk_id,
        node=node,
        backup=backup,
        backup_name=backup.name,
        requested_by=actor,
        priority=Priority.RESTORE,
        serve_seconds=hours * 3600,
    )
    announce_restore(job, now=now)
    return job


def _refuse_content(backup: Backup) -> None:
    if backup.is_copy:
        message = f"The backup {backup.name} is a copy on {backup.storage}. Read it there, or restore it to a disk."
        raise ConflictError(message, code="copy_not_served")
    if backup.content != CONTENT_DISK:
        message = f"The backup {backup.name} holds no disk image. Restore single files of it instead."
        raise ConflictError(message, code="other_content")
    refuse_source(backup)


def _node_of(backup: Backup) -> Node:
    """Locked, so that two orders at once do not both take the last place."""
    server = backup.server
    node_id = server.node_id if server is not None and server.node_id is not None else backup.node_id
    node = Node.objects.select_for_update(no_key=True).filter(pk=node_id).first()
    if node is None:
        message = f"The backup {backup.name} was made by an agent: no node is there to serve it. Restore it to a disk."
        raise ConflictError(message, code="no_node")
    if node.status == Node.Status.MAINTENANCE:
        raise ConflictError(f"The node {node.name} is in maintenance.", code="node_in_maintenance")
    if Job.objects.active().filter(kind=JobKind.SERVE, node=node).count() >= MOST_ON_A_NODE:
        message = f"The node {node.name} serves {MOST_ON_A_NODE} backups already. End one, then try again."
        raise ConflictError(message, code="too_many_served")
    return node


def note_serving(session: Session, told: Serving, *, now: datetime) -> bool:
    """Its node serves the backup. False when the session has lost its job."""
    message = f"Served read-only at {told.socket[:200]} of its node (NBD on a unix socket)."
    with transaction.atomic():
        running = Job.objects.filter(pk=session.job_id, fence=session.fence, state=JobState.RUNNING)
        if not running.filter(lease_until__gt=now).update(message=message):
            return False
        note_event(session.job, at=now, code=SERVED, message=message)
    return True


def finish_serving(session: Session, done: ServeDone) -> bool:
    """Its time is over. False when the session has lost its job."""
    failed = f" {done.failed_reads} reads failed; see the node's log." if done.failed_reads else ""
    message = f"The time is over; {done.read_bytes} bytes were read.{failed}"
    return finish_job(session, now=timezone.now(), message=message, usage=done.usage, done_bytes=done.read_bytes)
