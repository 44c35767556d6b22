"""Where backups are kept: regions, affinity, endpoints, vaults, and what is wrong with a vault."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models import F, Q

from common.models import IdentifiedModel
from tenants.models import Tenant
from tenants.querysets import ScopedQuerySet
from vaults.locks import LockRule


class Region(models.Model):
    """A place where servers stand or vaults are."""

    code = models.CharField(max_length=16, primary_key=True)
    title = models.CharField(max_length=100, blank=True)

    def __str__(self) -> str:
        return self.code


class Affinity(models.Model):
    """Where the vaults of a region's servers must be: always somewhere else."""

    region = models.OneToOneField(Region, on_delete=models.PROTECT, primary_key=True, related_name="affinity")
    vault_region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="vaults_for")

    class Meta:
        verbose_name_plural = "affinities"
        constraints = [
            models.CheckConstraint(condition=~Q(region=F("vault_region")), name="affinity_is_elsewhere"),
        ]

    def __str__(self) -> str:
        return f"{self.region_id} -> {self.vault_region_id}"


class Endpoint(models.Model):
    """An S3 service. Which credentials a process has for it comes from that process's environment, never from here."""

    region = models.OneToOneField(Region, on_delete=models.PROTECT, related_name="endpoint")
    url = models.URLField()
    signing_region = models.CharField(max_length=64, default="us-east-1")

    def __str__(self) -> str:
        return self.url


class VaultQuerySet(ScopedQuerySet):
    tenant_path = "tenant"


class Vault(IdentifiedModel):
    """An S3 bucket with Object Lock in one region."""

    class Status(models.TextChoices):
        PENDING = "pending", "being made"
        READY = "ready", "ready"
        REFUSED = "refused", "refused"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="vaults")
    name = models.CharField(max_length=64, unique=True, editable=False)
    endpoint = models.ForeignKey(Endpoint, on_delete=models.PROTECT, related_name="vaults")
    bucket = models.CharField(max_length=63)
    immutable_days = models.PositiveIntegerField(default=14)
    status = models.CharField(max_length=12, choices=Status, default=Status.PENDING)
    refusal = models.TextField(blank=True)
    checked_at = models.DateTimeField(null=True, blank=True)
    # What the last probe found: one entry per call, and what the store can do beyond the necessary.
    probed_at = models.DateTimeField(null=True, blank=True)
    probe_report = models.JSONField(default=list, blank=True)
    capabilities = models.JSONField(default=dict, blank=True)
    # The bucket's settings as they were when the vault became ready; a difference is drift.
    settings_seen = models.JSONField(default=dict, blank=True)
    # Grows with each removal run and after a database was restored; a session notes the epoch that it opened in.
    epoch = models.PositiveBigIntegerField(default=1)
    # The last time that the whole listing of the bucket and the ledger agreed.
    reconciled_at = models.DateTimeField(null=True, blank=True)
    # Why nothing may be removed from the vault now; empty when removal is on.
    removal_stopped = models.TextField(blank=True)

    objects = VaultQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["endpoint", "bucket"], name="vault_bucket_once"),
            models.CheckConstraint(
                condition=Q(immutable_days__gte=1, immutable_days__lte=3650), name="vault_days_sane"
            ),
            models.CheckConstraint(condition=Q(status__in=["pending", "ready", "refused"]), name="vault_status_known"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def lock_rule(self) -> LockRule:
        return LockRule(promised=timedelta(days=self.immutable_days))


class AlarmQuerySet(ScopedQuerySet):
    tenant_path = "vault__tenant"

    def standing(self) -> AlarmQuerySet:
        return self.filter(cleared_at=None)


class Alarm(IdentifiedModel):
    """Something about a vault that a person must know. It stands until what raised it finds it mended."""

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="alarms")
    code = models.CharField(max_length=64)
    message = models.TextField()
    seen_at = models.DateTimeField()
    cleared_at = models.DateTimeField(null=True, blank=True)

    objects = AlarmQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["vault", "code"], condition=Q(cleared_at=None), name="alarm_stands_once_per_code"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.code} of {self.vault_id}"
