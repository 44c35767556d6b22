"""Abstract models shared by all apps."""

from __future__ import annotations

from collections.abc import Collection

from django.core.exceptions import ValidationError
from django.db import models

from common.ids import new_id
from common.text import plain_text_of


class IdentifiedModel(models.Model):
    """Primary key that sorts by creation and tells nothing, and the times of creation and last change."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        """Besides what each field asks: no text holds signs that are not seen."""
        super().clean_fields(exclude=exclude)
        errors = {}
        for field in self._meta.concrete_fields:
            if isinstance(field, models.CharField) and field.name not in (exclude or ()):
                try:
                    plain_text_of(field.name)(getattr(self, field.attname) or "")
                except ValidationError as error:
                    errors[field.name] = error
        if errors:
            raise ValidationError(errors)
