"""Copies that were found on storages and that the catalogue does not know. SuperAdmins only."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.models import Storage
from backups.copies.importing import import_copy, request_comparison
from backups.models import StrayCopy
from backups.serializers import BackupDetailSerializer
from tenants.api import READ, ScopedViewSet, by_id
from tenants.models import Tenant
from tenants.roles import Action
from tenants.serializers import BodySerializer, ReadSerializer, ScopedField


class StrayCopySerializer(ReadSerializer):
    manifest = serializers.JSONField(read_only=True, help_text="What lies beside the copy; words of a file.")

    class Meta:
        model = StrayCopy
        fields = ("id", "storage", "place", "file_bytes", "manifest", "seen_at", "created_at")
        read_only_fields = fields


class ImportSerializer(BodySerializer):
    tenant = ScopedField(queryset=Tenant.objects.all(), help_text="Whose backup it is to be.")


class ComparisonSerializer(BodySerializer):
    storage = ScopedField(queryset=Storage.objects.select_related("node"))


class StrayCopyViewSet(ScopedViewSet):
    """Whole copies with a manifest of ours that no backup of the catalogue knows."""

    queryset = StrayCopy.objects.select_related("storage__node").order_by("-created_at", "-pk")
    serializer_class = StrayCopySerializer
    role_actions = {**READ, "take_in": Action.EDIT, "compare": Action.CREATE}
    filters: ClassVar[dict[str, Any]] = {"storage": by_id("storage")}

    @extend_schema(request=ImportSerializer, responses={201: BackupDetailSerializer})
    @action(detail=True, methods=["post"], url_path="import")
    @transaction.atomic
    def take_in(self, request: Request, pk: str) -> Response:
        """Make it a backup of a tenant. Its file is read again by the next scheduled check."""
        stray = self.get_object()
        tenant = self.read_body(ImportSerializer)["tenant"]
        backup = import_copy(stray=stray, tenant=tenant, actor=request.user, now=timezone.now())
        return Response(BackupDetailSerializer(backup, context=self.get_serializer_context()).data, status=201)

    @extend_schema(request=ComparisonSerializer, responses={202: None})
    @action(detail=False, methods=["post"], filter_backends=[], pagination_class=None)
    def compare(self, request: Request) -> Response:
        """Have the node of a storage compare it with the catalogue now; it does so each hour by itself."""
        request_comparison(storage=self.read_body(ComparisonSerializer)["storage"], actor=request.user)
        return Response(status=202)
