"""The retention rules as columns: of a definition, and of a policy that gives them to definitions."""

from __future__ import annotations

from django.db import models

from definitions.retention import Rules

RULE_FIELDS = (
    "retention_count",
    "retention_days",
    "keep_hourly",
    "keep_daily",
    "keep_weekly",
    "keep_monthly",
    "keep_yearly",
)


class RetentionRules(models.Model):
    """Each 0: does not ask for any backup; all 0: every backup is kept."""

    # The greatest number of slots to keep.
    retention_count = models.PositiveIntegerField(default=14)
    # All of so many days.
    retention_days = models.PositiveSmallIntegerField(default=0)
    # The newest one of each of so many hours, days, weeks, months and years.
    keep_hourly = models.PositiveSmallIntegerField(default=0)
    keep_daily = models.PositiveSmallIntegerField(default=0)
    keep_weekly = models.PositiveSmallIntegerField(default=0)
    keep_monthly = models.PositiveSmallIntegerField(default=0)
    keep_yearly = models.PositiveSmallIntegerField(default=0)

    class Meta:
        abstract = True

    @property
    def rules(self) -> Rules:
        return Rules(*(getattr(self, name) for name in RULE_FIELDS))
