"""Visibility: each scoped model names its path to the tenant and to the persons who own the server."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from django.db import models
from django.db.models import Q

from tenants.roles import Action, Role, actions_of

OWN_SERVER = "own_server"


class ScopedQuerySet(models.QuerySet[Any]):
    """Base of the querysets of all scoped models.

    `tenant_path` leads to a tenant, `grant_path` to the persons' grants on a server; None means that the role has no
    way to the model. `for_user` is the only door through which interfaces reach rows.
    """

    tenant_path: ClassVar[str | None] = None
    grant_path: ClassVar[str | None] = None
    # Whether `tenant_path` leads to several tenants: then a join would list a row once per tenant.
    many_tenants: ClassVar[bool] = False

    def for_user(self, person: Any, action: Action = Action.VIEW) -> Self:
        """The rows on which the person may do the action. An inactive or anonymous person reaches nothing."""
        if not getattr(person, "is_active", False) or not person.is_authenticated:
            return self.none()
        if person.is_superuser:
            return self
        model = self.model._meta.model_name or ""
        reach = Q(pk__in=[])
        if self.tenant_path and action in actions_of(Role.DC_ADMIN, model):
            within = Q(**{f"{self.tenant_path}__in": person.administered_tenants()})
            reach |= self._as_keys(within) if self.many_tenants else within
        if self.grant_path and action in actions_of(Role.VM_OWNER, model):
            held = {f"{self.grant_path}__user": person, f"{self.grant_path}__permission__codename": OWN_SERVER}
            reach |= self._as_keys(Q(**held))
        return self.filter(reach)

    def _as_keys(self, condition: Q) -> Q:
        return Q(pk__in=self.model._default_manager.filter(condition).order_by().values("pk"))
