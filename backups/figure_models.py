"""Figures that are too large to be counted whenever somebody looks: counted now and then, and kept with their time."""

from __future__ import annotations

from django.db import models

from tenants.models import Tenant
from vaults.models import Vault


class TenantFigures(models.Model):
    """What a tenant had in its vaults when it was counted. Bytes as in `backups.accounting.Usage`."""

    tenant = models.OneToOneField(Tenant, on_delete=models.CASCADE, primary_key=True, related_name="figures")
    counted_at = models.DateTimeField()
    server_count = models.PositiveIntegerField()
    # Servers with an active definition.
    protected_count = models.PositiveIntegerField()
    definition_count = models.PositiveIntegerField()
    # Of the server that has the most.
    most_definitions = models.PositiveIntegerField()
    # Backups in the catalogue that can be restored, and what was stored for them.
    good_count = models.PositiveIntegerField()
    stored_bytes = models.BigIntegerField()
    # No constraint on what was counted: a wrong figure of a backup must not hide all others.
    unique_bytes = models.BigIntegerField()
    shared_bytes = models.BigIntegerField()
    locked_bytes = models.BigIntegerField()
    pending_delete_bytes = models.BigIntegerField()

    def __str__(self) -> str:
        return f"figures of {self.tenant_id}"

    @property
    def used_bytes(self) -> int:
        return self.unique_bytes + self.shared_bytes

    @property
    def total_bytes(self) -> int:
        return self.used_bytes + self.pending_delete_bytes


class VaultFigures(models.Model):
    """How far the locks of a vault reached when it was looked over, as in `vaults.coverage.Coverage`."""

    vault = models.OneToOneField(Vault, on_delete=models.CASCADE, primary_key=True, related_name="figures")
    counted_at = models.DateTimeField()
    backup_count = models.PositiveIntegerField()
    violation_count = models.PositiveIntegerField()
    soonest_end = models.DateTimeField(null=True, blank=True)
    ending_count = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"figures of {self.vault_id}"

    @property
    def is_kept(self) -> bool:
        return not self.violation_count
