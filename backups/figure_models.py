"""Figures that are too large to be counted whenever somebody looks: counted now and then, and kept with their time."""

from __future__ import annotations

from django.db import models

from agents.models import Node
from tenants.models import Tenant
from vaults.models import Vault


class TenantFigures(models.Model):
    """What a tenant had in its vaults when it was counted. Bytes as in `backups.accounting.Usage`."""

    tenant = models.OneToOneField(Tenant, on_delete=models.CASCADE, primary_key=True, related_name="figures")
    counted_at = models.DateTimeField()
    server_count = models.PositiveIntegerField()
    # As `backups.server_states` says it, at that moment.
    protected_count = models.PositiveIntegerField()
    unprotected_count = models.PositiveIntegerField(default=0)
    definition_count = models.PositiveIntegerField()
    # Of the server that has the most.
    most_definitions = models.PositiveIntegerField()
    # Backups in the catalogue that can be restored, and what was stored for them.
    good_count = models.PositiveIntegerField()
    stored_bytes = models.BigIntegerField()
    # All in the catalogue.
    backup_count = models.PositiveIntegerField(default=0)
    backup_bytes = models.BigIntegerField(default=0)
    # No constraint on what was counted: a wrong figure of a backup must not hide all others.
    unique_bytes = models.BigIntegerField()
    shared_bytes = models.BigIntegerField()
    locked_bytes = models.BigIntegerField()
    pending_delete_bytes = models.BigIntegerField()
    # What would have to go with it, as `backups.remains.to_keep` has it.
    remains = models.JSONField(default=dict, blank=True)

    def __str__(self) -> str:
        return f"figures of {self.tenant_id}"

    @property
    def used_bytes(self) -> int:
        return self.unique_bytes + self.shared_bytes

    @property
    def total_bytes(self) -> int:
        return self.used_bytes + self.pending_delete_bytes


class DayFigures(models.Model):
    """A day of a tenant, in one zone: how its backups went, and what it took up when the day ended.

    A day that is not over, or only just, is counted again; `counted_at` tells. See `backups.days`.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="day_figures")
    time_zone = models.CharField(max_length=64, default="UTC")
    day = models.DateField()
    counted_at = models.DateTimeField()
    good_count = models.PositiveIntegerField()
    failed_count = models.PositiveIntegerField()
    missed_count = models.PositiveIntegerField()
    held_count = models.PositiveIntegerField(default=0)
    total_bytes = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "time_zone", "day"], name="day_figures_once_in_zone")]
        indexes = [models.Index(fields=["time_zone", "day"], name="day_figures_by_zone_and_day")]

    def __str__(self) -> str:
        return f"figures of {self.tenant_id} on {self.day}"


class VaultFigures(models.Model):
    """How far the locks of a vault reached when it was looked over, as in `vaults.coverage.Coverage`."""

    vault = models.OneToOneField(Vault, on_delete=models.CASCADE, primary_key=True, related_name="figures")
    counted_at = models.DateTimeField()
    backup_count = models.PositiveIntegerField()
    violation_count = models.PositiveIntegerField()
    # The first of them: lists of backup, key, two ISO times and the reason, as in `vaults.coverage.Violation`.
    violations = models.JSONField(default=list, blank=True)
    least_slack = models.DurationField(null=True, blank=True)
    soonest_end = models.DateTimeField(null=True, blank=True)
    ending_count = models.PositiveIntegerField()
    # Bytes in the vault, and of them those whose lock ends on each day (UTC): a list of [ISO date, bytes], ascending.
    stored_bytes = models.BigIntegerField(default=0)
    lock_tail = models.JSONField(default=list, blank=True)
    # As of a tenant.
    remains = models.JSONField(default=dict, blank=True)

    def __str__(self) -> str:
        return f"figures of {self.vault_id}"

    @property
    def is_kept(self) -> bool:
        return not self.violation_count


class NodeShareFigures(models.Model):
    """The load of a node by one tenant that has much, as it was counted last. For who sees this tenant and not all.

    Columns as in `NodeFigures`; `starting` and `within` as `definitions.spread.NodeDay` has them.
    """

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="shares")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="node_shares")
    counted_at = models.DateTimeField()
    on = models.DateField()
    planned = models.JSONField(default=list)
    actual = models.JSONField(default=list)
    starting = models.JSONField(default=dict)
    within = models.JSONField(default=list)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "node"], name="node_share_once")]

    def __str__(self) -> str:
        return f"figures of {self.node_id} by {self.tenant_id}"


class NodeFigures(models.Model):
    """The load of a node as it was counted last, by all definitions and jobs: bytes per second in each hour (UTC).

    `piles` are its hours in which definitions pile up, as `definitions.spread.PileUp` has them.
    """

    node = models.OneToOneField(Node, on_delete=models.CASCADE, primary_key=True, related_name="figures")
    counted_at = models.DateTimeField()
    on = models.DateField()
    planned = models.JSONField(default=list)
    actual = models.JSONField(default=list)
    piles = models.JSONField(default=list)

    def __str__(self) -> str:
        return f"figures of {self.node_id}"
