"""Webhooks, subscriptions and deliveries as JSON. Severities as words; the secret of a webhook once and never again."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from tenants.models import OutboxMessage, Subscription, Tenant, Webhook
from tenants.notices.events import Audience, Severity
from tenants.serializers import BodySerializer, ReadSerializer, ScopedField

SEVERITY_WORDS = tuple(severity.name.lower() for severity in Severity)


class SeverityField(serializers.ChoiceField):
    """`info`, `warning`, `critical` for 1, 2, 3."""

    def __init__(self, **options: Any) -> None:
        super().__init__(choices=SEVERITY_WORDS, **options)

    def to_internal_value(self, data: Any) -> int:
        return int(Severity[str(super().to_internal_value(data)).upper()])

    def to_representation(self, value: Any) -> str:
        return Severity(value).name.lower()


class EventListField(serializers.ListField):
    """Codes of events; an empty list is all of them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(child=serializers.CharField(max_length=40), max_length=50, **options)


class WebhookSerializer(ReadSerializer):
    events = EventListField()
    severity = SeverityField()

    class Meta:
        model = Webhook
        fields = (
            "id",
            "tenant",
            "label",
            "url",
            "events",
            "severity",
            "status",
            "status_reason",
            "consecutive_failures",
            "tried_at",
            "succeeded_at",
            "previous_until",
            "created_at",
            "changed_at",
        )
        read_only_fields = fields


class NewWebhookSerializer(BodySerializer):
    """Without a tenant it is the installation's, which a SuperAdmin sets up."""

    tenant = ScopedField(queryset=Tenant.objects.all(), required=False, allow_null=True, default=None)
    label = serializers.CharField(max_length=100)
    url = serializers.CharField(max_length=500)
    events = EventListField(default=list)
    severity = SeverityField(default=int(Severity.INFO))


class WebhookChangeSerializer(BodySerializer):
    label = serializers.CharField(max_length=100, required=False)
    url = serializers.CharField(max_length=500, required=False)
    events = EventListField(required=False)
    severity = SeverityField(required=False)
    status = serializers.ChoiceField(choices=[Webhook.Status.ACTIVE.value, Webhook.Status.PAUSED.value], required=False)


class WebhookSecretSerializer(serializers.Serializer[Any]):
    """`secret` signs what is sent, by the Standard Webhooks scheme. It is not shown again."""

    webhook = serializers.UUIDField()
    secret = serializers.CharField()


class SubscriptionSerializer(ReadSerializer):
    events = EventListField()
    severity = SeverityField()
    is_mine = serializers.SerializerMethodField()

    class Meta:
        model = Subscription
        fields = ("id", "tenant", "person", "address", "events", "severity", "active", "is_mine", "created_at")
        read_only_fields = fields

    def get_is_mine(self, row: Subscription) -> bool:
        return bool(row.person_id == self.context["request"].user.pk)


class NewSubscriptionSerializer(BodySerializer):
    """Without an address: to the caller himself. With one: to a team of the tenant, by its administrator."""

    tenant = ScopedField(queryset=Tenant.objects.all(), required=False, allow_null=True, default=None)
    address = serializers.CharField(max_length=254, required=False, default="", allow_blank=True)
    events = EventListField(default=list)
    severity = SeverityField(default=int(Severity.WARNING))


class SubscriptionChangeSerializer(BodySerializer):
    events = EventListField(required=False)
    severity = SeverityField(required=False)
    active = serializers.BooleanField(required=False)


class DeliverySerializer(ReadSerializer):
    event = serializers.CharField(source="event.code", read_only=True)
    event_id = serializers.UUIDField(read_only=True)
    at = serializers.DateTimeField(source="event.at", read_only=True)
    subject = serializers.CharField(source="event.subject_name", read_only=True)

    class Meta:
        model = OutboxMessage
        fields = (
            "id",
            "event",
            "event_id",
            "subject",
            "at",
            "kind",
            "webhook",
            "subscription",
            "state",
            "attempts",
            "next_try_at",
            "finished_at",
            "status_code",
            "seconds",
            "last_error",
            "answer",
            "created_at",
        )
        read_only_fields = fields


class EventKindSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    severity = SeverityField()
    audience = serializers.ChoiceField(choices=[str(audience) for audience in Audience])
    text = serializers.CharField()
    facts = serializers.ListField(child=serializers.CharField())
    recovers = serializers.ListField(child=serializers.CharField())
    by_webhook = serializers.BooleanField()
