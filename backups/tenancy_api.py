"""The life of a tenant and its limits; moves of servers between tenants."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.models import Server
from backups.remains import known_remains_of
from backups.reports_api import ServerViewSet as PlainServerViewSet
from backups.reports_api import TenantViewSet as PlainTenantViewSet
from backups.serializers import JobSerializer
from backups.server_moves import move_server
from backups.server_regions import change_region
from backups.server_states import ServerState, in_state
from backups.services import request_server_backup
from backups.tenancy_serializers import (
    DeletionOrderSerializer,
    DeletionStateSerializer,
    MoveSerializer,
    QuotasSerializer,
    QuotaUseSerializer,
    SuspensionSerializer,
    TenantChangeSerializer,
    TenantEventSerializer,
)
from backups.tenant_removal import request_tenant_deletion, undo_tenant_deletion
from tenants.api import by_id
from tenants.models import Person, Tenant, TenantDeletion, TenantEvent
from tenants.quotas import set_quotas, uses_of
from tenants.roles import Action
from tenants.services import rename_tenant, resume_tenant, suspend_tenant
from tenants.sign_in.confirming import require_confirmed

SHOWN_EVENTS = 200


class TenantViewSet(PlainTenantViewSet):
    role_actions = {
        **PlainTenantViewSet.role_actions,
        "partial_update": Action.EDIT,
        "suspend": Action.EDIT,
        "resume": Action.EDIT,
        "quotas": Action.VIEW,
        "set_quotas": Action.EDIT,
        "events": Action.VIEW,
        "deletion": Action.VIEW,
        "request_deletion": Action.DELETE,
        "undo_deletion": Action.DELETE,
    }
    etag_fields = ("title", "status")

    @extend_schema(request=TenantChangeSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        tenant = self.get_object()
        changes = self.read_body(TenantChangeSerializer, partial=True)
        if "title" in changes:
            rename_tenant(tenant=tenant, title=changes["title"], actor=request.user)
        return self.answer(tenant)

    @extend_schema(request=SuspensionSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def suspend(self, request: Request, pk: str) -> Response:
        """Nothing new is started; what runs ends, restores and reading go on."""
        tenant, body = self.get_object(), self.read_body(SuspensionSerializer)
        suspend_tenant(tenant=tenant, reason=body["reason"], actor=request.user, now=timezone.now())
        return self.answer(tenant)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def resume(self, request: Request, pk: str) -> Response:
        """Schedules go on, with one run for all that was missed."""
        tenant = self.get_object()
        resume_tenant(tenant=tenant, actor=request.user, now=timezone.now())
        return self.answer(tenant)

    @extend_schema(responses=QuotaUseSerializer(many=True))
    @action(detail=True, filter_backends=[], pagination_class=None)
    def quotas(self, request: Request, pk: str) -> Response:
        """Every kind of limit, with what is used at this moment."""
        return Response(QuotaUseSerializer(uses_of(self.get_object()), many=True).data)

    @extend_schema(request=QuotasSerializer, responses=QuotaUseSerializer(many=True))
    @quotas.mapping.patch
    def set_quotas(self, request: Request, pk: str) -> Response:
        tenant, limits = self.get_object(), self.read_body(QuotasSerializer, partial=True)
        set_quotas(tenant=tenant, limits=limits, actor=request.user, now=timezone.now())
        return Response(QuotaUseSerializer(uses_of(tenant), many=True).data)

    @extend_schema(responses=TenantEventSerializer(many=True))
    @action(detail=True, filter_backends=[], pagination_class=None)
    def events(self, request: Request, pk: str) -> Response:
        """How its status changed, the newest first; at most 200."""
        found = TenantEvent.objects.filter(tenant=self.get_object()).order_by("-pk")[:SHOWN_EVENTS]
        return Response(TenantEventSerializer(found, many=True).data)

    @extend_schema(responses=DeletionStateSerializer)
    @action(detail=True, filter_backends=[], pagination_class=None)
    def deletion(self, request: Request, pk: str) -> Response:
        """What remains of the tenant, and until when."""
        return self._deletion_state(self.get_object())

    @extend_schema(request=DeletionOrderSerializer, responses={202: DeletionStateSerializer})
    @deletion.mapping.post
    @transaction.atomic
    def request_deletion(self, request: Request, pk: str) -> Response:
        """Suspended for good at once, and its people lose their rights. For seven days it can be undone."""
        tenant, body = self.get_object(), self.read_body(DeletionOrderSerializer)
        require_confirmed(request)
        request_tenant_deletion(tenant=tenant, actor=request.user, now=timezone.now(), **body)
        return self._deletion_state(tenant, status=202)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], url_path="undo-deletion")
    @transaction.atomic
    def undo_deletion(self, request: Request, pk: str) -> Response:
        """Within the seven days: the tenant is suspended then, with the rights that its people had."""
        tenant = self.get_object()
        undo_tenant_deletion(tenant=tenant, actor=request.user, now=timezone.now())
        return self.answer(tenant)

    def _deletion_state(self, tenant: Tenant, *, status: int = 200) -> Response:
        deletion = TenantDeletion.objects.select_related("tenant").filter(tenant=tenant).first()
        shown = {"deletion": deletion, "remains": known_remains_of(tenant)}
        return Response(DeletionStateSerializer(shown).data, status=status)


class ServerViewSet(PlainServerViewSet):
    role_actions = {**PlainServerViewSet.role_actions, "move": Action.MOVE, "backup_now": Action.RUN}
    filters = {
        **PlainServerViewSet.filters,
        # `none`: those with an agent, or waiting for one.
        "node": by_id("node", none=True),
        "state": serializers.ChoiceField(choices=[str(state) for state in ServerState]),
    }

    def change(self, server: Server, changes: dict[str, Any], *, actor: Person) -> None:
        super().change(server, changes, actor=actor)
        if "region" in changes:
            change_region(server=server, region_code=changes["region"], actor=actor)

    def apply_filters(self, queryset: Any, chosen: dict[str, Any]) -> Any:
        return in_state(queryset, chosen["state"]) if "state" in chosen else queryset

    @extend_schema(request=None, responses={202: JobSerializer(many=True)})
    @action(detail=True, methods=["post"], url_path="backup-now", filter_backends=[], pagination_class=None)
    @transaction.atomic
    def backup_now(self, request: Request, pk: str) -> Response:
        """All disks that an active definition protects, as one run: of one moment, where the driver can do that."""
        jobs = request_server_backup(server=self.get_object(), actor=request.user, now=timezone.now())
        return Response(JobSerializer(jobs, many=True).data, status=202)

    @extend_schema(request=MoveSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def move(self, request: Request, pk: str) -> Response:
        """To another tenant, with definitions and backups. Rights on it end; the next backup is a full one."""
        server, body = self.get_object(), self.read_body(MoveSerializer)
        move_server(server=server, actor=request.user, **body)
        return self.answer(server)
