"""Whether a waiting job may begin now: asked in the transaction that claims it, and kept exactly.

Each budget that is about the job is locked until that transaction ends, so whoever claims the next job under it counts
this one. A job that has to wait says why on its row; it is never failed for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from django.db.models import Count, Q, Sum
from django.db.models.functions import Coalesce

from agents.models import Node
from backups.budgets import Admission, Use, admit, holds_at
from backups.models import Budget, Job, JobQuerySet
from backups.states import ON_A_NODE, JobState
from definitions.holds import is_held

# Kind of budget -> the jobs that are under the same one as this job. A job has its place by its disk and its backup.
_UNDER: Mapping[str, Callable[[Job], Q]] = {
    Budget.Kind.FLEET: lambda job: Q(),
    # A server with an agent is a place of its own.
    Budget.Kind.NODE: lambda job: Q(node_id=job.node_id) if job.node_id else Q(node=None, disk_id=job.disk_id),
    Budget.Kind.VAULT: lambda job: Q(backup__vault_id=_vault_of(job)),
    Budget.Kind.TENANT: lambda job: Q(tenant_id=job.tenant_id),
    Budget.Kind.LINK: lambda job: Q(
        disk__server__region_id=_region_of(job), backup__vault__endpoint__region_id=_vault_region_of(job)
    ),
}


def admit_job(job: Job, *, now: datetime, asks_budgets: bool = True) -> Admission:
    """Within the transaction of the claim. When the job has to wait, it and those that wait for the same say why.

    Disks that are claimed together are moved one after the other: a budget lets the first in, and counts them as one.
    """
    if job.node is not None and job.node.status == Node.Status.MAINTENANCE:
        # Without its name, which an owner of a server need not know.
        waits = "Its node is in maintenance: what runs there ends, and nothing begins"
        Job.objects.filter(pk=job.pk).update(waits=waits)
        return Admission(waits=waits)
    hold = is_held(job.definition, now) if job.slot_at is not None and job.definition is not None else None
    if hold is not None:
        Job.objects.filter(pk=job.pk).update(waits=hold.sentence[:200])
        return Admission(waits=hold.sentence)
    if not asks_budgets or job.kind not in ON_A_NODE or not Budget.objects.exists():
        return Admission()
    budgets = _budgets_of(job, now)
    uses = [_use_of(budget, job) for budget in budgets]
    admission = admit(uses)
    if admission.waits:
        refusing = budgets[uses.index(admission.use)] if admission.use else None
        _say_why(job, refusing, admission.waits)
    return admission


def _budgets_of(job: Job, now: datetime) -> list[Budget]:
    """Locked, in one order for everybody. A target's own rows stand in for those of its kind."""
    own = (
        Q(node=job.node_id, node__isnull=False)
        | Q(tenant=job.tenant_id, tenant__isnull=False)
        | Q(vault=_vault_of(job), vault__isnull=False)
        | Q(region=_region_of(job), vault_region=_vault_region_of(job), region__isnull=False)
    )
    general = Q(node=None, tenant=None, vault=None, region=None)
    locked = Budget.objects.select_for_update(no_key=True).filter(own | general).order_by("pk")
    rows = list(locked)
    with_own = {row.kind for row in rows if not _is_general(row)}
    return [
        row
        for row in rows
        if not (_is_general(row) and row.kind in with_own)
        and holds_at(now, from_time=row.from_time, until_time=row.until_time, time_zone=row.time_zone)
    ]


def _is_general(budget: Budget) -> bool:
    return (budget.node_id, budget.tenant_id, budget.vault_id, budget.region_id) == (None, None, None, None)


def _use_of(budget: Budget, job: Job) -> Use:
    found = (
        jobs_under(budget, job)
        .filter(state=JobState.RUNNING)
        .aggregate(running=Count(Coalesce("run_id", "pk"), distinct=True), granted=Sum("granted_bandwidth", default=0))
    )
    target = budget.target
    if target.startswith("each "):
        target = f"{budget.kind} {_name_of(budget, job)}"
    return Use(target, budget.most_jobs, budget.bytes_per_second, found["running"], found["granted"])


def jobs_under(budget: Budget, job: Job) -> JobQuerySet:
    """All jobs on nodes that the budget counts together with this one."""
    return Job.objects.filter(_UNDER[budget.kind](job), kind__in=ON_A_NODE)


def _name_of(budget: Budget, job: Job) -> str:
    if budget.kind == Budget.Kind.LINK:
        return f"{_region_of(job)}-{_vault_region_of(job)}"
    if budget.kind == Budget.Kind.VAULT:
        return str(job.backup.vault) if job.backup and job.backup.vault else ""
    if budget.kind == Budget.Kind.NODE:
        return str(job.node or job.disk)
    return str(job.tenant)


def _say_why(job: Job, budget: Budget | None, waits: str) -> None:
    same = jobs_under(budget, job) if budget is not None else Job.objects.filter(pk=job.pk)
    pending = same.filter(state=JobState.PENDING, node_id=job.node_id).exclude(waits=waits)
    Job.objects.filter(pk__in=pending.values("pk")).update(waits=waits)


def _vault_of(job: Job) -> object:
    return job.backup.vault_id if job.backup is not None else None


def _region_of(job: Job) -> object:
    return job.disk.server.region_id if job.disk is not None else None


def _vault_region_of(job: Job) -> object:
    vault = job.backup.vault if job.backup is not None else None
    return vault.endpoint.region_id if vault is not None else None
