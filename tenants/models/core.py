"""Tenants, their companies, and persons with their roles."""

from __future__ import annotations

import zoneinfo
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from guardian.models import GroupObjectPermissionBase, UserObjectPermissionBase

from common.ids import new_id
from common.models import IdentifiedModel
from tenants.managers import PersonManager
from tenants.querysets import ScopedQuerySet
from tenants.token_limits import Limits

ADMINISTER_TENANT = "administer_tenant"


def validate_time_zone(name: str) -> None:
    if name not in zoneinfo.available_timezones():
        raise ValidationError("%(name)s is not a time zone; use a name such as Europe/Paris.", params={"name": name})


class Person(AbstractUser):
    """Somebody who signs in. A SuperAdmin is `is_superuser`; the other roles are grants on tenants and servers."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    time_zone = models.CharField(max_length=64, default="UTC", validators=[validate_time_zone])

    # Of the token by which this instance signed in; None where it came by a session.
    limits: Limits | None = None

    objects = PersonManager()

    def save(self, *args: Any, **options: Any) -> None:
        """Not for an instance that a token made smaller: what it shows is not what is stored."""
        if self.limits is not None:
            raise RuntimeError("A person who came by a token is not saved; fetch the person again.")
        super().save(*args, **options)

    def narrow(self, limits: Limits) -> None:
        """From now on this instance has only the rights that the token leaves. Never undone, never stored.

        Bound to a tenant, a SuperAdmin is an administrator of that tenant and nothing more.
        """
        self.limits = limits
        if limits.tenant_id is not None:
            self.is_superuser = False

    def administered_tenants(self) -> models.QuerySet[Tenant]:
        """Tenants that the person administers by a grant of his own or of a group of his; one indexed query."""
        if self.limits is None or self.limits.tenant_id is None:
            return self._administered_tenants()
        all_of_them = Tenant.objects.order_by() if self.limits.of_superadmin else self._administered_tenants()
        return all_of_them.filter(pk=self.limits.tenant_id)

    def _administered_tenants(self) -> models.QuerySet[Tenant]:
        held = {"permission__codename": ADMINISTER_TENANT, "permission__content_type__app_label": "tenants"}
        own = TenantUserPermission.objects.filter(user=self, **held).values("content_object_id")
        groups = TenantGroupPermission.objects.filter(group__user=self, **held).values("content_object_id")
        return Tenant.objects.filter(Q(pk__in=own) | Q(pk__in=groups)).order_by()

    def administers(self) -> bool:
        """Whether the person manages people at all: of every tenant, or of one."""
        return self.is_active and (self.is_superuser or self.administered_tenants().exists())


class TenantQuerySet(ScopedQuerySet):
    tenant_path = "pk"


class Tenant(IdentifiedModel):
    """A customer; a "virtual data center". Its names share one random suffix.

    active <-> suspended, each of them -> deleting -> deleted; until its delay is over, deleting -> suspended. The row
    of a deleted tenant stays as a tombstone: its names are never given again, and the audit has something to name.
    """

    class Status(models.TextChoices):
        ACTIVE = "active", "active"
        SUSPENDED = "suspended", "suspended"
        DELETING = "deleting", "being deleted"
        DELETED = "deleted", "deleted"

    suffix = models.CharField(max_length=12, unique=True, editable=False)
    name = models.CharField(max_length=64, unique=True, editable=False)
    title = models.CharField(max_length=100)
    status = models.CharField(max_length=12, choices=Status, default=Status.ACTIVE)
    # Why it is not active, in words for its people; empty while it is.
    status_reason = models.CharField(max_length=255, blank=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        permissions = [(ADMINISTER_TENANT, "Administers the tenant (DCAdmin)")]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["active", "suspended", "deleting", "deleted"]), name="tenant_status_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class TenantUserPermission(UserObjectPermissionBase):
    """Grants on tenants by a direct foreign key: lists stay one indexed query, rows cascade with the tenant."""

    content_object = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="user_grants")


class TenantGroupPermission(GroupObjectPermissionBase):
    content_object = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="group_grants")


class CompanyQuerySet(ScopedQuerySet):
    tenant_path = "tenant"


class Company(IdentifiedModel):
    """The tenant's account container in the console."""

    tenant = models.OneToOneField(Tenant, on_delete=models.PROTECT, related_name="company")
    name = models.CharField(max_length=64, unique=True, editable=False)

    objects = CompanyQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "companies"

    def __str__(self) -> str:
        return self.name
