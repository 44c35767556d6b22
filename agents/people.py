"""Verbs over people: giving and taking roles, shutting them out.

A DCAdmin acts within the tenants that he administers, and never on a SuperAdmin. What a person may do is looked up with
every request, so what is taken here is gone with the next one.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction
from django.db.models import QuerySet

from agents.models import Server, ServerUserPermission
from agents.services import grant_server_ownership
from common.errors import ConflictError, NotAllowedError
from tenants.audit import record
from tenants.models import ADMINISTER_TENANT, Membership, Person, Tenant, TenantGroupPermission, TenantUserPermission
from tenants.querysets import OWN_SERVER
from tenants.roles import Role
from tenants.services import grant_tenant_administration

_GOING = (Tenant.Status.DELETING, Tenant.Status.DELETED)


@dataclass(frozen=True, slots=True)
class HeldRole:
    """A role that a person has somewhere: a SuperAdmin's is of no tenant, a DCAdmin's of no server."""

    role: Role
    tenant: Tenant | None = None
    server: Server | None = None


def roles_of(person: Person, *, seen_by: Person, most: int | None = None) -> list[HeldRole]:
    """The person's roles, highest first, as far as the other one may know: those in tenants that he administers.

    `most`: of each kind no more than so many.
    """
    tenants = Tenant.objects.filter(pk__in=_administration(person).values("content_object_id")).order_by("name")
    servers = Server.objects.filter(pk__in=_ownership(person).values("content_object_id"))
    if not (seen_by.is_superuser or seen_by.pk == person.pk):
        known = seen_by.administered_tenants()
        tenants, servers = tenants.filter(pk__in=known), servers.filter(tenant__in=known)
    found = [HeldRole(Role.SUPER_ADMIN)] if person.is_superuser else []
    found += [HeldRole(Role.DC_ADMIN, tenant) for tenant in tenants[:most]]
    owned = servers.select_related("tenant").order_by("tenant__name", "name")[:most]
    return found + [HeldRole(Role.VM_OWNER, server.tenant, server) for server in owned]


def companies_of(person: Person, *, seen_by: Person, most: int | None = None) -> list[Membership]:
    """In whose people lists the person is, as far as the other one may know; no more than `most`."""
    found = Membership.objects.filter(person=person).select_related("company__tenant").order_by("company__name")
    if seen_by.is_superuser or seen_by.pk == person.pk:
        return list(found[:most])
    return list(found.filter(company__tenant__in=seen_by.administered_tenants())[:most])


def refuse_stranger(*, actor: Person, tenant: Tenant) -> None:
    """Raise NotAllowedError unless the actor administers the tenant, ConflictError when the tenant is going."""
    if not actor.is_superuser and not actor.administered_tenants().filter(pk=tenant.pk).exists():
        raise NotAllowedError("You give and take rights only within the tenants that you administer.")
    if Tenant.objects.filter(pk=tenant.pk, status__in=_GOING).exists():
        raise ConflictError(f"The tenant {tenant.name} is being deleted.", code="wrong_tenant_status")


@transaction.atomic
def grant_role(*, person: Person, held: HeldRole, actor: Person) -> None:
    """Give a role of a tenant or of a server. May be called twice. A SuperAdmin is made by `set_superadmin` only."""
    refuse_stranger(actor=actor, tenant=_tenant_of(held))
    _refuse_above(actor=actor, person=person)
    if held.server is not None:
        grant_server_ownership(person=person, server=held.server, actor=actor)
    else:
        grant_tenant_administration(person=person, tenant=_tenant_of(held), actor=actor)


@transaction.atomic
def revoke_role(*, person: Person, held: HeldRole, actor: Person, confirmed: bool = False) -> None:
    """Take a role; the person stays in the people list. May be called twice.

    Raises ConflictError when it is the actor's own last right and he has not confirmed that.
    """
    tenant = _tenant_of(held)
    refuse_stranger(actor=actor, tenant=tenant)
    _refuse_above(actor=actor, person=person)
    if held.server is not None:
        taken, _ = _ownership(person).filter(content_object=held.server).delete()
    else:
        taken, _ = _administration(person).filter(content_object=tenant).delete()
    _refuse_own_last_right(person, actor=actor, confirmed=confirmed)
    if taken:
        shown = {"role": str(held.role), "server": str(held.server.pk) if held.server else None}
        record(action="role.revoke", subject=person, actor=actor, tenant=tenant, before=shown)


@transaction.atomic
def remove_from_tenant(*, person: Person, tenant: Tenant, actor: Person, confirmed: bool = False) -> None:
    """Take every right in the tenant, on its servers too, and the place in its people list. May be called twice."""
    refuse_stranger(actor=actor, tenant=tenant)
    _refuse_above(actor=actor, person=person)
    rights, _ = _administration(person).filter(content_object=tenant).delete()
    owned, _ = _ownership(person).filter(content_object__tenant=tenant).delete()
    listed, _ = Membership.objects.filter(person=person, company__tenant=tenant).delete()
    _refuse_own_last_right(person, actor=actor, confirmed=confirmed)
    if rights or owned or listed:
        shown = {"administered": bool(rights), "servers": owned}
        record(action="person.remove_from_tenant", subject=person, actor=actor, tenant=tenant, before=shown)


@transaction.atomic
def set_active(*, person: Person, active: bool, actor: Person, confirmed: bool = False) -> None:
    """Shut a person out of everything, or let him in again. May be called twice.

    A DCAdmin does it only to those who belong to his tenants and nowhere else. Raises NotAllowedError, and
    ConflictError for the last SuperAdmin and for oneself without confirmation.
    """
    if not actor.is_superuser:
        _refuse_above(actor=actor, person=person)
        if not _belongs_only_to(person, actor):
            raise NotAllowedError("This person belongs to others as well. Remove him from your tenant instead.")
    if not active:
        _refuse_last_superadmin(person)
        if person.pk == actor.pk and not confirmed:
            raise ConflictError("You would shut yourself out. Confirm that this is meant.", code="own_last_right")
    changed = Person.objects.filter(pk=person.pk).exclude(is_active=active).update(is_active=active)
    person.is_active = active
    if changed:
        record(action="person.enable" if active else "person.disable", subject=person, actor=actor)


@transaction.atomic
def set_superadmin(*, person: Person, superadmin: bool, actor: Person, confirmed: bool = False) -> None:
    """Give or take the right to everything. Only a SuperAdmin does. May be called twice.

    Raises ConflictError for the last active one, and for oneself without confirmation.
    """
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin says who is one.")
    if not superadmin:
        _refuse_last_superadmin(person)
    changed = Person.objects.filter(pk=person.pk).exclude(is_superuser=superadmin).update(is_superuser=superadmin)
    person.is_superuser = superadmin
    if not superadmin and person.pk == actor.pk and not confirmed:
        raise ConflictError("You would no longer be a SuperAdmin. Confirm that this is meant.", code="own_last_right")
    if changed:
        action = "role.grant" if superadmin else "role.revoke"
        record(action=action, subject=person, actor=actor, after={"role": str(Role.SUPER_ADMIN)})


def _tenant_of(held: HeldRole) -> Tenant:
    tenant = held.server.tenant if held.server is not None else held.tenant
    if tenant is None:
        raise ValueError("a role of a tenant or of a server")
    return tenant


def _refuse_above(*, actor: Person, person: Person) -> None:
    if person.is_superuser and not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin changes a SuperAdmin.")


def _refuse_last_superadmin(person: Person) -> None:
    """Under the row locks of all of them: two cannot take the right from each other at once."""
    active = Person.objects.filter(is_superuser=True, is_active=True).select_for_update().order_by("pk")
    keys = set(active.values_list("pk", flat=True))
    if keys == {person.pk}:
        raise ConflictError("This is the last SuperAdmin. Make another one first.", code="last_superadmin")


def _refuse_own_last_right(person: Person, *, actor: Person, confirmed: bool) -> None:
    """After the change, in its transaction: what is refused here is rolled back."""
    if person.pk != actor.pk or confirmed or person.is_superuser:
        return
    if not person.administered_tenants().exists() and not _ownership(person).exists():
        raise ConflictError("You would have no right left. Confirm that this is meant.", code="own_last_right")


def _belongs_only_to(person: Person, actor: Person) -> bool:
    """Whether all that the person belongs to, or has a right to, is administered by the actor."""
    known = actor.administered_tenants()
    places = (
        Membership.objects.filter(person=person).exclude(company__tenant__in=known),
        _administration(person).exclude(content_object__in=known),
        TenantGroupPermission.objects.filter(group__user=person).exclude(content_object__in=known),
        _ownership(person).exclude(content_object__tenant__in=known),
    )
    return not any(elsewhere.exists() for elsewhere in places)


def _administration(person: Person) -> QuerySet[TenantUserPermission]:
    return TenantUserPermission.objects.filter(user=person, permission__codename=ADMINISTER_TENANT)


def _ownership(person: Person) -> QuerySet[ServerUserPermission]:
    return ServerUserPermission.objects.filter(user=person, permission__codename=OWN_SERVER)
