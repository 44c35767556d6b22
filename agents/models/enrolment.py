"""How a program becomes an agent, and another one: one-time tokens, and releases of the program."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import Q

from agents.models.core import Server
from agents.models.principals import Agent
from common.models import IdentifiedModel
from tenants.models import Person
from tenants.querysets import ScopedQuerySet


class EnrolmentTokenQuerySet(ScopedQuerySet):
    tenant_path = "server__tenant"

    def open(self, now: datetime) -> EnrolmentTokenQuerySet:
        return self.filter(used_at=None, revoked_at=None, expires_at__gt=now)


class EnrolmentToken(IdentifiedModel):
    """The right to become the agent of one server, once. Only the hash of its secret is kept.

    With an expected host, another one that comes with it waits for a person's approval.
    """

    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="enrolment_tokens")
    secret_hash = models.CharField(max_length=64, unique=True)
    expected_host = models.CharField(max_length=255, blank=True)
    expires_at = models.DateTimeField()
    made_by = models.ForeignKey(Person, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    # Who came with it: the same with the same keys gets the same answer again, for an answer may be lost.
    agent = models.ForeignKey(Agent, on_delete=models.SET_NULL, null=True, blank=True, related_name="tokens")
    public_key = models.BinaryField(default=b"", blank=True)
    writer_key = models.BinaryField(default=b"", blank=True)

    objects = EnrolmentTokenQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["server", "-created_at"], name="enrolment_token_of_server")]

    def __str__(self) -> str:
        return f"enrolment token of {self.server_id}"

    def state(self, now: datetime) -> str:
        """`open`, `used`, `revoked` or `expired`."""
        if self.used_at is not None:
            return "used"
        if self.revoked_at is not None:
            return "revoked"
        return "open" if self.expires_at > now else "expired"


class ServerOrderQuerySet(ScopedQuerySet):
    """Orders are the provider's: no way leads from a tenant to them."""


class ServerOrder(IdentifiedModel):
    """A server that was ordered with all that it needs. `key` is the same for the same order: twice does it once."""

    key = models.CharField(max_length=64, unique=True)
    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="orders")
    email = models.EmailField()
    made_by = models.ForeignKey(Person, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    # When the delivery mail left last; None: it could not be sent yet.
    mailed_at = models.DateTimeField(null=True, blank=True)

    objects = ServerOrderQuerySet.as_manager()

    def __str__(self) -> str:
        return f"order of {self.server_id}"


class ReleaseQuerySet(ScopedQuerySet):
    """Of the whole installation: no way leads from a tenant to it."""


class Release(IdentifiedModel):
    """A signed release of the agent program. It is offered to `percent` of the agents, always the same ones first.

    The signature was made where releases are made; nothing here could make one.
    """

    class State(models.TextChoices):
        STAGED = "staged", "offered to nobody"
        OFFERED = "offered", "offered"
        WITHDRAWN = "withdrawn", "withdrawn"

    number = models.PositiveIntegerField(unique=True)
    version = models.CharField(max_length=64)
    file = models.CharField(max_length=128, unique=True)
    manifest = models.BinaryField()
    signature = models.BinaryField()
    state = models.CharField(max_length=10, choices=State, default=State.STAGED)
    percent = models.PositiveSmallIntegerField(default=0)

    objects = ReleaseQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(percent__lte=100), name="release_percent_sane"),
            models.CheckConstraint(
                condition=Q(state__in=["staged", "offered", "withdrawn"]), name="release_state_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.version} ({self.number})"
