"""Who is told of what, and what is still to be told. The events themselves are in `tenants.notices.events`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from django.core.validators import validate_email
from django.db import models
from django.db.models import Q

from common.models import IdentifiedModel
from tenants.models.core import Person, Tenant
from tenants.querysets import ScopedQuerySet, values_of
from tenants.roles import Action, Role, actions_of

LONGEST_ADDRESS = 254
_SEVERITIES = [(1, "info"), (2, "warning"), (3, "critical")]


class NoticeKey(IdentifiedModel):
    """The public half of the sender's key (X25519): what only the sender may read is sealed to it.

    The sender writes it when it starts; the newest row is the one in use.
    """

    public_key = models.BinaryField(unique=True)

    def __str__(self) -> str:
        return str(self.pk)


class WebhookQuerySet(ScopedQuerySet):
    tenant_path = "tenant"


class Webhook(IdentifiedModel):
    """An address of a tenant's own program. Without a tenant it is the installation's and is told of every tenant."""

    class Status(models.TextChoices):
        ACTIVE = "active", "active"
        PAUSED = "paused", "paused by a person"
        DISABLED = "disabled", "switched off after failures"

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, blank=True, related_name="webhooks")
    label = models.CharField(max_length=100)
    url = models.CharField(max_length=500)
    # Codes of events; empty: all of them.
    events = models.JSONField(default=list, blank=True)
    severity = models.PositiveSmallIntegerField(choices=_SEVERITIES, default=1)
    # Sealed to the sender's key: the process that faces people cannot read what it once wrote.
    sealed_secret = models.TextField()
    # The one before, good until `previous_until`, so that a receiver has the time to change over.
    sealed_previous = models.TextField(blank=True)
    previous_until = models.DateTimeField(null=True, blank=True)
    status = models.CharField(max_length=8, choices=Status, default=Status.ACTIVE)
    status_reason = models.CharField(max_length=300, blank=True)
    consecutive_failures = models.PositiveIntegerField(default=0)
    # After a failure nothing is sent before this; the turn of an endpoint comes after those that waited longer.
    not_before = models.DateTimeField(null=True, blank=True)
    tried_at = models.DateTimeField(null=True, blank=True)
    succeeded_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(Person, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")

    objects = WebhookQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["active", "paused", "disabled"]), name="webhook_status_known"
            ),
            models.CheckConstraint(condition=Q(severity__in=[1, 2, 3]), name="webhook_severity_known"),
        ]

    def __str__(self) -> str:
        return self.label


class SubscriptionQuerySet(ScopedQuerySet):
    """A person's own subscription is his and a SuperAdmin's; one of an address is its tenant's administrators'."""

    tenant_path = "tenant"

    def reachable_by(self, person: Any, action: Action) -> Self:
        if person.is_superuser:
            return self
        # Whoever may sign in may look after his own: what he is told of is only what he can see.
        own = Q(person=person)
        if action in actions_of(Role.DC_ADMIN, "subscription"):
            own |= Q(person=None, tenant__in=person.administered_tenants())
        return self.filter(own)


class Subscription(IdentifiedModel):
    """E-mail to a person, or to an address of a tenant (a team's). Without a tenant: of all that he can see.

    An address without a tenant is the installation's and is told of everything.
    """

    person = models.ForeignKey(
        Person, on_delete=models.CASCADE, null=True, blank=True, related_name="notice_subscriptions"
    )
    address = models.CharField(max_length=LONGEST_ADDRESS, blank=True, validators=[validate_email])
    tenant = models.ForeignKey(
        Tenant, on_delete=models.CASCADE, null=True, blank=True, related_name="notice_subscriptions"
    )
    events = models.JSONField(default=list, blank=True)
    severity = models.PositiveSmallIntegerField(choices=_SEVERITIES, default=2)
    active = models.BooleanField(default=True)
    created_by = models.ForeignKey(Person, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")

    objects = SubscriptionQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(person__isnull=False, address="") | (Q(person=None) & ~Q(address="")),
                name="subscription_one_receiver",
            ),
            models.CheckConstraint(condition=Q(severity__in=[1, 2, 3]), name="subscription_severity_known"),
        ]

    def __str__(self) -> str:
        return self.address or str(self.person)

    @property
    def is_installation_wide(self) -> bool:
        return self.person_id is None and self.tenant_id is None


class NoticeEvent(IdentifiedModel):
    """Something that happened and that somebody is told of. Never altered but for `open`."""

    code = models.CharField(max_length=40)
    severity = models.PositiveSmallIntegerField(choices=_SEVERITIES)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, blank=True, related_name="notice_events")
    # The person whom it is about, of events that are nobody else's business.
    person = models.ForeignKey(Person, on_delete=models.CASCADE, null=True, blank=True, related_name="notice_events")
    # `app.Model` and key: what a receiver must be able to see.
    subject_model = models.CharField(max_length=80)
    subject_id = models.CharField(max_length=40)
    subject_name = models.CharField(max_length=200)
    facts = models.JSONField(default=dict)
    at = models.DateTimeField()
    # What went wrong, as one text; while `open` nobody said that it is over.
    cause = models.CharField(max_length=100, blank=True)
    open = models.BooleanField(default=False)
    recovers = models.BooleanField(default=False)

    class Meta:
        indexes = [models.Index(fields=["cause"], condition=Q(open=True), name="notice_event_open")]
        constraints = [models.CheckConstraint(condition=Q(severity__in=[1, 2, 3]), name="notice_severity_known")]

    def __str__(self) -> str:
        return f"{self.code} {self.subject_name}"


class OutboxQuerySet(ScopedQuerySet):
    """Whoever can see the receiver can see what was sent to it."""

    tenant_path = "event__tenant"

    def reachable_by(self, person: Any, action: Action) -> Self:
        if person.is_superuser:
            return self
        if action not in actions_of(Role.DC_ADMIN, "outboxmessage"):
            return self.none()
        tenants = values_of(person.administered_tenants(), whose=person)
        # Values, not joins: an OR over joined tables is a walk over every message.
        webhooks = values_of(Webhook.objects.filter(tenant__in=tenants), whose=person)
        receivers = Q(person=None, tenant__in=tenants) | Q(person=person)
        subscriptions = values_of(Subscription.objects.filter(receivers), whose=person)
        return self.filter(Q(webhook__in=webhooks) | Q(subscription__in=subscriptions) | Q(person=person))

    def due(self, now: datetime) -> Self:
        """Those that wait for their time, and those whose sender was lost."""
        waiting = Q(state=OutboxMessage.State.PENDING, next_try_at__lte=now)
        return self.filter(waiting | Q(state=OutboxMessage.State.SENDING, lease_until__lte=now))


class OutboxMessage(IdentifiedModel):
    """One event for one receiver: a webhook, a subscription, or the person whom it is about.

    It is written with what it tells of, in one transaction. A sender claims it by a conditional update: `claim` is his
    alone, so of two senders one ends it. It may reach its receiver more than once, and never counts as done twice.
    """

    class Kind(models.TextChoices):
        EMAIL = "email", "e-mail"
        WEBHOOK = "webhook", "webhook"

    class State(models.TextChoices):
        PENDING = "pending", "waits"
        SENDING = "sending", "is being sent"
        DONE = "done", "delivered"
        DEAD = "dead", "given up"

    event = models.ForeignKey(NoticeEvent, on_delete=models.CASCADE, related_name="messages")
    kind = models.CharField(max_length=8, choices=Kind)
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, null=True, blank=True, related_name="messages")
    subscription = models.ForeignKey(
        Subscription, on_delete=models.CASCADE, null=True, blank=True, related_name="messages"
    )
    person = models.ForeignKey(Person, on_delete=models.CASCADE, null=True, blank=True, related_name="notices")
    state = models.CharField(max_length=8, choices=State, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField()
    # After that it is not tried any more.
    give_up_at = models.DateTimeField()
    claim = models.UUIDField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    status_code = models.PositiveSmallIntegerField(null=True, blank=True)
    seconds = models.FloatField(null=True, blank=True)
    last_error = models.CharField(max_length=300, blank=True)
    # The beginning of what a webhook answered, as plain text.
    answer = models.CharField(max_length=1024, blank=True)
    # One mail may carry several messages: they share this.
    mail_id = models.UUIDField(null=True, blank=True)

    objects = OutboxQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="webhook", webhook__isnull=False, subscription=None, person=None)
                | Q(kind="email", webhook=None, subscription__isnull=False, person=None)
                | Q(kind="email", webhook=None, subscription=None, person__isnull=False),
                name="outbox_one_receiver",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["pending", "sending", "done", "dead"]), name="outbox_state_known"
            ),
            models.CheckConstraint(
                condition=Q(state="sending", claim__isnull=False, lease_until__isnull=False)
                | (~Q(state="sending") & Q(claim=None, lease_until=None)),
                name="outbox_claim_while_sending",
            ),
            models.UniqueConstraint(fields=["event", "webhook"], name="outbox_once_per_webhook"),
            models.UniqueConstraint(fields=["event", "subscription"], name="outbox_once_per_subscription"),
        ]
        indexes = [
            models.Index(
                fields=["next_try_at"], condition=Q(state__in=["pending", "sending"]), name="outbox_undelivered"
            ),
            models.Index(fields=["-created_at", "-id"], name="outbox_newest"),
            models.Index(fields=["webhook", "-created_at"], name="outbox_of_webhook"),
            models.Index(fields=["subscription", "-finished_at"], name="outbox_of_subscription"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.event_id}"
