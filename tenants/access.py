"""Fetching one object for a person: what he cannot see does not exist, what he may not do is refused."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Count, Q

from common.errors import NotAllowedError, NotFoundError
from tenants.models import Person, Tenant, TenantGroupPermission, TenantUserPermission
from tenants.origin import note_refused_subject
from tenants.querysets import ScopedQuerySet
from tenants.roles import Action, Role, actions_of


def get_for_user(queryset: ScopedQuerySet, *, person: Person, action: Action, **lookup: Any) -> Any:
    """The one object of the lookup on which the person may do the action.

    Raises NotFoundError when it is missing or invisible (both the same), NotAllowedError when it is visible but the
    action is not his.
    """
    label = queryset.model._meta.verbose_name
    try:
        found = queryset.for_user(person, Action.VIEW).filter(**lookup).first()
    except (ValidationError, ValueError):
        found = None
    if found is None:
        raise NotFoundError(f"There is no such {label}.")
    if action is not Action.VIEW and not queryset.for_user(person, action).filter(pk=found.pk).exists():
        note_refused_subject(found)
        raise NotAllowedError(
            f"Your role may look at this {label} but not {action} it. Ask an administrator of the tenant."
        )
    return found


# Of a tenant that people of more zones look at, the days are kept in those of the most people.
MOST_ZONES = 8


def zones_that_see(tenant: Tenant) -> list[str]:
    """The zones of those who administer the tenant and of SuperAdmins, that of the most people first."""
    held = TenantUserPermission.objects.filter(content_object=tenant).values("user")
    by_group = TenantGroupPermission.objects.filter(content_object=tenant).values("group")
    people = Person.objects.filter(Q(pk__in=held) | Q(groups__in=by_group) | Q(is_superuser=True), is_active=True)
    zones = people.order_by().values_list("time_zone").annotate(count=Count("pk", distinct=True))
    return [zone for zone, _ in zones.order_by("-count", "time_zone")[:MOST_ZONES]]


def may(person: Person, action: Action, instance: Any) -> bool:
    """Whether the person may do the action on the instance (for showing or hiding a button)."""
    return type(instance)._default_manager.for_user(person, action).filter(pk=instance.pk).exists()


def tenants_for_new(person: Person, model: type[models.Model]) -> models.QuerySet[Tenant]:
    """The tenants in which the person may create objects of the model: there is no object yet that could be asked."""
    if not person.is_active or not person.is_authenticated or not _token_creates(person):
        return Tenant.objects.none()
    if person.is_superuser:
        return Tenant.objects.all()
    if Action.CREATE not in actions_of(Role.DC_ADMIN, model._meta.model_name or ""):
        return Tenant.objects.none()
    return person.administered_tenants()


def may_create(person: Person, model: type[models.Model]) -> bool:
    """Whether the person may create objects of the model anywhere at all."""
    if not person.is_active or not _token_creates(person):
        return False
    return bool(person.is_superuser) or tenants_for_new(person, model).exists()


def _token_creates(person: Person) -> bool:
    return person.limits is None or person.limits.allows(Action.CREATE)
