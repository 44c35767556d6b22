"""Schedules that definitions had before: what was promised then."""

from __future__ import annotations

from django.db import models

from tenants.models import Tenant
from tenants.querysets import ScopedQuerySet


class EarlierScheduleQuerySet(ScopedQuerySet):
    tenant_path = "tenant"
    grant_path = "definition__disk__server__user_grants"


class EarlierSchedule(models.Model):
    """What a definition promised until it was changed; what it promises now is in itself. See `schedule_history`."""

    definition = models.ForeignKey("definitions.Definition", on_delete=models.CASCADE, related_name="earlier_schedules")
    # That of the definition: both move together.
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    # Empty: it was changed before anybody wrote down what it was.
    cron = models.CharField(max_length=100, blank=True)
    time_zone = models.CharField(max_length=64)
    active = models.BooleanField()
    until = models.DateTimeField()

    objects = EarlierScheduleQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["definition", "until"], name="earlier_schedule_of_definition")]

    def __str__(self) -> str:
        return f"{self.cron or 'unknown'} until {self.until:%Y-%m-%d %H:%M}"
