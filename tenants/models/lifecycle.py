"""What happened to a tenant, and its deletion."""

from __future__ import annotations

from django.db import models

from common.models import IdentifiedModel
from tenants.models.core import Person, Tenant


class TenantEvent(models.Model):
    """A change of a tenant's status; written in the transaction of the change."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    code = models.CharField(max_length=64)
    message = models.TextField(blank=True)

    class Meta:
        indexes = [models.Index(fields=["tenant", "id"], name="tenant_event_of_tenant")]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.code}"


class TenantDeletion(IdentifiedModel):
    """A tenant is to go. Until `undo_until` nothing is lost but the rights of its people, and those are noted here."""

    tenant = models.OneToOneField(Tenant, on_delete=models.CASCADE, related_name="deletion")
    requested_by = models.ForeignKey(Person, on_delete=models.SET_NULL, null=True, related_name="deletions_requested")
    # Also when the person is gone.
    requested_by_name = models.CharField(max_length=150)
    reason = models.CharField(max_length=500, blank=True)
    requested_at = models.DateTimeField()
    undo_until = models.DateTimeField()
    # The rights that were taken: [{"person": id, "server": id or null}]; null is the tenant itself.
    grants = models.JSONField(default=list, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"deletion of {self.tenant_id}"
