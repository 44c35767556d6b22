"""Webhooks, subscriptions, what was sent, and what there is to be told of."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.api import READ, ApiView, KeysetPaging, ScopedViewSet, by_boolean, by_choice, by_id, times
from tenants.models import OutboxMessage, Subscription, Webhook
from tenants.notices import services
from tenants.notices.events import CATALOGUE, to_subscribe
from tenants.notices.serializers import (
    DeliverySerializer,
    EventKindSerializer,
    NewSubscriptionSerializer,
    NewWebhookSerializer,
    SubscriptionChangeSerializer,
    SubscriptionSerializer,
    WebhookChangeSerializer,
    WebhookSecretSerializer,
    WebhookSerializer,
)
from tenants.roles import Action


class WebhookViewSet(ScopedViewSet):
    queryset = Webhook.objects.order_by("label", "pk")
    serializer_class = WebhookSerializer
    role_actions = {
        **READ,
        "create": Action.CREATE,
        "partial_update": Action.EDIT,
        "destroy": Action.DELETE,
        "test": Action.RUN,
        "rotate_secret": Action.EDIT,
    }
    # Their answers hold a secret: they are not kept for a repeated request.
    secret_actions = frozenset({"create", "rotate_secret"})
    filters = {"tenant": by_id("tenant", none=True), "status": by_choice("status", Webhook.Status.values)}
    search_fields = ("label",)
    ordering_fields = ("label", "created_at")
    etag_fields = ("label", "url", "events", "severity", "status")

    @extend_schema(request=NewWebhookSerializer, responses={201: WebhookSecretSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        """Set up a webhook. The answer holds its secret, which is not shown again."""
        webhook, secret = services.add_webhook(actor=request.user, **self.read_body(NewWebhookSerializer))
        return _secret_response(webhook, secret, status=201)

    @extend_schema(request=WebhookChangeSerializer, responses={200: WebhookSerializer})
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change it, pause it, or switch it on again after it was switched off for its failures."""
        changes = self.read_body(WebhookChangeSerializer, partial=True)
        webhook = services.change_webhook(self.get_object(), changes=changes, actor=request.user)
        return self.answer(webhook)

    @extend_schema(request=None, responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        services.remove_webhook(self.get_object(), actor=request.user)
        return Response(status=204)

    @extend_schema(request=None, responses={202: DeliverySerializer})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: str) -> Response:
        """Send the event `notice.test`; what came of it is in the delivery."""
        message = services.send_test(self.get_object(), actor=request.user, now=timezone.now())
        return Response(DeliverySerializer(message, context=self.get_serializer_context()).data, status=202)

    @extend_schema(request=None, responses={200: WebhookSecretSerializer})
    @action(detail=True, methods=["post"], url_path="rotate-secret")
    def rotate_secret(self, request: Request, pk: str) -> Response:
        """A new secret. For a day what is sent carries the signatures of both."""
        webhook = self.get_object()
        return _secret_response(webhook, services.rotate_secret(webhook, actor=request.user, now=timezone.now()))


def _secret_response(webhook: Webhook, secret: str, *, status: int = 200) -> Response:
    shown = WebhookSecretSerializer({"webhook": webhook.pk, "secret": secret})
    headers = {"Cache-Control": "no-store", "Location": f"/api/v1/webhooks/{webhook.pk}/"}
    return Response(shown.data, status=status, headers=headers)


class SubscriptionViewSet(ScopedViewSet):
    """E-mail: the caller's own subscriptions, and those of addresses of the tenants that he administers."""

    queryset = Subscription.objects.order_by("created_at", "pk")
    serializer_class = SubscriptionSerializer
    # Everybody may subscribe himself; whether he may subscribe an address is for the service to say.
    role_actions = {
        **READ,
        "create": Action.VIEW,
        "partial_update": Action.EDIT,
        "destroy": Action.DELETE,
    }
    filters = {"tenant": by_id("tenant", none=True), "active": by_boolean("active")}
    ordering_fields = ("created_at",)
    etag_fields = ("events", "severity", "active")

    @extend_schema(request=NewSubscriptionSerializer, responses={201: SubscriptionSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        row = services.add_subscription(actor=request.user, **self.read_body(NewSubscriptionSerializer))
        return self.answer(row, status=201, location=f"/api/v1/subscriptions/{row.pk}/")

    @extend_schema(request=SubscriptionChangeSerializer, responses={200: SubscriptionSerializer})
    def partial_update(self, request: Request, pk: str) -> Response:
        changes = self.read_body(SubscriptionChangeSerializer, partial=True)
        return self.answer(services.change_subscription(self.get_object(), changes=changes, actor=request.user))

    @extend_schema(request=None, responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        services.remove_subscription(self.get_object(), actor=request.user)
        return Response(status=204)


class DeliveryViewSet(ScopedViewSet):
    """What was sent and what waits, of the webhooks and subscriptions that the caller sees."""

    queryset = OutboxMessage.objects.select_related("event").order_by("-created_at", "-pk")
    serializer_class = DeliverySerializer
    pagination_class = KeysetPaging
    role_actions = {**READ, "retry": Action.RUN}
    filters = {
        "webhook": by_id("webhook"),
        "subscription": by_id("subscription"),
        "state": by_choice("state", OutboxMessage.State.values),
        "kind": by_choice("kind", OutboxMessage.Kind.values),
        **times("created", "created_at"),
    }

    @extend_schema(request=None, responses={202: DeliverySerializer})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def retry(self, request: Request, pk: str) -> Response:
        """Send what was given up once more."""
        return self.answer(services.send_again(self.get_object(), actor=request.user, now=timezone.now()), status=202)


class EventKindView(ApiView):
    """What there is to be told of."""

    http_method_names = ["get", "head"]

    @extend_schema(responses=EventKindSerializer(many=True), operation_id="events_list")
    def get(self, request: Request) -> Response:
        by_webhook = set(to_subscribe(by_webhook=True))
        rows = [
            {
                "code": code,
                "severity": int(kind.severity),
                "audience": str(kind.audience),
                "text": kind.text,
                "facts": list(kind.facts),
                "recovers": sorted(kind.recovers),
                "by_webhook": code in by_webhook,
            }
            for code, kind in CATALOGUE.items()
            if code in set(to_subscribe(by_webhook=False))
        ]
        return Response(EventKindSerializer(rows, many=True).data)
