"""Vaults, keys, and ordering tenants: a tenant may come with its first vault."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.api import READ, ScopedViewSet, by_choice, by_id, by_text, times
from tenants.api import TenantViewSet as ReadOnlyTenantViewSet
from tenants.roles import Action
from tenants.services import create_tenant
from tenants.sign_in.confirming import require_confirmed
from vaults import key_client
from vaults.acceptance import accept_settings
from vaults.models import TenantKey, Vault
from vaults.recovery_keys import check_showable, finish_test, register_customer_key, start_test
from vaults.serializers import (
    AnswerSerializer,
    ChallengeSerializer,
    CustomerKeySerializer,
    RecoveryKeySerializer,
    SettingsAcceptanceSerializer,
    TenantKeySerializer,
    TenantOrderSerializer,
    TenantWithHintSerializer,
    VaultSerializer,
)
from vaults.services import place_vault


class TenantViewSet(ReadOnlyTenantViewSet):
    queryset = ReadOnlyTenantViewSet.queryset.prefetch_related("keys")
    serializer_class = TenantWithHintSerializer
    role_actions = {**READ, "create": Action.CREATE}

    @extend_schema(request=TenantOrderSerializer, responses={201: TenantWithHintSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        order = self.read_body(TenantOrderSerializer)
        tenant = create_tenant(title=order["title"], actor=request.user)
        if "region" in order:
            place_vault(tenant=tenant, region_code=order["region"], actor=request.user)
        return self.answer(tenant, status=201)


class VaultViewSet(ScopedViewSet):
    queryset = Vault.objects.select_related("endpoint").order_by("name")
    serializer_class = VaultSerializer
    filters = {
        "tenant": by_id("tenant"),
        "region": by_text("endpoint__region"),
        "status": by_choice("status", Vault.Status.values),
        **times("created", "created_at"),
    }
    search_fields = ("name", "bucket")
    ordering_fields = ("name", "created_at")
    role_actions = {**READ, "accept_settings": Action.EDIT}

    @extend_schema(request=SettingsAcceptanceSerializer, responses={200: VaultSerializer})
    @action(detail=True, methods=["post"], url_path="accept-settings")
    @transaction.atomic
    def accept_settings(self, request: Request, pk: str) -> Response:
        """Accept the changed settings of the bucket, with a reason that is kept; refused while they are too weak."""
        vault, body = self.get_object(), self.read_body(SettingsAcceptanceSerializer)
        accept_settings(vault, digest=body["digest"], reason=body["reason"], actor=request.user, now=timezone.now())
        return self.answer(vault)


class TenantKeyViewSet(ScopedViewSet):
    """Root keys of tenants: what new backups are sealed to, and the recovery key that opens them."""

    queryset = TenantKey.objects.select_related("tenant__catalogue_key").order_by("-created_at", "-pk")
    serializer_class = TenantKeySerializer
    filters = {
        "tenant": by_id("tenant"),
        "status": by_choice("status", TenantKey.Status.values),
        "mode": by_choice("mode", TenantKey.Mode.values),
        **times("created", "created_at"),
    }
    ordering_fields = ("created_at",)
    secret_actions = frozenset({"show", "test"})
    role_actions = {
        **READ,
        "create": Action.CREATE,
        "show": Action.EDIT,
        "test": Action.EDIT,
        "answer_test": Action.EDIT,
        "rotate": Action.EDIT,
    }

    @extend_schema(request=CustomerKeySerializer, responses={201: TenantKeySerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        """Register the customer's own key. It comes into use when its test is answered."""
        require_confirmed(request)
        order = self.read_body(CustomerKeySerializer)
        key = register_customer_key(order["tenant"], public_key=order["public_key"], actor=request.user)
        return self.answer(key, status=201)

    @extend_schema(request=None, responses={200: RecoveryKeySerializer})
    @action(detail=True, methods=["post"])
    def show(self, request: Request, pk: str) -> Response:
        """The recovery key of a managed key, once."""
        key = self.get_object()
        require_confirmed(request)
        check_showable(key)
        text = key_client.show_recovery_key(key, person=request.user)
        return Response({"recovery_key": text}, headers={"Cache-Control": "no-store"})

    @extend_schema(request=None, responses={200: ChallengeSerializer})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: str) -> Response:
        """Begin the test of a recovery key; the answer shows that what was printed works."""
        return Response({"challenge": start_test(self.get_object())}, headers={"Cache-Control": "no-store"})

    @extend_schema(request=AnswerSerializer, responses={200: TenantKeySerializer})
    @action(detail=True, methods=["post"], url_path="answer")
    def answer_test(self, request: Request, pk: str) -> Response:
        """End the test. A customer's key comes into use with the right answer."""
        key, body = self.get_object(), self.read_body(AnswerSerializer)
        finish_test(key, answer=body["answer"], actor=request.user, now=timezone.now())
        return self.answer(key)

    @extend_schema(request=None, responses={201: TenantKeySerializer})
    @action(detail=True, methods=["post"])
    def rotate(self, request: Request, pk: str) -> Response:
        """Replace a managed key that is in use: at once for new backups, and for earlier ones step by step."""
        key = self.get_object()
        require_confirmed(request)
        new = key_client.rotate_key(key, person=request.user)
        return self.answer(TenantKey(pk=new), status=201)
