"""How far the removal of a tenant or a vault is: for people who wait for it.

Nothing here decides: removal goes by what is counted then (`backups.remains`). What is gone is counted over the runs of
removal that began since somebody asked for it, and up to a bound; what retention removed before does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, Q, QuerySet, Sum

from backups.models import Job
from backups.remains import Remains, VaultRemains, is_own
from tenants.models import AuditEvent, Person, Tenant, TenantDeletion
from tenants.roles import Action
from vaults.models import Domain, Removal, RemovalRun, Vault, VaultDeletion

# So many objects are counted while somebody waits.
MOST_COUNTED = 50_000
DAILY = "The next step is taken each night."


@dataclass(frozen=True, slots=True)
class Leaving:
    """`phase` and `next_step` in words; `percent` is None while nothing can go yet, or where too much is gone to count.

    `beside`: what has to end as well, and keeps nothing from going; may be empty. `is_cut`: more objects are gone, of
    at least these bytes. `not_before`: locks stand until then.
    """

    phase: str
    next_step: str
    beside: str
    gone_objects: int
    gone_bytes: int
    is_cut: bool
    percent: int | None
    not_before: datetime | None


def leaving_of_vault(
    vault: Vault, deletion: VaultDeletion, remains: VaultRemains, *, uses: list[str], now: datetime
) -> Leaving:
    gone = _removals(RemovalRun.objects.filter(vault=vault), since=deletion.requested_at)
    return _leaving(deletion, remains, gone, stopped_by=" ".join(uses), now=now)


def leaving_of_tenant(tenant: Tenant, deletion: TenantDeletion, remains: Remains, *, now: datetime) -> Leaving:
    """Of one that is not finished."""
    lent = remains.lent_objects or remains.lent_backups
    kept = "Servers that were moved to other tenants need its keys and vaults." if lent else ""
    others = remains.backups or remains.objects
    # Also vaults of others, where servers that were moved to this tenant left something.
    vaults = Domain.objects.filter(Q(tenant=tenant) | Q(held_for=tenant)).values("vault_id")
    gone = _removals(RemovalRun.objects.filter(vault__in=vaults), since=deletion.requested_at)
    return _leaving(
        deletion,
        remains,
        gone.filter(is_own(tenant, path="stored_object__")),
        stopped_by="" if others else kept,
        beside=_jobs(tenant) if remains.jobs and now >= deletion.undo_until else "",
        now=now,
    )


def removal_of_gone_vault(vault_id: UUID, *, person: Person) -> VaultDeletion | None:
    """The finished removal of a vault whose row is gone, for who might have removed it; else None.

    Only the audit knows the id of such a vault.
    """
    told = AuditEvent.objects.for_user(person).filter(
        subject_id=str(vault_id), subject_type="vault", action="vault.remove.finish"
    )
    event = told.first()
    if event is None:
        return None
    tenants = Tenant.objects.for_user(person, Action.DELETE).filter(pk=event.tenant_id)
    finished = VaultDeletion.objects.filter(vault=None, finished_at__isnull=False, name=event.subject_name)
    return finished.filter(tenant__in=tenants).select_related("tenant").first()


def _leaving(
    deletion: VaultDeletion | TenantDeletion,
    remains: Remains | VaultRemains,
    gone: QuerySet[Removal],
    *,
    stopped_by: str,
    now: datetime,
    beside: str = "",
) -> Leaving:
    phase, next_step = _phase(deletion.undo_until, remains, stopped_by=stopped_by, now=now)
    count, size_bytes, is_cut = _counted(gone)
    whole = size_bytes + remains.size_bytes
    is_known = now >= deletion.undo_until and not is_cut and whole > 0
    locked = remains.last_lock_ends
    return Leaving(
        phase=phase,
        next_step=next_step,
        beside=beside,
        gone_objects=count,
        gone_bytes=size_bytes,
        is_cut=is_cut,
        percent=size_bytes * 100 // whole if is_known else None,
        not_before=locked if locked is not None and locked > now else None,
    )


def _phase(undo_until: datetime, remains: Remains | VaultRemains, *, stopped_by: str, now: datetime) -> tuple[str, str]:
    """Its name, and what comes next."""
    locked = remains.last_lock_ends is not None and remains.last_lock_ends > now
    if now < undo_until:
        return "waiting", "Until the delay is over it can be undone, and nothing goes."
    if stopped_by:
        return "stopped", f"Nothing goes while this stands: {stopped_by}"
    if remains.backups:
        return "backups leave", f"Each backup leaves the catalogue when its promise is over. {DAILY}"
    if remains.objects and locked:
        return "waiting for locks", "Nobody can shorten a lock: what it holds goes after it, by itself."
    if remains.objects:
        return "deleting", "The reaper deletes object by object; what the store refuses is tried again."
    return "last step", f"The bytes are gone; the rows and keys go last. {DAILY}"


def _jobs(tenant: Tenant) -> str:
    """Those that have not ended: the step of a night asks them to, and takes out backups all the same."""
    jobs = Job.objects.active().filter(tenant=tenant)
    found = jobs.aggregate(all=Count("pk"), asked=Count("pk", filter=Q(cancel_requested=True)))
    asked, others = found["asked"], found["all"] - found["asked"]
    sentences = [f"{asked} job{'s are' if asked > 1 else ' is'} asked to end."] if asked else []
    if others:
        sentences.append(f"The next step asks {others} job{'s' if others > 1 else ''} to end.")
    return " ".join(sentences)


def _removals(runs: QuerySet[RemovalRun], *, since: datetime) -> QuerySet[Removal]:
    """What was ordered since then and is gone. By the runs: the journal has no other way to what belongs to a vault."""
    return Removal.objects.filter(run__in=runs.filter(started_at__gte=since), done_at__isnull=False)


def _counted(gone: QuerySet[Removal]) -> tuple[int, int, bool]:
    """How many objects, of how many bytes, and whether there are more than are counted."""
    found: dict[str, Any] = (
        gone.order_by()
        .values("pk", "stored_object__size_bytes")[: MOST_COUNTED + 1]
        .aggregate(count=Count("pk"), size_bytes=Sum("stored_object__size_bytes", default=0))
    )
    is_cut = found["count"] > MOST_COUNTED
    return min(found["count"], MOST_COUNTED), found["size_bytes"], is_cut
