"""Visibility: each scoped model names its path to the tenant and to the persons who own the server."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any, ClassVar, Self
from uuid import UUID

from django.core.exceptions import EmptyResultSet
from django.db import models
from django.db.models import Q

from tenants.origin import current_visit
from tenants.roles import Action, Role, actions_of

OWN_SERVER = "own_server"
# Beyond that a person's tenants or servers stay a subquery: the statement would grow with them.
MOST_VALUES = 500
# Of more rows than that a list in their order comes to its page soon. Lists say a smaller number than that exactly.
MOST_SOUGHT = 10_000
_READING = frozenset({"GET", "HEAD"})


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
        """The rows on which the person may do the action. An inactive or anonymous person reaches nothing.

        What a token takes away is taken here, before and after roles are looked at.
        """
        if not getattr(person, "is_active", False) or not person.is_authenticated:
            return self.none()
        limits = getattr(person, "limits", None)
        if limits is None:
            return self.reachable_by(person, action)
        if not limits.allows(action):
            return self.none()
        found = self.reachable_by(person, action)
        return found if limits.tenant_id is None else found.within_tenant(limits.tenant_id)

    def reachable_by(self, person: Any, action: Action) -> Self:
        """By the roles of an active person. Subclasses may have rules of their own; callers use `for_user`."""
        if person.is_superuser:
            return self
        ways = [way for way in (self._by_tenant(person, action), self._by_server(person, action)) if way is not None]
        return self.filter(reduce(or_, ways)) if ways else self.none()

    def _by_tenant(self, person: Any, action: Action) -> Q | None:
        model = self.model._meta.model_name or ""
        if self.tenant_path is None or action not in actions_of(Role.DC_ADMIN, model):
            return None
        within = _among(self.tenant_path, person.administered_tenants(), whose=person)
        return self._as_keys(within) if within is not None and self.many_tenants else within

    def _by_server(self, person: Any, action: Action) -> Q | None:
        model = self.model._meta.model_name or ""
        if self.grant_path is None or action not in actions_of(Role.VM_OWNER, model):
            return None
        # Compared with the nearest column of its own: a join inside of an OR is a walk over the whole table.
        hop, _, rest = self.grant_path.partition("__")
        column, owned = (hop, self.model._meta.get_field(hop).related_model) if rest else ("pk", self.model)
        path = rest or hop
        held = {f"{path}__user": person, f"{path}__permission__codename": OWN_SERVER}
        return _among(column, owned._base_manager.filter(**held), whose=person)

    def within_tenant(self, tenant_id: UUID) -> Self:
        """What belongs to the one tenant; nothing where no path leads to one."""
        if self.tenant_path is None:
            return self.none()
        within = Q(**{self.tenant_path: tenant_id})
        return self.filter(self._as_keys(within) if self.many_tenants else within)

    def _as_keys(self, condition: Q) -> Q:
        return Q(pk__in=self.model._default_manager.filter(condition).order_by().values("pk"))


def values_of(rows: models.QuerySet[Any], *, whose: Any) -> list[Any] | models.QuerySet[Any]:
    """The keys of the rows, to be put in behind `__in`.

    Few are asked for at once and become values, for then the database knows how many rows to expect and takes the right
    index; with a subquery it guesses. One reading request asks once; nothing is kept beyond it, nor in one that writes:
    what is revoked is gone with the next request.
    """
    visit = current_visit()
    if visit is None or visit.request.method not in _READING:
        return _asked(rows)
    try:
        key = (whose.pk, str(rows.query))
    except EmptyResultSet:
        return []
    if key not in visit.reach:
        visit.reach[key] = _asked(rows)
    return visit.reach[key]


def sought_first(rows: Any) -> tuple[Any, int]:
    """The same rows, for a list with an order: what they are searched by is looked for before they are ordered.

    Otherwise the database may walk the index of the order and compare row by row, and read all of it for a name that is
    rare or far behind. Also how many they are, counted up to MOST_SOUGHT + 1.
    """
    keys = rows.order_by().values("pk")[: MOST_SOUGHT + 1]
    count = keys.count()
    if count > MOST_SOUGHT:
        return rows, count
    # Who may see them and what they are searched by is all in the keys.
    found = rows.model._default_manager.filter(pk__in=keys)
    found.query.select_related = rows.query.select_related
    return found, count


def _asked(rows: models.QuerySet[Any]) -> list[Any] | models.QuerySet[Any]:
    keys = rows.order_by().values_list("pk", flat=True).distinct()
    few = list(keys[: MOST_VALUES + 1])
    return few if len(few) <= MOST_VALUES else keys


def _among(column: str, rows: models.QuerySet[Any], *, whose: Any) -> Q | None:
    """That the column is one of these rows; None when there are none."""
    keys = values_of(rows, whose=whose)
    return None if isinstance(keys, list) and not keys else Q(**{f"{column}__in": keys})
