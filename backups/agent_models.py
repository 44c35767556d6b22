"""Restores that were asked for at a server, by its agent, and that a person has to confirm."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from django.db import models
from django.db.models import Q

from agents.models import Agent
from common.models import IdentifiedModel
from tenants.models import Person
from tenants.querysets import ScopedQuerySet

if TYPE_CHECKING:
    from backups.models import Backup, Job


class AskedRestoreQuerySet(ScopedQuerySet):
    tenant_path = "agent__server__tenant"
    grant_path = "agent__server__user_grants"


class AskedRestore(IdentifiedModel):
    """An agent's key alone reads nothing: a person compares the code with the one at the server, and confirms.

    `paths` empty: everything. `target` is a directory on the server. Until it is answered it waits, for an hour.
    """

    class State(models.TextChoices):
        WAITS = "waits", "waits"
        CONFIRMED = "confirmed", "confirmed"
        REFUSED = "refused", "refused"

    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="asked_restores")
    backup: models.ForeignKey[Backup] = models.ForeignKey(
        "backups.Backup", on_delete=models.CASCADE, related_name="asked_restores"
    )
    target = models.CharField(max_length=1000)
    paths = models.JSONField(default=list, blank=True)
    overwrite = models.BooleanField(default=False)
    code = models.CharField(max_length=16)
    state = models.CharField(max_length=10, choices=State, default=State.WAITS)
    expires_at = models.DateTimeField()
    job: models.OneToOneField[Job | None] = models.OneToOneField(
        "backups.Job", on_delete=models.SET_NULL, null=True, blank=True, related_name="asked"
    )
    answered_by = models.ForeignKey(Person, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")

    objects = AskedRestoreQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["waits", "confirmed", "refused"]), name="asked_restore_state_known"
            ),
        ]
        indexes = [models.Index(fields=["state", "expires_at"], name="asked_restore_waiting")]

    def __str__(self) -> str:
        return f"restore {self.code} at {self.agent_id}"

    def shown_state(self, now: datetime) -> str:
        """`waits`, `confirmed`, `refused` or `expired`."""
        return "expired" if self.state == self.State.WAITS and self.expires_at <= now else str(self.state)
