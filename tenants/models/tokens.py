"""What signs in without a browser."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Self

from django.db import models
from django.db.models import Q

from common.models import IdentifiedModel
from tenants.models.core import Person, Tenant
from tenants.querysets import ScopedQuerySet
from tenants.roles import Action
from tenants.token_limits import SCOPE_CHOICES, Limits, Scope

# A token that came of a password ends when it was not used for so long.
LOGIN_IDLE = timedelta(hours=1)


class ApiTokenQuerySet(ScopedQuerySet):
    """Everybody's own; a SuperAdmin's are all."""

    tenant_path = "tenant"

    def reachable_by(self, person: Any, action: Action) -> Self:
        return self if person.is_superuser else self.filter(person=person)

    def live(self, now: datetime) -> Self:
        return self.filter(disabled_at=None, expires_at__gt=now)


class ApiToken(IdentifiedModel):
    """A token for the API: `bks_<key>.<secret>`. Of the secret only a keyed hash is here.

    The key of that hash (the pepper) is not in the database: who reads or writes rows makes no token. A token never
    exceeds the rights that its person has at the moment of the request.
    """

    class Kind(models.TextChoices):
        KEY = "key", "API key"
        LOGIN = "login", "sign-in by password"

    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="api_tokens")
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.KEY)
    label = models.CharField(max_length=100)
    key = models.CharField(max_length=32, unique=True, editable=False)
    secret_mac = models.CharField(max_length=64, editable=False)
    pepper_id = models.CharField(max_length=16, editable=False)
    scope = models.CharField(max_length=8, choices=SCOPE_CHOICES, default=Scope.READ)
    may_restore = models.BooleanField(default=False)
    # The only tenant that it reaches; None: all of its person's.
    tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.CASCADE, related_name="api_tokens")
    # Networks such as 192.0.2.0/24 from which it may come; empty: from everywhere.
    networks = models.JSONField(default=list, blank=True)
    expires_at = models.DateTimeField()
    disabled_at = models.DateTimeField(null=True, blank=True)
    # Both at most once a minute.
    last_used_at = models.DateTimeField(null=True, blank=True)
    last_used_address = models.CharField(max_length=45, blank=True)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(scope__in=["read", "operate", "admin"]), name="token_scope_known"),
            models.CheckConstraint(condition=Q(kind__in=["key", "login"]), name="token_kind_known"),
            models.UniqueConstraint(fields=["person"], condition=Q(kind="login"), name="token_one_login_per_person"),
        ]
        indexes = [models.Index(fields=["person", "id"], name="token_of_person")]

    def __str__(self) -> str:
        return self.label

    def is_live(self, now: datetime) -> bool:
        """Whether it may be used now, as far as its own dates say."""
        if self.disabled_at is not None or self.expires_at <= now:
            return False
        return self.kind != self.Kind.LOGIN or now - (self.last_used_at or self.created_at) < LOGIN_IDLE

    def limits(self) -> Limits:
        return Limits(
            scope=Scope(self.scope),
            may_restore=self.may_restore,
            tenant_id=self.tenant_id,
            of_superadmin=self.person.is_superuser,
        )
