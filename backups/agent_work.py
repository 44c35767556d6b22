"""What an agent asks for beside its polls: the right to move data, a backup now, what backups there are."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from agents.agent_messages import BackupMessage, BackupsAnswer, ClaimAnswer, JobOffer
from agents.models import Agent, Server
from backups.agent_policies import definition_of, policy_of
from backups.models import Backup, Job
from backups.queue import create_backup_job
from backups.services import refuse_unready
from backups.states import ON_A_NODE, BackupStatus, JobKind, JobState, Priority
from backups.transitions import claim_job, note_event
from common.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from tenants.services import require_active

PAGE = 100
TRY_AGAIN_SECONDS = 60


class NotToBeHadError(ConflictError):
    """The job waits for something, is another claim's, or has ended."""

    code = "not_to_be_had"
    retry_after_seconds = TRY_AGAIN_SECONDS


class RunNotAllowedError(NotAllowedError):
    """The policy of the server begins its backups, and nobody else."""

    code = "run_not_allowed"


def claim_for_agent(agent: Agent, job_key: str, *, now: datetime) -> ClaimAnswer:
    """Take a job of the agent's own server. Raises NotFoundError for every other, NotToBeHadError."""
    jobs = Job.objects.filter(node=None, kind__in=ON_A_NODE, disk__server=agent.server_id)
    job = jobs.filter(pk=_key(job_key, "job")).first()
    if job is None:
        raise NotFoundError("This server has no such job.")
    claim = claim_job(job_id=job.pk, now=now)
    if claim is None:
        job.refresh_from_db(fields=["state", "waits"])
        ended = "" if job.is_active() else f"It is {job.state}."
        raise NotToBeHadError(f"The job cannot begin now. {ended or job.waits or 'Another claim has it.'}")
    return ClaimAnswer(
        session_token=claim.token, gate_url=settings.CONFIG.gate_url, kind=str(job.kind), backup=job.backup_name
    )


@transaction.atomic
def start_for_agent(agent: Agent, *, now: datetime) -> JobOffer:
    """A backup now, as somebody at the server asks for; what waits or runs already is that one.

    Raises RunNotAllowedError, ConflictError without a definition, TenantSuspendedError.
    """
    # Of many who ask at once each sees what the one before made.
    Server.objects.select_for_update(of=("self",), no_key=True).get(pk=agent.server_id)
    if not policy_of(agent, now=now).allows_run_now:
        raise RunNotAllowedError("The policy of this server does not let it begin a backup by itself.")
    active = Job.objects.active().filter(kind=JobKind.BACKUP, node=None, disk__server=agent.server_id)
    job = active.order_by("created_at").first()
    if job is None:
        definition = definition_of(agent)
        if definition is None:
            message = "No active definition protects this server. Make one in the portal, or resume one."
            raise ConflictError(message, code="nothing_to_back_up")
        require_active(definition.tenant)
        refuse_unready(definition)
        job = create_backup_job(definition=definition, now=now, slot_at=None, requested_by=None)
    elif active.filter(pk=job.pk, state=JobState.PENDING, priority=Priority.SCHEDULED).update(
        priority=Priority.MANUAL, not_before=None
    ):
        note_event(job, at=now, code="hurried", message="Somebody at the server wants it now.")
    return JobOffer(id=str(job.pk), kind=str(job.kind), begins_at_once=True)


def backups_for_agent(agent: Agent, *, after: str) -> BackupsAnswer:
    """The server's own backups, the newest first, a page at a time."""
    found = Backup.objects.in_catalogue().filter(server=agent.server_id).exclude(status=BackupStatus.PENDING)
    if after:
        last = found.filter(pk=_key(after, "backup")).values_list("created_at", "pk").first()
        if last is None:
            raise NotFoundError("This server has no such backup.")
        found = found.filter(Q(created_at__lt=last[0]) | Q(created_at=last[0], pk__lt=last[1]))
    page = list(found.order_by("-created_at", "-pk")[: PAGE + 1])
    shown = [_message(backup) for backup in page[:PAGE]]
    return BackupsAnswer(backups=shown, after=shown[-1].id if len(page) > PAGE else "")


def _message(backup: Backup) -> BackupMessage:
    return BackupMessage(
        id=str(backup.pk),
        name=backup.name,
        created_at=backup.created_at,
        status=str(backup.status),
        health=str(backup.health),
        size_bytes=backup.size_bytes,
        content=backup.content,
        note=backup.note,
    )


def _key(text: str, name: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInputError(f"This is no id of a {name}.", field=name) from None
