"""What was found on storages and belongs to no backup of the catalogue."""

from __future__ import annotations

from django.db import models

from agents.models import Storage
from common.models import IdentifiedModel
from tenants.querysets import ScopedQuerySet


class StrayCopyQuerySet(ScopedQuerySet):
    """Nobody's but the operator's: whose it was is only what a file says."""

    tenant_path = None


class StrayCopy(IdentifiedModel):
    """A whole copy with a manifest of ours that no row knows. A SuperAdmin may take it into the catalogue."""

    storage = models.ForeignKey(Storage, on_delete=models.CASCADE, related_name="stray_copies")
    place = models.CharField(max_length=400)
    file_bytes = models.BigIntegerField()
    # The manifest beside it: words of a file, shown as such.
    manifest = models.JSONField()
    seen_at = models.DateTimeField()

    objects = StrayCopyQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["storage", "place"], name="stray_copy_once")]

    def __str__(self) -> str:
        return f"{self.place} on {self.storage}"
