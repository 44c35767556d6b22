"""How persons are found, and which of them a person may know of."""

from __future__ import annotations

from typing import Any, Self
from uuid import UUID

from django.contrib.auth.models import UserManager
from django.db.models import Q

from tenants.querysets import ScopedQuerySet
from tenants.roles import Action, Role, actions_of


class PersonQuerySet(ScopedQuerySet):
    """Everybody sees himself; an administrator of a tenant also those in the people list of its company."""

    def reachable_by(self, person: Any, action: Action) -> Self:
        """The persons on whom the person may do the action. A SuperAdmin is changed by SuperAdmins only."""
        if person.is_superuser:
            return self
        reach = Q(pk__in=[])
        if action in actions_of(Role.VM_OWNER, "person"):
            reach |= Q(pk=person.pk)
        if action in actions_of(Role.DC_ADMIN, "person"):
            within = Q(memberships__company__tenant__in=person.administered_tenants())
            if action is not Action.VIEW:
                within &= Q(is_superuser=False)
            reach |= self._as_keys(within)
        return self.filter(reach)

    def within_tenant(self, tenant_id: UUID) -> Self:
        """`reachable_by` knows the tenant already: a person is in several, and himself in any case."""
        return self


class PersonManager(UserManager.from_queryset(PersonQuerySet)):  # type: ignore[misc]  # made while the program runs
    """Django's verbs for making accounts, and the scoped queryset."""

    use_in_migrations = False
