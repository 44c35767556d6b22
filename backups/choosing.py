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
from backups.states import ON_A_NODE, JobKind, JobState
from backups.transitions import Claim, claim_job, claimable

# How many are tried before the worker waits for the next hint: each of another tenant, or of another priority.
MOST_TRIED = 100
_SERVED_LATELY = timedelta(days=1)


def claim_for_hint(*, job_id: UUID | str, now: datetime) -> Claim | None:
    """What the worker that got a hint at this job takes: a job whose worker is gone, or the best of its node."""
    found = Job.objects.filter(pk=job_id, node__isnull=False).values_list("node_id", "state").first()
    if found is None:
        return None
    node_id, state = found
    claim = claim_job(job_id=job_id, now=now, kinds=JobKind) if state == JobState.RUNNING else None
    if claim is not None:
        return claim
    # The hinted one last: then it says on its row what it waits for.
    return claim_next(node_id=node_id, now=now) or claim_job(job_id=job_id, now=now, kinds=JobKind)


def claim_companions(leader: Claim, *, now: datetime) -> list[Claim]:
    """The jobs of the same run on other disks of the server, so that all are of one moment; those that can be had."""
    job = leader.job
    if job.run_id is None or job.kind != JobKind.BACKUP or job.disk is None or job.backup is None:
        return []
    if job.backup.vault_id is None:
        # A copy reads its disk for itself.
        return []
    of_run = claimable(now).filter(run_id=job.run_id, kind=JobKind.BACKUP, node_id=job.node_id)
    alike = of_run.filter(
        disk__server=job.disk.server_id, disk__driver=job.disk.driver, backup__vault_id=job.backup.vault_id
    )
    found = {other.disk_id: other.pk for other in alike.exclude(disk=job.disk_id).order_by("-created_at", "-pk")}
    claims = [claim_job(job_id=pk, now=now, leader=leader) for pk in found.values()]
    return [claim for claim in claims if claim is not None]


def claim_next(*, node_id: UUID, now: datetime) -> Claim | None:
    """The first of the node's waiting jobs that may begin; None when none may."""
    for _, tenant_id, priority in _turns(node_id, now)[:MOST_TRIED]:
        job = _waiting(node_id, now).filter(tenant_id=tenant_id, priority=priority).order_by("created_at", "pk").first()
        claim = claim_job(job_id=job.pk, now=now, kinds=JobKind) if job is not None else None
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
    on_node = claimable(now).filter(node_id=node_id, state=JobState.PENDING)
    # A check only reads the copy, and what is served its vault: neither touches the disk.
    return on_node.filter(~Exists(busy) | ~Q(kind__in=ON_A_NODE))
