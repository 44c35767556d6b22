"""Abstract models shared by all apps."""

from __future__ import annotations

from django.db import models

from common.ids import new_id


class IdentifiedModel(models.Model):
    """Primary key that sorts by creation and tells nothing, and the times of creation and last change."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True
