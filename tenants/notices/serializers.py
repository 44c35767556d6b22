"""Webhooks, subscriptions and deliveries as JSON. Severities as words; the secret of a webhook once and never again."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from tenants.models import OutboxMessage, Subscription, Tenant, Webhook
from tenants.notices.events import Audience, Severity, to_subscribe
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


def _events_schema(*, by_webhook: bool) -> dict[str, Any]:
    codes = sorted(to_subscribe(by_webhook=by_webhook))
    return {"type": "array", "items": {"type": "string", "enum": codes}, "maxItems": 50}


class EventListField(serializers.ListField):
    """Codes of events; an empty list is all of them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(child=serializers.CharField(max_length=40), max_length=50, **options)


@extend_schema_field(_events_schema(by_webhook=True))
class WebhookEventsField(EventListField):
    """Of those that are sent to webhooks."""


@extend_schema_field(_events_schema(by_webhook=False))
class MailEventsField(EventListField):
    """Of those that are sent by mail."""


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


@extend_schema_field({"type": "string", "format": "uri", "pattern": "^https://[!-~]+$", "maxLength": 500})
class TargetField(serializers.CharField):
    """An address that may be called: `https`, and none of the operator's own networks."""


@extend_schema_field({"type": "string", "anyOf": [{"format": "email"}, {"maxLength": 0}], "maxLength": 254})
class MailAddressField(serializers.CharField):
    """Empty: the caller's own."""


class NewWebhookSerializer(BodySerializer):
    """Without a tenant it is the installation's, which a SuperAdmin sets up."""

    tenant = ScopedField(queryset=Tenant.objects.all(), required=False, allow_null=True, default=None)
    label = serializers.CharField(max_length=100)
    url = TargetField(max_length=500)
    events = WebhookEventsField(default=list)
    severity = SeverityField(default=int(Severity.INFO))


class WebhookChangeSerializer(BodySerializer):
    label = serializers.CharField(max_length=100, required=False)
    url = TargetField(max_length=500, required=False)
    events = WebhookEventsField(required=False)
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
    address = MailAddressField(max_length=254, required=False, default="", allow_blank=True)
    events = MailEventsField(default=list)
    severity = SeverityField(default=int(Severity.WARNING))


class SubscriptionChangeSerializer(BodySerializer):
    events = MailEventsField(required=False)
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
