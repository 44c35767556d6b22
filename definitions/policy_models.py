"""Policies of the provider: when, how long and how locked; to whom they are assigned; and rules that were given up."""

from __future__ import annotations

from datetime import time

from django.db import models
from django.db.models import Q

from agents.models import Server
from common.models import IdentifiedModel
from definitions.names import check_name, check_tag
from definitions.rule_fields import RetentionRules
from definitions.spread import Window
from tenants.models import Person, Tenant
from tenants.querysets import ScopedQuerySet
from vaults.models import Region


class PolicyQuerySet(ScopedQuerySet):
    """A tenant knows of those that its definitions follow."""

    tenant_path = "definitions__tenant"
    many_tenants = True


class Policy(IdentifiedModel, RetentionRules):
    """A template that definitions follow. Its name is also theirs, so it keeps to the rules for theirs.

    With `restricted` the tenant sees what it gives and cannot change it. With `lock_whole_retention` each backup is
    locked as long as the rules may keep it.
    """

    name = models.CharField(
        max_length=16,
        unique=True,
        validators=[check_name],
    )
    description = models.CharField(max_length=128, blank=True)
    window_start = models.TimeField(default=time(22))
    window_end = models.TimeField(default=time(6))
    time_zone = models.CharField(max_length=64, default="UTC")
    retention_count = models.PositiveIntegerField(default=0)
    retention_days = models.PositiveSmallIntegerField(default=14)
    # None: as long as the vault says.
    lock_days = models.PositiveSmallIntegerField(null=True, blank=True)
    lock_whole_retention = models.BooleanField(default=False)
    restricted = models.BooleanField(default=True)
    # Of servers with an agent: the fields of `definitions.agent_limits.AgentLimits` that are not as usual.
    agent_limits = models.JSONField(default=dict, blank=True)

    objects = PolicyQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "policies"
        constraints = [
            models.CheckConstraint(
                condition=Q(lock_days=None) | Q(lock_whole_retention=False), name="policy_locks_in_one_way"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def window(self) -> Window:
        return Window(self.window_start, self.window_end, self.time_zone)


class PolicyAssignment(models.Model):
    """To whom a policy is given: one of a server, a tag of servers, a tenant, or a region as its default."""

    policy = models.ForeignKey(Policy, on_delete=models.PROTECT, related_name="assignments")
    server = models.OneToOneField(
        Server, on_delete=models.CASCADE, null=True, blank=True, related_name="policy_assignment"
    )
    tag = models.CharField(max_length=32, null=True, blank=True, unique=True, validators=[check_tag])
    tenant = models.OneToOneField(
        Tenant, on_delete=models.CASCADE, null=True, blank=True, related_name="policy_assignment"
    )
    region = models.OneToOneField(
        Region, on_delete=models.CASCADE, null=True, blank=True, related_name="policy_assignment"
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=(
                    Q(server__isnull=False, tag=None, tenant=None, region=None)
                    | Q(server=None, tag__isnull=False, tenant=None, region=None)
                    | Q(server=None, tag=None, tenant__isnull=False, region=None)
                    | Q(server=None, tag=None, tenant=None, region__isnull=False)
                ),
                name="policy_assigned_to_one_thing",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.policy} for {self.target}"

    @property
    def target(self) -> str:
        """In words."""
        if self.server_id:
            return f"the server {self.server}"
        if self.tag:
            return f"servers tagged {self.tag}"
        return f"the tenant {self.tenant}" if self.tenant_id else f"servers in {self.region_id}"


class ServerTag(models.Model):
    """A word on a server, by which policies find it."""

    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="tags")
    tag = models.CharField(max_length=32, validators=[check_tag])

    class Meta:
        constraints = [models.UniqueConstraint(fields=["server", "tag"], name="tag_once_per_server")]
        indexes = [models.Index(fields=["tag"], name="server_by_tag")]

    def __str__(self) -> str:
        return self.tag


class EarlierRules(RetentionRules):
    """The rules of a definition until a policy changed them: they hold for the backups that were made until then."""

    definition = models.ForeignKey("definitions.Definition", on_delete=models.CASCADE, related_name="earlier_rules")
    until = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["definition", "until"], name="earlier_rules_of_definition")]

    def __str__(self) -> str:
        return f"rules until {self.until:%Y-%m-%d %H:%M}"


class SpreadAct(IdentifiedModel):
    """One spreading of definitions over their windows: [definition, schedule before, schedule after] for each."""

    made_by = models.ForeignKey(Person, on_delete=models.SET_NULL, null=True, related_name="+")
    moves = models.JSONField(default=list)
    undone_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"spread of {self.created_at:%Y-%m-%d %H:%M}"
