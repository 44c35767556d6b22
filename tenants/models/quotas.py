"""How much of what a tenant may have."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from common.models import IdentifiedModel
from tenants.models.core import Tenant


class QuotaKind(models.TextChoices):
    SERVERS = "servers", "servers"
    AGENTS = "agents", "agents"
    DEFINITIONS_PER_SERVER = "definitions_per_server", "definitions per server"
    RETENTION_DAYS = "retention_days", "days that a backup can be kept unremovable"
    RETENTION_COUNT = "retention_count", "backups that a definition keeps"
    BYTES = "bytes", "bytes in vaults"


class Quota(IdentifiedModel):
    """A limit. Beyond `soft` people are told, `hard` is never passed. No row, or null: no limit."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="quotas")
    kind = models.CharField(max_length=24, choices=QuotaKind)
    soft = models.PositiveBigIntegerField(null=True, blank=True)
    hard = models.PositiveBigIntegerField(null=True, blank=True)
    # Since when it is beyond `soft`, as far as was noticed; people are told once each time.
    soft_passed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "kind"], name="quota_once_per_kind"),
            models.CheckConstraint(condition=Q(soft__isnull=False) | Q(hard__isnull=False), name="quota_limits"),
            models.CheckConstraint(
                condition=Q(soft=None) | Q(hard=None) | Q(soft__lte=F("hard")), name="quota_soft_below_hard"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.tenant_id}"
