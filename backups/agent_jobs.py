"""Jobs of agents, looked after every few seconds: nothing is ever sent to a server, so it may be away for long."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q

from agents.models import Agent
from backups.models import Job, Session
from backups.states import ON_A_NODE, JobState
from backups.transitions import claimable, end_job

# It polls every minute.
SILENT_AFTER = timedelta(minutes=5)
# A machine that was asleep, or a control plane that was, comes back to its job. Then it is begun anew.
LOST_AFTER = timedelta(hours=1)
NOT_HEARD = "the agent was not heard of since "
MOST_AT_ONCE = 500


def sweep_agents(*, now: datetime) -> None:
    _end_of_stopped(now)
    _end_lost(now)
    _say_what_waits(now)


def _of_agents() -> Q:
    return Q(node=None, kind__in=ON_A_NODE)


def _end_of_stopped(now: datetime) -> None:
    """Who was revoked, or is in quarantine, works on nothing any more."""
    stopped = [Agent.Status.REVOKED, Agent.Status.QUARANTINED]
    jobs = Job.objects.active().filter(_of_agents(), disk__server__agent__status__in=stopped)
    # One that asked for its commit has written all: it counts, as the control plane checks it.
    committing = Session.objects.filter(job=OuterRef("pk"), fence=OuterRef("fence"), commit_requested_at__isnull=False)
    for job in jobs.filter(~Exists(committing)).select_related("disk__server__agent")[:MOST_AT_ONCE]:
        message = f"The agent of {job.disk.server} is {job.disk.server.agent.get_status_display()}."
        end_job(Job.objects.all(), job=job, state=JobState.CANCELED, code="agent_stopped", message=message, now=now)


def _end_lost(now: datetime) -> None:
    """Begun, and its agent neither went on nor asked for another try for long."""
    lost = claimable(now).filter(_of_agents(), state=JobState.RUNNING)
    canceled = Q(cancel_requested=True)
    for job in lost.filter(canceled | Q(lease_until__lte=now - LOST_AFTER))[:MOST_AT_ONCE]:
        still = claimable(now).filter(state=JobState.RUNNING, fence=job.fence)
        if job.cancel_requested:
            end_job(still, job=job, state=JobState.CANCELED, code="canceled", message="Canceled.", now=now)
        else:
            message = "The agent began it and was not heard of again. It begins anew when it is back."
            end_job(still, job=job, state=JobState.FAILED, code="worker_lost", message=message, now=now)


def _say_what_waits(now: datetime) -> None:
    pending = Job.objects.filter(_of_agents(), state=JobState.PENDING)
    heard = Q(disk__server__agent__last_seen_at__gt=now - SILENT_AFTER)
    for job in pending.filter(waits="").exclude(heard).select_related("disk__server__agent")[:MOST_AT_ONCE]:
        agent = getattr(job.disk.server, "agent", None)
        seen = agent.last_seen_at if agent is not None else None
        since = f"{seen:%Y-%m-%d %H:%M} UTC" if seen is not None else "it was enrolled"
        pending.filter(pk=job.pk, waits="").update(waits=NOT_HEARD + since)
    back = pending.filter(heard, waits__startswith=NOT_HEARD)
    Job.objects.filter(pk__in=back.values("pk")).update(waits="")
