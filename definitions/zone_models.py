"""The rules of time zones as they were when next runs were decided."""

from __future__ import annotations

from django.db import models


class ZoneRules(models.Model):
    """One zone that definitions use: its file of the time zone database (TZif, RFC 8536), a few kilobytes."""

    time_zone = models.CharField(max_length=64, primary_key=True)
    data = models.BinaryField()
    noted_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "zone rules"

    def __str__(self) -> str:
        return self.time_zone
