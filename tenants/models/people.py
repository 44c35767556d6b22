"""In whose people list a person is, and who was asked to join."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import Q

from common.models import IdentifiedModel
from tenants.models.core import Company, Person, Tenant
from tenants.querysets import ScopedQuerySet


class Membership(IdentifiedModel):
    """The person is in the people list of the company: its administrators know of him. It gives no right by itself.

    Whoever gets a right in a tenant becomes a member, so that no right is held by somebody whom nobody sees.
    """

    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="memberships")
    company = models.ForeignKey(Company, on_delete=models.CASCADE, related_name="memberships")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["person", "company"], name="membership_once")]

    def __str__(self) -> str:
        return f"{self.person_id} in {self.company_id}"


class InvitationQuerySet(ScopedQuerySet):
    tenant_path = "tenant"

    def open(self, now: datetime) -> InvitationQuerySet:
        return self.filter(used_at=None, expires_at__gt=now)


class Invitation(IdentifiedModel):
    """Somebody was asked to join, with these roles. Only the hash of the link's token is kept; it works once.

    There is no account until it is accepted, and the inviter does not learn whether there was one before.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="invitations")
    email = models.EmailField()
    # Roles that acceptance gives: DCAdmin of the tenant, VmOwner of these servers (ids; they may be gone by then).
    administers = models.BooleanField(default=False)
    server_ids = models.JSONField(default=list, blank=True)
    token_hash = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField()
    invited_by = models.ForeignKey(Person, on_delete=models.SET_NULL, null=True, related_name="invitations_made")
    used_at = models.DateTimeField(null=True, blank=True)

    objects = InvitationQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "email"], condition=Q(used_at=None), name="invitation_one_open_per_address"
            ),
        ]

    def __str__(self) -> str:
        return f"invitation of {self.tenant_id}"
