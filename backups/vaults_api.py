"""Removing vaults."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from backups.remains import known_remains_of_vault
from backups.reports_api import VaultViewSet as PlainVaultViewSet
from backups.vault_removal import request_vault_removal, undo_vault_removal, uses_of_vault
from tenants.roles import Action
from tenants.serializers import BodySerializer, ReadSerializer, UtcDateTimeField
from tenants.sign_in.confirming import require_confirmed
from vaults.models import Vault, VaultDeletion


class VaultRemovalOrderSerializer(BodySerializer):
    """`confirmation` is the name of the vault."""

    confirmation = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class VaultRemainsSerializer(serializers.Serializer[Any]):
    backups = serializers.IntegerField()
    objects = serializers.IntegerField()
    size_bytes = serializers.IntegerField()
    last_lock_ends = UtcDateTimeField(allow_null=True)
    counted_at = UtcDateTimeField(
        allow_null=True,
        help_text="When it was counted, where there is too much to count it for each request; null: now.",
    )


class VaultDeletionSerializer(ReadSerializer):
    requested_by = serializers.CharField(source="requested_by_name", read_only=True)

    class Meta:
        model = VaultDeletion
        fields = ("requested_by", "reason", "requested_at", "undo_until")
        read_only_fields = fields


class VaultRemovalStateSerializer(serializers.Serializer[Any]):
    """`removal` is null while none was asked for. `uses` says what keeps the vault from being removed."""

    removal = VaultDeletionSerializer(allow_null=True)
    uses = serializers.ListField(child=serializers.CharField())
    remains = VaultRemainsSerializer()


class VaultViewSet(PlainVaultViewSet):
    role_actions = {
        **PlainVaultViewSet.role_actions,
        "removal": Action.VIEW,
        "request_removal": Action.DELETE,
        "undo_removal": Action.DELETE,
    }

    @extend_schema(responses=VaultRemovalStateSerializer)
    @action(detail=True, filter_backends=[], pagination_class=None)
    def removal(self, request: Request, pk: str) -> Response:
        """Whether it is being removed, and what would keep it from that."""
        return self._removal_state(self.get_object())

    @extend_schema(request=VaultRemovalOrderSerializer, responses={202: VaultRemovalStateSerializer})
    @removal.mapping.post
    @transaction.atomic
    def request_removal(self, request: Request, pk: str) -> Response:
        """Nothing new goes in from now on; what is left goes after seven days, and until then it can be undone."""
        vault, body = self.get_object(), self.read_body(VaultRemovalOrderSerializer)
        require_confirmed(request)
        request_vault_removal(vault=vault, actor=request.user, now=timezone.now(), **body)
        return self._removal_state(vault, status=202)

    @extend_schema(request=None, responses=VaultRemovalStateSerializer)
    @action(detail=True, methods=["post"], url_path="undo-removal")
    @transaction.atomic
    def undo_removal(self, request: Request, pk: str) -> Response:
        """Within the seven days: the vault is as it was."""
        vault = self.get_object()
        undo_vault_removal(vault=vault, actor=request.user, now=timezone.now())
        return self._removal_state(vault)

    def _removal_state(self, vault: Vault, *, status: int = 200) -> Response:
        deletion = VaultDeletion.objects.filter(vault=vault).first()
        shown = {"removal": deletion, "uses": uses_of_vault(vault), "remains": known_remains_of_vault(vault)}
        return Response(VaultRemovalStateSerializer(shown).data, status=status)
