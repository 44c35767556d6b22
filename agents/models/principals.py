"""Agents: principals of their own, known by a key that was made on the server and never left it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from agents.models.core import Server
from common.models import IdentifiedModel
from tenants.origin import AGENT
from tenants.querysets import ScopedQuerySet

PUBLIC_KEY_BYTES = 32


class AgentQuerySet(ScopedQuerySet):
    tenant_path = "server__tenant"
    grant_path = "server__user_grants"


class Agent(IdentifiedModel):
    """The program on a server. Its tenant is the server's, now and after a move: there is no second word on it.

    pending -> enrolled -> revoked; a revoked one is enrolled again only with another key. quarantined: it may be on two
    machines at once, and begins nothing until a person has decided. It is the `user` of requests below /agent/, and
    reaches nothing through `for_user`: it has no `is_active`.
    """

    class Status(models.TextChoices):
        PENDING = "pending", "waits for approval"
        ENROLLED = "enrolled", "enrolled"
        QUARANTINED = "quarantined", "in quarantine"
        REVOKED = "revoked", "revoked"

    server = models.OneToOneField(Server, on_delete=models.CASCADE, related_name="agent")
    name = models.CharField(max_length=128)
    # Ed25519, 32 bytes. Requests are signed with it; manifests are signed with another key.
    public_key = models.BinaryField(unique=True)
    status = models.CharField(max_length=12, choices=Status, default=Status.PENDING)
    last_seen_at = models.DateTimeField(null=True, blank=True)
    # Since when nothing was heard of it; set once people were told, empty again when it came back.
    silent_since = models.DateTimeField(null=True, blank=True)
    version = models.CharField(max_length=64, blank=True)
    # What it says of itself, without control characters. Words of another machine: never more than shown.
    health = models.CharField(max_length=2048, blank=True)
    health_code = models.CharField(max_length=64, blank=True)
    # Its machine as it was enrolled: a hash that stays with a machine, and what people read.
    machine = models.CharField(max_length=128, blank=True)
    facts = models.JSONField(default=dict, blank=True)
    # The file systems that it found, as it told them last: the fields of `agents.agent_messages.TreeFacts`.
    trees = models.JSONField(default=list, blank=True)
    # Of its last poll. A number that comes again is a machine that was copied, or put back to an earlier state.
    poll_count = models.BigIntegerField(default=0)
    # What its clock said then, in seconds since 1970: a poll that was long on its way is no copy of the machine.
    poll_time = models.BigIntegerField(default=0)
    quarantine_reason = models.CharField(max_length=200, blank=True)
    # The policy that counts for it: its number only grows, and does when what it says is another.
    policy_number = models.PositiveIntegerField(default=0)
    policy = models.BinaryField(default=b"", blank=True)
    policy_checked_at = models.DateTimeField(null=True, blank=True)
    # The one that it works by, as it told last.
    policy_seen = models.PositiveIntegerField(default=0)
    # The release that it was offered, when, whether it came back with it, and the newest that it could not take.
    release = models.ForeignKey("agents.Release", on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    release_offered_at = models.DateTimeField(null=True, blank=True)
    release_taken = models.BooleanField(default=False)
    release_failed = models.PositiveIntegerField(default=0)

    objects = AgentQuerySet.as_manager()

    is_authenticated = True
    is_anonymous = False
    actor_kind = AGENT

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["pending", "enrolled", "quarantined", "revoked"]), name="agent_status_known"
            ),
        ]
        indexes = [
            models.Index(fields=["name", "id"], name="agent_by_name"),
            models.Index(fields=["last_seen_at", "id"], name="agent_by_last_seen"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def shown_state(self) -> str:
        """The status as a person reads it: one that is enrolled may be silent."""
        return "silent" if self.silent_since is not None else str(self.status)


class AgentNonce(models.Model):
    """A request that was accepted, and is not accepted again. Forgotten when its time stamp is too old anyway."""

    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="nonces")
    nonce = models.CharField(max_length=64)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["agent", "nonce"], name="agent_nonce_once")]

    def __str__(self) -> str:
        return f"{self.agent_id} until {self.expires_at:%H:%M:%S}"
