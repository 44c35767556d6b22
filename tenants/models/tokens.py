"""What signs in without a browser."""

from __future__ import annotations

from datetime import datetime

from django.db import models

from common.models import IdentifiedModel
from tenants.models.core import Person


class ApiToken(IdentifiedModel):
    """A token for the API. Only its hash is kept; it never exceeds the rights of its person."""

    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="api_tokens")
    label = models.CharField(max_length=100)
    secret_hash = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return self.label

    def is_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now
