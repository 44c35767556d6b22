"""What keeps definitions from starting by their schedule: pauses that a person set, and windows without backups."""

from __future__ import annotations

import calendar
from typing import Self

from django.db import models
from django.db.models import Q

from agents.models import Node
from common.models import IdentifiedModel
from tenants.models import Person, Tenant
from tenants.querysets import ScopedQuerySet


class PauseQuerySet(ScopedQuerySet):
    tenant_path = "tenant"


class DefinitionPause(IdentifiedModel):
    """Nothing starts by schedule from `starts_at` until `until`: of one definition, a node, a tenant, or the fleet.

    The one of a definition carries its tenant as well; the one of the fleet names nothing.
    """

    definition = models.ForeignKey(
        "definitions.Definition", on_delete=models.CASCADE, null=True, blank=True, related_name="pauses"
    )
    node = models.ForeignKey(Node, on_delete=models.CASCADE, null=True, blank=True, related_name="pauses")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, blank=True, related_name="pauses")
    reason = models.CharField(max_length=200)
    starts_at = models.DateTimeField()
    # None: until somebody ends it.
    until = models.DateTimeField(null=True, blank=True)
    paused_by = models.ForeignKey(Person, on_delete=models.SET_NULL, null=True, related_name="+")
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = PauseQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(node=None) | Q(definition=None, tenant=None), name="pause_of_one_thing"),
            models.CheckConstraint(
                condition=Q(definition=None) | Q(tenant__isnull=False), name="pause_of_definition_has_tenant"
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="pause_has_reason"),
            models.CheckConstraint(
                condition=Q(until=None) | Q(until__gt=models.F("starts_at")), name="pause_ends_later"
            ),
        ]
        indexes = [models.Index(fields=["starts_at"], condition=Q(ended_at=None), name="pause_standing")]

    def __str__(self) -> str:
        return f"pause of {self.definition or self.node or self.tenant or 'the fleet'}"


class BlackoutQuerySet(ScopedQuerySet):
    tenant_path = "tenant"

    def standing(self) -> Self:
        return self.filter(removed_at=None)


class BlackoutWindow(IdentifiedModel):
    """A time of day, on some weekdays, in which nothing starts by schedule: of a node, a tenant, or the fleet."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, null=True, blank=True, related_name="blackouts")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, blank=True, related_name="blackouts")
    reason = models.CharField(max_length=200)
    # Local time; one that ends not later than it starts goes over midnight. Equal: the whole day.
    start = models.TimeField()
    end = models.TimeField()
    time_zone = models.CharField(max_length=64, default="UTC")
    # ISO weekdays on which it starts, Monday is 1.
    weekdays = models.CharField(max_length=7, default="1234567")
    # It stays behind: what it held until then was no miss.
    removed_at = models.DateTimeField(null=True, blank=True)

    objects = BlackoutQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(node=None) | Q(tenant=None), name="blackout_of_one_thing"),
            models.CheckConstraint(condition=~Q(reason="") & ~Q(weekdays=""), name="blackout_says_when_and_why"),
        ]

    def __str__(self) -> str:
        return f"no backups from {self.start:%H:%M} to {self.end:%H:%M} {self.time_zone}"

    @property
    def weekday_names(self) -> str:
        """`Monday, Tuesday`; `every day` for all of them."""
        if len(self.weekdays) == len(calendar.day_name):
            return "every day"
        return ", ".join(calendar.day_name[int(number) - 1] for number in self.weekdays)
