"""Backup definitions: of which disk, where, how, when and how many."""

from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

from agents.models import Disk
from common.models import IdentifiedModel
from tenants.models import Tenant
from tenants.querysets import ScopedQuerySet
from vaults.models import Vault

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class DefinitionQuerySet(ScopedQuerySet):
    tenant_path = "tenant"
    grant_path = "disk__server__user_grants"


class Definition(IdentifiedModel):
    """The configuration from which periodic backups of one disk are made and removed."""

    class Type(models.TextChoices):
        VAULT = "vault", "Vault"

    name = models.CharField(
        max_length=16,
        validators=[RegexValidator(NAME_PATTERN, "Use letters, digits, dots, dashes; begin with a letter or digit.")],
    )
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="definitions")
    disk = models.ForeignKey(Disk, on_delete=models.PROTECT, related_name="definitions")
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="definitions")
    type = models.CharField(max_length=8, choices=Type, default=Type.VAULT)
    cron = models.CharField(max_length=100)
    time_zone = models.CharField(max_length=64, default="UTC")
    # The greatest number of backups to keep; 0 keeps all.
    retention_count = models.PositiveIntegerField(default=14)
    # How long each backup of it cannot be removed by anyone; None: as long as the vault says. Never shorter than that.
    immutable_days = models.PositiveIntegerField(null=True, blank=True)
    # Bytes per second that a backup may send; None: no limit.
    bandwidth_limit = models.PositiveBigIntegerField(null=True, blank=True)
    active = models.BooleanField(default=True)
    description = models.CharField(max_length=128, blank=True)
    next_run_at = models.DateTimeField(null=True, blank=True)

    objects = DefinitionQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["disk", "name"], name="definition_name_once_per_disk"),
            models.CheckConstraint(condition=Q(retention_count__lte=65536), name="definition_retention_sane"),
            models.CheckConstraint(
                condition=Q(immutable_days=None) | Q(immutable_days__gte=1, immutable_days__lte=3650),
                name="definition_immutable_days_sane",
            ),
            models.CheckConstraint(
                condition=Q(bandwidth_limit=None) | Q(bandwidth_limit__gte=65536), name="definition_bandwidth_sane"
            ),
        ]
        indexes = [
            models.Index(fields=["next_run_at"], condition=Q(active=True), name="definition_due"),
            models.Index(fields=["created_at", "id"], name="definition_by_age"),
            models.Index(fields=["tenant", "created_at", "id"], name="definition_of_tenant_by_age"),
            models.Index(fields=["name", "id"], name="definition_by_name"),
            models.Index(fields=["tenant", "name", "id"], name="definition_of_tenant_by_name"),
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.disk}"
