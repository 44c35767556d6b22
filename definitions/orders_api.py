"""Orders of servers with agents. The provider's alone."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.models import ServerOrder
from definitions.orders import described, order_server, send_delivery
from tenants.api import READ, ScopedViewSet, by_id, by_text, times
from tenants.roles import Action
from tenants.serializers import BodySerializer, ReadSerializer


class OrderSerializer(ReadSerializer):
    """With what came of it. `mailed_at` null: the mail could not be sent; send it again."""

    tenant = serializers.UUIDField(source="server.tenant_id", read_only=True)
    tenant_name = serializers.CharField(source="server.tenant.name", read_only=True)
    company = serializers.CharField(source="server.tenant.company.name", read_only=True)
    server_name = serializers.CharField(source="server.name", read_only=True)
    region = serializers.CharField(source="server.region_id", read_only=True)
    vault = serializers.SerializerMethodField(help_text="Its name.")
    vault_region = serializers.SerializerMethodField()
    policy = serializers.SerializerMethodField(help_text="The name of the one that counts for the server.")

    class Meta:
        model = ServerOrder
        fields = (
            *("id", "tenant", "tenant_name", "company", "server", "server_name", "region", "vault", "vault_region"),
            *("policy", "email", "mailed_at", "created_at"),
        )
        read_only_fields = fields

    def get_vault(self, order: ServerOrder) -> str:
        vault = described(order).vault
        return vault.name if vault is not None else ""

    def get_vault_region(self, order: ServerOrder) -> str:
        vault = described(order).vault
        return vault.endpoint.region_id if vault is not None else ""

    def get_policy(self, order: ServerOrder) -> str:
        return str(described(order).policy or "")


class ShortOrderSerializer(OrderSerializer):
    class Meta(OrderSerializer.Meta):
        fields = ("id", "tenant", "tenant_name", "server", "server_name", "region", "email", "mailed_at", "created_at")
        read_only_fields = fields


class NewOrderSerializer(BodySerializer):
    tenant = serializers.CharField(max_length=100, help_text="A tenant's name or title; a new title makes a tenant.")
    email = serializers.CharField(max_length=150, help_text="Who gets the account and the install line.")
    name = serializers.RegexField(
        r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128, help_text="Of the server: its host name, as it calls itself."
    )
    region = serializers.CharField(max_length=16, help_text="Where it stands.")


class OrderViewSet(ScopedViewSet):
    queryset = ServerOrder.objects.select_related("server__tenant__company").order_by("-created_at", "-pk")
    serializer_class = ShortOrderSerializer
    detail_serializer_class = OrderSerializer
    role_actions = {**READ, "create": Action.CREATE, "send_again": Action.EDIT}
    filters = {"tenant": by_id("server__tenant"), "email": by_text("email"), **times("created", "created_at")}
    ordering_fields = ("created_at",)

    @extend_schema(request=NewOrderSerializer, responses={200: OrderSerializer, 201: OrderSerializer})
    def create(self, request: Request) -> Response:
        """Tenant, company, vault, account and policy of a server, and the mail that delivers it. Twice does it once:
        then the answer is 200, and nothing was done. For another region it is 409 `other_region`.
        """
        made = order_server(actor=request.user, now=timezone.now(), **self.read_body(NewOrderSerializer))
        return self._shown(made.order, status=201 if made.is_new else 200)

    @extend_schema(request=None, responses=OrderSerializer)
    @action(detail=True, methods=["post"], url_path="send-again")
    def send_again(self, request: Request, pk: str) -> Response:
        """The mail, with another token and another link. The former ones work no longer."""
        order = self.get_object()
        send_delivery(order=order, actor=request.user, now=timezone.now())
        return self._shown(order)

    def _shown(self, order: ServerOrder, *, status: int = 200) -> Response:
        with transaction.atomic():
            return self.answer(order, status=status)
