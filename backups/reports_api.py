"""What is reported about tenants, servers, disks and vaults: their space, their locks, their alarms."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.api import DiskViewSet as PlainDiskViewSet
from agents.api import ServerViewSet as PlainServerViewSet
from backups.accounting import usage_of
from backups.lock_coverage import coverage_of
from backups.report_serializers import AlarmSerializer, CoverageSerializer, UsageSerializer
from tenants.api import READ, ScopedViewSet
from tenants.roles import Action
from vaults.api import TenantViewSet as PlainTenantViewSet
from vaults.api import VaultViewSet as PlainVaultViewSet
from vaults.models import Alarm


class UsageMixin:
    """Adds `usage/` to a resource whose objects take up space."""

    @extend_schema(responses=UsageSerializer)
    @action(detail=True, filter_backends=[], pagination_class=None)
    def usage(self, request: Request, pk: str) -> Response:
        """Space in vaults, counted from the ledger at this moment."""
        usage = usage_of(self.get_object(), now=timezone.now())  # type: ignore[attr-defined]
        return Response(UsageSerializer(usage).data)


class TenantViewSet(UsageMixin, PlainTenantViewSet):
    role_actions = {**PlainTenantViewSet.role_actions, "usage": Action.VIEW}


class ServerViewSet(UsageMixin, PlainServerViewSet):
    role_actions = {**PlainServerViewSet.role_actions, "usage": Action.VIEW}


class DiskViewSet(UsageMixin, PlainDiskViewSet):
    role_actions = {**PlainDiskViewSet.role_actions, "usage": Action.VIEW}


class VaultViewSet(PlainVaultViewSet):
    role_actions = {**PlainVaultViewSet.role_actions, "locks": Action.VIEW}

    @extend_schema(responses=CoverageSerializer)
    @action(detail=True, filter_backends=[], pagination_class=None)
    def locks(self, request: Request, pk: str) -> Response:
        """Whether every lock reaches as far as what was promised."""
        return Response(CoverageSerializer(coverage_of(self.get_object(), now=timezone.now())).data)


class AlarmViewSet(ScopedViewSet):
    """What is wrong with vaults, now; with `cleared=true` also what was."""

    queryset = Alarm.objects.select_related("vault").order_by("-created_at", "-pk")
    serializer_class = AlarmSerializer
    role_actions = READ
    filters = {"vault": serializers.UUIDField(), "cleared": serializers.BooleanField()}

    def apply_filters(self, queryset: Any, chosen: dict[str, Any]) -> Any:
        with_cleared = chosen.pop("cleared", False)
        return queryset.filter(**chosen) if with_cleared else queryset.standing().filter(**chosen)
