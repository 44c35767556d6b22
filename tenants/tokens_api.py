"""Tokens of the API: everybody's own; a SuperAdmin sees and ends those of others, too. A secret is in no list."""

from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.api import READ, ScopedViewSet, by_choice, by_id, by_presence, times
from tenants.api.guard import refuse_beyond_token
from tenants.models import ApiToken, Tenant
from tenants.roles import Action
from tenants.serializers import BodySerializer, ReadSerializer, ScopedField
from tenants.sign_in.confirming import require_confirmed
from tenants.token_limits import Scope
from tenants.tokens import MOST_NETWORKS, NewToken, create_token, end_token, rotate_token


class TokenSerializer(ReadSerializer):
    class Meta:
        model = ApiToken
        fields = (
            "id",
            "person",
            "kind",
            "label",
            "key",
            "scope",
            "may_restore",
            "tenant",
            "networks",
            "created_at",
            "expires_at",
            "disabled_at",
            "last_used_at",
            "last_used_address",
        )
        read_only_fields = fields
        extra_kwargs: ClassVar[dict[str, Any]] = {
            "key": {"help_text": "The first half of the token, by which it is known in logs. No secret."}
        }


class ShownTokenSerializer(TokenSerializer):
    """The answer that shows a secret, once."""

    token = serializers.CharField(help_text="The token. It is shown this once.")

    class Meta(TokenSerializer.Meta):
        fields = (*TokenSerializer.Meta.fields, "token")
        read_only_fields = fields


class DaysSerializer(BodySerializer):
    """`days` goes as far as this installation lets it."""

    def get_fields(self) -> dict[str, Any]:
        most = settings.CONFIG.token_max_days
        return {"days": serializers.IntegerField(min_value=1, max_value=most, required=False), **super().get_fields()}


class NewTokenSerializer(DaysSerializer):
    """Without `tenant`: all tenants of its person. Without `networks`: from everywhere."""

    label = serializers.CharField(max_length=100)
    scope = serializers.ChoiceField(choices=[str(scope) for scope in Scope], default=str(Scope.READ))
    may_restore = serializers.BooleanField(default=False)
    tenant = ScopedField(queryset=Tenant.objects.all(), required=False, allow_null=True)
    networks = serializers.ListField(
        child=serializers.CharField(max_length=50, help_text="Such as `192.0.2.0/24` or `2001:db8::/32`."),
        max_length=MOST_NETWORKS,
        required=False,
    )


class ApiTokenViewSet(ScopedViewSet):
    """To make a token or to give it another secret, a session must be fresh; a token makes none that reaches further
    than itself."""

    queryset = ApiToken.objects.order_by("-created_at", "-pk")
    serializer_class = TokenSerializer
    # Everybody makes his own, whatever his roles are: what a token must allow for it is asked below.
    role_actions = {**READ, "create": Action.VIEW, "rotate": Action.EDIT, "destroy": Action.DELETE}
    filters = {
        "person": by_id("person"),
        "kind": by_choice("kind", ApiToken.Kind.values),
        "scope": by_choice("scope", [str(scope) for scope in Scope]),
        "tenant": by_id("tenant", none=True),
        "disabled": by_presence("disabled_at"),
        **times("created", "created_at"),
        **times("expires", "expires_at"),
    }
    search_fields = ("label", "key")
    ordering_fields = ("created_at", "expires_at")
    secret_actions = frozenset({"create", "rotate"})

    @extend_schema(request=NewTokenSerializer, responses={201: ShownTokenSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        refuse_beyond_token(request, Action.CREATE)
        require_confirmed(request)
        body = self.read_body(NewTokenSerializer)
        wanted = NewToken(**{**body, "scope": Scope(body["scope"])})
        token, text = create_token(person=request.user, wanted=wanted, now=timezone.now(), by=request.auth)
        return self._shown(token, text, status=201)

    @extend_schema(request=DaysSerializer, responses=ShownTokenSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def rotate(self, request: Request, pk: str) -> Response:
        """Another secret and another end. The former secret is worth nothing at once."""
        token = self.get_object()
        require_confirmed(request)
        days = self.read_body(DaysSerializer).get("days")
        text = rotate_token(token=token, actor=request.user, now=timezone.now(), days=days, by=request.auth)
        return self._shown(ApiToken.objects.get(pk=token.pk), text)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """End it. It stays in the list, with the time at which it ended."""
        end_token(token=self.get_object(), actor=request.user, now=timezone.now())
        return Response(status=204)

    def _shown(self, token: ApiToken, text: str, *, status: int = 200) -> Response:
        return Response({**TokenSerializer(token).data, "token": text}, status=status)
