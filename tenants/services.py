"""Verbs over tenants and persons."""

from __future__ import annotations

from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import transaction
from guardian.shortcuts import assign_perm

from common.errors import ConflictError, InvalidInputError, NotAllowedError, TenantSuspendedError
from common.ids import new_name_suffix
from common.transitions import change_status
from tenants.audit import record, record_change
from tenants.models import ADMINISTER_TENANT, Company, Membership, Person, Tenant, TenantEvent
from tenants.notices import publish

Status = Tenant.Status


@transaction.atomic
def create_tenant(*, title: str, actor: Person | None) -> Tenant:
    """Make a tenant and its company with names of one fresh suffix. Only a SuperAdmin, or the installation (None)."""
    if actor is not None and not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin makes tenants.")
    suffix = _free_suffix()
    tenant = Tenant(suffix=suffix, name=f"backup-tenant-{suffix}", title=title)
    tenant.full_clean()
    tenant.save(force_insert=True)
    Company.objects.create(tenant=tenant, name=f"vspc-tenant-{suffix}")
    record(action="tenant.create", subject=tenant, actor=actor, after={"title": title})
    return tenant


def _free_suffix() -> str:
    suffix = new_name_suffix()
    while Tenant.objects.filter(suffix=suffix).exists():
        suffix = new_name_suffix(length=min(len(suffix) + 1, 12))
    return suffix


@transaction.atomic
def rename_tenant(*, tenant: Tenant, title: str, actor: Person) -> Tenant:
    """Change the title that people see; the names stay for life. Raises InvalidInputError for no title."""
    before = {"title": tenant.title}
    tenant.title = title.strip()
    try:
        tenant.full_clean()
    except ValidationError as error:
        raise InvalidInputError("A title has 1 to 100 characters.", field="title") from error
    tenant.save(update_fields=["title", "changed_at"])
    record_change(action="tenant.rename", subject=tenant, actor=actor, before=before)
    return tenant


# --- status -----------------------------------------------------------------------------------------------------------


def require_active(tenant: Tenant) -> None:
    """Whatever starts new work calls it. Raises TenantSuspendedError by what the table says now, not the instance."""
    status, reason = Tenant.objects.values_list("status", "status_reason").get(pk=tenant.pk)
    if status != Status.ACTIVE:
        raise TenantSuspendedError(f"{why_waiting(status, reason)} What is there can be read and restored.")


def why_waiting(status: str, reason: str) -> str:
    """In words, why a tenant in this status starts nothing; empty when it does."""
    if status == Status.ACTIVE:
        return ""
    shown = "suspended" if status == Status.SUSPENDED else Status(status).label
    return f"The tenant is {shown}{f' ({reason})' if reason else ''}: nothing new is started."


@transaction.atomic
def suspend_tenant(*, tenant: Tenant, reason: str, actor: Person, now: datetime) -> Tenant:
    """No new work from now on; what runs ends, restores and reading go on. Raises ConflictError unless it is active."""
    change_tenant_status(tenant, Status.SUSPENDED, before=[Status.ACTIVE], reason=reason.strip(), actor=actor, now=now)
    return tenant


@transaction.atomic
def resume_tenant(*, tenant: Tenant, actor: Person, now: datetime) -> Tenant:
    """Schedules go on; of the times that were missed, one run is caught up. Raises ConflictError unless suspended."""
    change_tenant_status(tenant, Status.ACTIVE, before=[Status.SUSPENDED], reason="", actor=actor, now=now)
    return tenant


_VERBS = {
    Status.ACTIVE: "resume",
    Status.SUSPENDED: "suspend",
    Status.DELETING: "delete.begin",
    Status.DELETED: "delete.finish",
}


def change_tenant_status(
    tenant: Tenant,
    status: Tenant.Status,
    *,
    before: list[Tenant.Status],
    reason: str,
    actor: Person | None,
    now: datetime,
) -> None:
    """The one way in which a tenant's status changes."""
    if len(reason) > 255:
        raise InvalidInputError("A reason has at most 255 characters.", field="reason")
    told = {"status": str(tenant.status), "reason": tenant.status_reason}

    def note() -> None:
        message = f"{reason} By {actor}." if reason and actor else reason or (f"By {actor}." if actor else "")
        TenantEvent.objects.create(tenant=tenant, at=now, code=str(status), message=message)

    changed = change_status(
        queryset=Tenant.objects.filter(pk=tenant.pk, status__in=before),
        changes={"status": status, "status_reason": reason, "changed_at": now},
        record=note,
    )
    tenant.refresh_from_db(fields=["status", "status_reason", "changed_at"])
    if not changed:
        raise ConflictError(f"The tenant {tenant.name} is {Status(tenant.status).label}.", code="wrong_tenant_status")
    after = {"status": str(status), "reason": reason}
    record(action=f"tenant.{_VERBS[status]}", subject=tenant, actor=actor, before=told, after=after)
    event = {Status.ACTIVE: "tenant.resumed", Status.SUSPENDED: "tenant.suspended"}.get(status)
    if event is not None:
        facts, cause = {"reason": reason}, f"tenant:{tenant.pk}"
        publish(event=event, tenant=tenant, subject=tenant, facts=facts, cause=cause, name=tenant.title, at=now)


# --- people -----------------------------------------------------------------------------------------------------------


def enlist(*, person: Person, tenant: Tenant) -> None:
    """Put the person into the people list of the tenant's company. May be called twice."""
    company = Company.objects.filter(tenant=tenant).first()
    if company is not None:
        Membership.objects.get_or_create(person=person, company=company)


@transaction.atomic
def grant_tenant_administration(*, person: Person, tenant: Tenant, actor: Person | None = None) -> None:
    """Make the person a DCAdmin of the tenant. May be called twice."""
    assign_perm(ADMINISTER_TENANT, person, tenant)
    enlist(person=person, tenant=tenant)
    record(action="role.grant", subject=person, actor=actor, tenant=tenant, after={"role": "DCAdmin"})
