"""Backup definitions: of which disk, where, how, when and how many."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from agents.models import Disk, Node, Storage
from common.models import IdentifiedModel
from definitions.hold_models import BlackoutWindow, DefinitionPause
from definitions.names import check_name
from definitions.policy_models import EarlierRules, Policy, PolicyAssignment, ServerTag, SpreadAct
from definitions.rule_fields import RetentionRules
from definitions.schedule_models import EarlierSchedule
from definitions.zone_models import ZoneRules
from tenants.models import Tenant
from tenants.querysets import ScopedQuerySet
from vaults.models import Vault

__all__ = [
    "BlackoutWindow",
    "Definition",
    "DefinitionPause",
    "DefinitionQuerySet",
    "EarlierRules",
    "EarlierSchedule",
    "Policy",
    "PolicyAssignment",
    "ServerTag",
    "SpreadAct",
    "ZoneRules",
]


class DefinitionQuerySet(ScopedQuerySet):
    tenant_path = "tenant"
    grant_path = "disk__server__user_grants"


class Definition(IdentifiedModel, RetentionRules):
    """The configuration from which periodic backups of one disk are made and removed."""

    class Type(models.TextChoices):
        VAULT = "vault", "Vault"
        DATASET = "dataset", "Dataset"
        FILE = "file", "File"

    class Compression(models.TextChoices):
        OFF = "off", "off"
        GZIP = "gzip", "gzip"
        BZIP2 = "bzip2", "bzip2"
        ZSTD = "zstd", "zstd"

    name = models.CharField(
        max_length=16,
        validators=[check_name],
    )
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="definitions")
    disk = models.ForeignKey(Disk, on_delete=models.PROTECT, related_name="definitions")
    # None for Dataset and File.
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, null=True, blank=True, related_name="definitions")
    type = models.CharField(max_length=8, choices=Type, default=Type.VAULT)
    cron = models.CharField(max_length=100)
    time_zone = models.CharField(max_length=64, default="UTC")
    # How long each backup of it cannot be removed by anyone; None: as long as the vault says. Never shorter than that.
    immutable_days = models.PositiveIntegerField(null=True, blank=True)
    # Bytes per second that a backup may send; None: no limit.
    bandwidth_limit = models.PositiveBigIntegerField(null=True, blank=True)
    # For Dataset and File: where the backups lie. A Vault backup lies in the vault.
    backup_node = models.ForeignKey(Node, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    storage = models.ForeignKey(Storage, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    compression = models.CharField(max_length=8, choices=Compression, default=Compression.OFF)
    freeze_filesystem = models.BooleanField(default=False)
    # What of a file tree is left out: lines of a .gitignore file at its root.
    excludes = models.TextField(blank=True)
    # How old the last good backup may be, in hours; None: two intervals of the schedule.
    rpo_hours = models.PositiveIntegerField(null=True, blank=True)
    # What gives it its schedule, rules and lock; None: a person does.
    policy = models.ForeignKey(Policy, on_delete=models.SET_NULL, null=True, blank=True, related_name="definitions")
    # Set when it was deleted and its backups are kept until they are old enough; it never runs again.
    retired_at = models.DateTimeField(null=True, blank=True)
    active = models.BooleanField(default=True)
    description = models.CharField(max_length=128, blank=True)
    next_run_at = models.DateTimeField(null=True, blank=True)

    objects = DefinitionQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["disk", "name"], name="definition_name_once_per_disk"),
            models.CheckConstraint(condition=Q(retention_count__lte=65536), name="definition_retention_sane"),
            models.CheckConstraint(condition=Q(retention_days__lte=3650), name="definition_retention_days_sane"),
            models.CheckConstraint(
                condition=Q(immutable_days=None) | Q(immutable_days__gte=1, immutable_days__lte=3650),
                name="definition_immutable_days_sane",
            ),
            models.CheckConstraint(
                condition=Q(retired_at=None) | Q(active=False, next_run_at=None), name="definition_retired_is_still"
            ),
            models.CheckConstraint(
                condition=Q(rpo_hours=None) | Q(rpo_hours__gte=1, rpo_hours__lte=87600), name="definition_rpo_sane"
            ),
            models.CheckConstraint(
                condition=Q(bandwidth_limit=None) | Q(bandwidth_limit__gte=65536), name="definition_bandwidth_sane"
            ),
            models.CheckConstraint(
                condition=Q(type="vault", vault__isnull=False, storage=None, backup_node=None)
                | Q(
                    type__in=["dataset", "file"],
                    vault=None,
                    storage__isnull=False,
                    backup_node__isnull=False,
                    immutable_days=None,
                ),
                name="definition_place_by_type",
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

    @property
    def least_lock_days(self) -> int:
        """How long its vault keeps every backup unremovable; 0 on a storage, where nothing is locked."""
        return self.vault.immutable_days if self.vault is not None else 0
