"""What is reported about tenants, servers, disks and vaults: their space, their locks, their alarms."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.api import DiskViewSet as PlainDiskViewSet
from agents.api import ServerViewSet as PlainServerViewSet
from backups.accounting import Usage, usage_of
from backups.figure_models import TenantFigures
from backups.figures import known_usage_of
from backups.lock_coverage import known_coverage_of
from backups.report_serializers import AcknowledgementSerializer, AlarmSerializer, CoverageSerializer, UsageSerializer
from tenants.api import READ, KeysetPaging, ScopedViewSet, by_choice, by_id, by_presence, by_text, times
from tenants.api.filtering import QueryBooleanField
from tenants.roles import Action
from vaults.alarms import acknowledge_alarm
from vaults.api import TenantViewSet as PlainTenantViewSet
from vaults.api import VaultViewSet as PlainVaultViewSet
from vaults.models import Alarm
from vaults.severity import Severity


class UsageMixin:
    """Adds `usage/` to a resource whose objects take up space."""

    @extend_schema(responses=UsageSerializer)
    @action(detail=True, filter_backends=[], pagination_class=None)
    def usage(self, request: Request, pk: str) -> Response:
        """Space in vaults, from the ledger; `counted_at` is null where it was counted at this moment."""
        return Response(UsageSerializer(self.usage_of(self.get_object())).data)

    def usage_of(self, found: Any) -> Usage | TenantFigures:
        return usage_of(found, now=timezone.now())


class TenantViewSet(UsageMixin, PlainTenantViewSet):
    role_actions = {**PlainTenantViewSet.role_actions, "usage": Action.VIEW}

    def usage_of(self, found: Any) -> Usage | TenantFigures:
        return known_usage_of(found, now=timezone.now())


class ServerViewSet(UsageMixin, PlainServerViewSet):
    role_actions = {**PlainServerViewSet.role_actions, "usage": Action.VIEW}


class DiskViewSet(UsageMixin, PlainDiskViewSet):
    role_actions = {**PlainDiskViewSet.role_actions, "usage": Action.VIEW}


class VaultViewSet(PlainVaultViewSet):
    role_actions = {**PlainVaultViewSet.role_actions, "locks": Action.VIEW}

    @extend_schema(responses=CoverageSerializer)
    @action(detail=True, filter_backends=[], pagination_class=None)
    def locks(self, request: Request, pk: str) -> Response:
        """Whether every lock reaches as far as what was promised; of a large vault as the last hourly look found it."""
        return Response(CoverageSerializer(known_coverage_of(self.get_object(), now=timezone.now())).data)


class AlarmViewSet(ScopedViewSet):
    """What is wrong with vaults, now, the worst first; with `cleared=true` also what was, and why it is over."""

    queryset = Alarm.objects.select_related("vault", "acknowledged_by").worst_first()
    serializer_class = AlarmSerializer
    role_actions = {**READ, "acknowledge": Action.EDIT}
    filters: ClassVar[dict[str, Any]] = {
        "tenant": by_id("vault__tenant"),
        "vault": by_id("vault"),
        "severity": by_choice("severity", {severity.name.lower(): int(severity) for severity in Severity}),
        "code": by_text("code"),
        "acknowledged": by_presence("acknowledged_at"),
        "cleared": QueryBooleanField(),
        **times("created", "created_at"),
    }
    search_fields = ("message", "subject", "vault__name")
    ordering_fields = ("created_at", "severity")
    pagination_class = KeysetPaging

    def apply_filters(self, queryset: Any, chosen: dict[str, Any]) -> Any:
        return queryset if chosen.get("cleared") else queryset.standing()

    @extend_schema(request=AcknowledgementSerializer, responses={200: AlarmSerializer})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def acknowledge(self, request: Request, pk: str) -> Response:
        """A SuperAdmin has seen it: off the list of what needs a person. It stands until its cause is gone."""
        alarm, body = self.get_object(), self.read_body(AcknowledgementSerializer)
        acknowledge_alarm(alarm, note=body["note"], actor=request.user, now=timezone.now())
        return self.answer(alarm)
