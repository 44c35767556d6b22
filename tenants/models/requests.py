"""What is remembered about requests of the API."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class IdempotencyRecord(models.Model):
    """A request with an Idempotency-Key: under way, or done with the answer that is given again.

    `attempt` grows with each taking over; an earlier attempt that comes back late changes nothing. `replayable` is
    false where the answer held a secret, or was too large: then `body` is empty.
    """

    principal = models.CharField(max_length=80)
    key = models.CharField(max_length=255)
    method = models.CharField(max_length=8)
    path = models.CharField(max_length=2000)
    body_hash = models.CharField(max_length=64)
    attempt = models.PositiveIntegerField(default=1)
    lease_until = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)
    # None as long as it is under way.
    status = models.PositiveSmallIntegerField(null=True, blank=True)
    replayable = models.BooleanField(default=True)
    body = models.TextField(blank=True)
    headers = models.JSONField(default=dict, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["principal", "key"], name="idempotency_key_once_per_principal"),
            models.CheckConstraint(condition=Q(replayable=True) | Q(body=""), name="idempotency_secret_not_kept"),
        ]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"
