"""The deletion of a tenant, as far as this layer knows of it: its status, its people's rights, and the way back.

What is kept for it in vaults goes step by step, when locks end (`backups.tenant_removal`); this module says when the
first step may be taken and what is left of the tenant after the last.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from django.db import transaction

from common.confirming import refuse_unconfirmed
from common.errors import ConflictError
from tenants import approvals
from tenants.approval_states import ApprovalKind
from tenants.audit import record
from tenants.models import Person, Tenant, TenantDeletion, TenantEvent, TenantUserPermission
from tenants.services import change_tenant_status

UNDO_PERIOD = timedelta(days=7)
Status = Tenant.Status


@transaction.atomic
def begin_deletion(
    *,
    tenant: Tenant,
    confirmation: str,
    reason: str,
    server_grants: Collection[tuple[str, str]],
    actor: Person,
    now: datetime,
) -> TenantDeletion:
    """Suspend for good, and take the rights of the tenant's people; `server_grants` are (person, server) already taken.

    Raises InvalidInputError unless `confirmation` is the tenant's name, ConflictError when it is being deleted already.
    """
    refuse_unnamed(tenant, confirmation)
    approvals.require(kind=ApprovalKind.TENANT_DELETE, subject=tenant, actor=actor, now=now)
    Tenant.objects.select_for_update(no_key=True).get(pk=tenant.pk)
    change_tenant_status(
        tenant, Status.DELETING, before=[Status.ACTIVE, Status.SUSPENDED], reason=reason[:255], actor=actor, now=now
    )
    held = TenantUserPermission.objects.filter(content_object=tenant)
    grants = [{"person": str(pk), "server": None} for pk in held.values_list("user_id", flat=True)]
    grants += [{"person": person, "server": server} for person, server in server_grants]
    held.delete()
    tenant.invitations.filter(used_at=None).delete()
    return TenantDeletion.objects.create(
        tenant=tenant,
        requested_by=actor,
        requested_by_name=str(actor),
        reason=reason,
        requested_at=now,
        undo_until=now + UNDO_PERIOD,
        grants=grants,
    )


def refuse_unnamed(tenant: Tenant, confirmation: str) -> None:
    lost = f"All backups of {tenant.title} go when their locks end."
    refuse_unconfirmed(confirmation, name=tenant.name, of="the tenant", lost=lost)


@transaction.atomic
def end_deletion(*, tenant: Tenant, actor: Person, now: datetime) -> list[dict[str, str | None]]:
    """Undo it, within the delay: the tenant is suspended then. Returns the rights that were taken, to be given again.

    Raises ConflictError when the delay is over or nothing is to be undone.
    """
    deletion = TenantDeletion.objects.select_for_update().filter(tenant=tenant, finished_at=None).first()
    if deletion is None:
        raise ConflictError(f"The tenant {tenant.name} is not being deleted.", code="wrong_tenant_status")
    if now >= deletion.undo_until:
        raise ConflictError("The delay is over: what is removed cannot be brought back.", code="undo_too_late")
    change_tenant_status(
        tenant, Status.SUSPENDED, before=[Status.DELETING], reason="The deletion was undone.", actor=actor, now=now
    )
    grants = list(deletion.grants)
    deletion.delete()
    return grants


def deletions_due(now: datetime) -> list[TenantDeletion]:
    """Those whose delay is over and that have not been finished, the oldest first."""
    due = TenantDeletion.objects.filter(finished_at=None, undo_until__lte=now, tenant__status=Status.DELETING)
    return list(due.select_related("tenant").order_by("requested_at"))


def leave_tombstone(*, deletion: TenantDeletion, now: datetime) -> None:
    """The last step: of the tenant only its names stay. Runs in the transaction that removed everything else."""
    tenant = deletion.tenant
    change_tenant_status(tenant, Status.DELETED, before=[Status.DELETING], reason="", actor=None, now=now)
    tenant.title = tenant.name
    tenant.save(update_fields=["title", "changed_at"])
    tenant.quotas.all().delete()
    tenant.company.delete()
    TenantDeletion.objects.filter(pk=deletion.pk).update(finished_at=now, grants=[], reason="")


def note(tenant: Tenant, *, code: str, message: str, now: datetime) -> None:
    """An event of the tenant and its audit record, in one transaction."""
    with transaction.atomic():
        TenantEvent.objects.create(tenant=tenant, at=now, code=code, message=message)
        record(action=f"tenant.{code}", subject=tenant, after={"message": message})
