"""Which of a node's waiting jobs a worker takes when it asks.

A message only says that there is work. The worker takes what goes first now: restores, then what a person asked for,
then the schedule; among tenants the one that has the fewest jobs running on this node, then the one that was served
longest ago; of one tenant the job that waits longest. So a tenant with a thousand jobs delays another's by one.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Count, Exists, Max, Min, OuterRef, Q

from backups.models import Job, JobQuerySet
from backups.states import ON_A_NODE, JobState
from backups.transitions import Claim, claim_job, claimable

# How many are tried before the worker waits for the next hint: each of another tenant, or of another priority.
MOST_TRIED = 100
_SERVED_LATELY = timedelta(days=1)


def claim_for_hint(*, job_id: UUID | str, now: datetime) -> Claim | None:
    """What the worker that got a hint at this job takes: a job whose worker is gone, or the best of its node."""
    found = Job.objects.filter(pk=job_id, kind__in=ON_A_NODE).values_list("node_id", "state").first()
    if found is None:
        return None
    node_id, state = found
    claim = claim_job(job_id=job_id, now=now) if state == JobState.RUNNING else None
    if claim is not None:
        return claim
    # The hinted one last: then it says on its row what it waits for.
    return claim_next(node_id=node_id, now=now) or claim_job(job_id=job_id, now=now)


def claim_next(*, node_id: UUID, now: datetime) -> Claim | None:
    """The first of the node's waiting jobs that may begin; None when none may."""
    for _, tenant_id, priority in _turns(node_id, now)[:MOST_TRIED]:
        job = _waiting(node_id, now).filter(tenant_id=tenant_id, priority=priority).order_by("created_at", "pk").first()
        claim = claim_job(job_id=job.pk, now=now) if job is not None else None
        if claim is not None:
            return claim
    return None


def _turns(node_id: UUID, now: datetime) -> list[tuple[tuple[object, ...], UUID, int]]:
    """Tenant and priority of what waits, the first to be served first."""
    groups = _waiting(node_id, now).order_by().values_list("tenant_id", "priority").annotate(oldest=Min("created_at"))
    lately = Job.objects.filter(node_id=node_id, started_at__gte=now - _SERVED_LATELY)
    running = Count("pk", filter=Q(state=JobState.RUNNING))
    served = {
        tenant_id: (running_now, last)
        for tenant_id, running_now, last in lately.order_by()
        .values_list("tenant_id")
        .annotate(running_now=running, last=Max("started_at"))
    }
    never = (0, now - _SERVED_LATELY)
    turns = [
        ((-priority, *served.get(tenant_id, never), oldest), tenant_id, priority)
        for tenant_id, priority, oldest in groups
    ]
    return sorted(turns, key=lambda turn: (turn[0], str(turn[1])))


def _waiting(node_id: UUID, now: datetime) -> JobQuerySet:
    busy = Job.objects.filter(disk_id=OuterRef("disk_id"), state=JobState.RUNNING, kind__in=ON_A_NODE)
    on_node = claimable(now).filter(node_id=node_id, state=JobState.PENDING, kind__in=ON_A_NODE)
    return on_node.filter(~Exists(busy))
