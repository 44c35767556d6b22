"""What an operator allows at once: rows that are looked at whenever a job is claimed."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from agents.models import Node
from common.models import IdentifiedModel
from tenants.models import Tenant
from tenants.querysets import ScopedQuerySet
from vaults.models import Region, Vault


class BudgetQuerySet(ScopedQuerySet):
    """No role but the SuperAdmin's leads to a budget."""


class Budget(IdentifiedModel):
    """A limit for one node, vault, tenant, link or the whole fleet, always or within a window of each day.

    Without a target it is for each of its kind that has no row of its own. A link leads from the region of the servers
    to that of their vault. Several may hold for one job: each is kept.
    """

    class Kind(models.TextChoices):
        FLEET = "fleet", "fleet"
        NODE = "node", "node"
        VAULT = "vault", "vault"
        TENANT = "tenant", "tenant"
        LINK = "link", "link"

    kind = models.CharField(max_length=8, choices=Kind)
    node = models.ForeignKey(Node, on_delete=models.CASCADE, null=True, blank=True, related_name="budgets")
    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, null=True, blank=True, related_name="budgets")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, blank=True, related_name="budgets")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    vault_region = models.ForeignKey(Region, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    most_jobs = models.PositiveIntegerField(null=True, blank=True)
    bytes_per_second = models.PositiveBigIntegerField(null=True, blank=True)
    # Local times of day in `time_zone`; both null: always. A window may go over midnight.
    from_time = models.TimeField(null=True, blank=True)
    until_time = models.TimeField(null=True, blank=True)
    time_zone = models.CharField(max_length=64, default="UTC")

    objects = BudgetQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="node") | Q(node=None),
                name="budget_node_of_its_kind",
            ),
            models.CheckConstraint(condition=Q(kind="vault") | Q(vault=None), name="budget_vault_of_its_kind"),
            models.CheckConstraint(condition=Q(kind="tenant") | Q(tenant=None), name="budget_tenant_of_its_kind"),
            models.CheckConstraint(
                condition=Q(region=None, vault_region=None)
                | Q(kind="link", region__isnull=False, vault_region__isnull=False),
                name="budget_link_whole",
            ),
            models.CheckConstraint(
                condition=Q(most_jobs__isnull=False) | Q(bytes_per_second__isnull=False), name="budget_says_something"
            ),
            models.CheckConstraint(
                condition=Q(from_time=None, until_time=None)
                | Q(from_time__isnull=False, until_time__isnull=False) & ~Q(from_time=models.F("until_time")),
                name="budget_window_whole",
            ),
            models.CheckConstraint(
                condition=Q(bytes_per_second=None) | Q(bytes_per_second__gte=65536), name="budget_bandwidth_sane"
            ),
        ]

    def __str__(self) -> str:
        return f"budget of {self.target}"

    @property
    def target(self) -> str:
        """In words: `node n1`, `each tenant`, `link RBX-GRA`, `the fleet`."""
        if self.kind == self.Kind.FLEET:
            return "the fleet"
        if self.region_id:
            return f"link {self.region_id}-{self.vault_region_id}"
        named = getattr(self, self.kind, None) if self.kind != self.Kind.LINK else None
        return f"{self.kind} {named}" if named else f"each {self.kind}"
