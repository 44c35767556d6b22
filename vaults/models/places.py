"""Where backups are kept: regions, affinity, endpoints, vaults, and what is wrong with a vault."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Self
from uuid import UUID

from django.db import models
from django.db.models import F, Q

from common.models import IdentifiedModel
from tenants.models import Person, Tenant
from tenants.querysets import ScopedQuerySet, values_of
from tenants.roles import Action, Role, actions_of
from vaults.locks import LockRule
from vaults.severity import Severity


class RegionQuerySet(ScopedQuerySet):
    """A tenant knows of the regions of its servers and of its vaults."""

    def reachable_by(self, person: Any, action: Action) -> Self:
        if person.is_superuser:
            return self
        if action not in actions_of(Role.DC_ADMIN, "region"):
            return self.none()
        tenants = values_of(person.administered_tenants(), whose=person)
        servers, vaults = Q(servers__tenant__in=tenants), Q(endpoint__vaults__tenant__in=tenants)
        return self.filter(self._as_keys(servers) | self._as_keys(vaults))

    def within_tenant(self, tenant_id: UUID) -> Self:
        """`reachable_by` knows the tenant already: no path leads from a region to one."""
        return self


class Region(models.Model):
    """A place where servers stand or vaults are."""

    code = models.CharField(max_length=16, primary_key=True)
    title = models.CharField(max_length=100, blank=True)

    objects = RegionQuerySet.as_manager()

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
    # What the last look found, when it was another; a person accepts exactly this, and never what he has not seen.
    settings_found = models.JSONField(default=dict, blank=True)
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


_SEVERITIES = [(int(severity), severity.name.lower()) for severity in Severity]


class AlarmQuerySet(ScopedQuerySet):
    tenant_path = "vault__tenant"

    def standing(self) -> AlarmQuerySet:
        return self.filter(cleared_at=None)

    def needing_a_person(self) -> AlarmQuerySet:
        """Those that stand, of which something has to be done, and that nobody has acknowledged."""
        return self.standing().filter(acknowledged_at=None, severity__gte=Severity.WARNING)

    def worst_first(self) -> AlarmQuerySet:
        return self.order_by("-severity", "-created_at", "-pk")


class Alarm(IdentifiedModel):
    """Something about a vault that a person must know. It stands until what raised it finds it mended.

    How bad it is follows from its code (`vaults.severity`). To acknowledge one takes it off the list of what needs a
    person, and mends nothing. `subject` is the object that it is about; empty for the vault as a whole.
    """

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="alarms")
    code = models.CharField(max_length=64)
    subject = models.CharField(max_length=300, blank=True)
    severity = models.PositiveSmallIntegerField(choices=_SEVERITIES, default=Severity.CRITICAL)
    message = models.TextField()
    # What the one who raised it must remember about it: of an extra version, which versions it judged.
    details = models.JSONField(default=dict, blank=True)
    seen_at = models.DateTimeField()
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by = models.ForeignKey(
        Person, on_delete=models.SET_NULL, null=True, blank=True, related_name="acknowledged_alarms"
    )
    acknowledgement = models.CharField(max_length=255, blank=True)
    cleared_at = models.DateTimeField(null=True, blank=True)
    cleared_reason = models.TextField(blank=True)

    objects = AlarmQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["vault", "code", "subject"], condition=Q(cleared_at=None), name="alarm_stands_once"
            ),
            models.CheckConstraint(
                condition=Q(severity__in=[value for value, _ in _SEVERITIES]), name="alarm_severity_known"
            ),
        ]
        indexes = [
            models.Index(fields=["vault", "code", "subject"], name="alarm_of_subject"),
            models.Index(
                fields=["-severity", "-created_at", "-id"], condition=Q(cleared_at=None), name="alarm_worst_first"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.code} of {self.vault_id}"


class SettingsAcceptance(IdentifiedModel):
    """A person said that changed settings of a bucket are meant to be so. Never altered; `created_at` says when."""

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="settings_acceptances")
    actor = models.ForeignKey(Person, on_delete=models.SET_NULL, null=True, related_name="settings_acceptances")
    # Also when the person is gone.
    actor_name = models.CharField(max_length=150)
    reason = models.CharField(max_length=500)
    before = models.JSONField()
    after = models.JSONField()

    def __str__(self) -> str:
        return f"settings of {self.vault_id} accepted by {self.actor_name}"
