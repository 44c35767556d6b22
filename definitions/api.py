"""Backup definitions."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from definitions.models import Definition
from definitions.schedule import preview
from definitions.serializers import (
    DefinitionChangeSerializer,
    DefinitionSerializer,
    NewDefinitionSerializer,
    SchedulePreviewSerializer,
    ScheduleSerializer,
)
from definitions.services import EDITABLE, create_definition, delete_definition, update_definition
from tenants.api import (
    READ,
    KeysetPaging,
    ScopedViewSet,
    by_boolean,
    by_choice,
    by_id,
    by_text,
    times,
)
from tenants.roles import Action


class DefinitionViewSet(ScopedViewSet):
    queryset = Definition.objects.select_related("disk__server", "vault", "tenant").order_by("created_at", "pk")
    serializer_class = DefinitionSerializer
    role_actions = {
        **READ,
        "create": Action.CREATE,
        "partial_update": Action.EDIT,
        "destroy": Action.DELETE,
        "preview": Action.VIEW,
    }
    filters = {
        "tenant": by_id("tenant"),
        "server": by_id("disk__server"),
        "disk": by_id("disk"),
        "vault": by_id("vault"),
        "name": by_text("name"),
        "type": by_choice("type", Definition.Type.values),
        "active": by_boolean("active"),
        **times("created", "created_at"),
        **times("next_run", "next_run_at"),
    }
    search_fields = ("name", "description", "disk__server__name")
    ordering_fields = ("created_at", "name")
    pagination_class = KeysetPaging
    etag_fields = tuple(sorted(EDITABLE))

    @extend_schema(request=NewDefinitionSerializer, responses={201: DefinitionSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        body = self.read_body(NewDefinitionSerializer)
        values = {"time_zone": request.user.time_zone, **body}
        definition = create_definition(actor=request.user, now=timezone.now(), **values)
        return self.answer(definition, status=201)

    @extend_schema(request=DefinitionChangeSerializer, responses=DefinitionSerializer)
    @transaction.atomic
    def partial_update(self, request: Request, pk: str) -> Response:
        definition = self.get_object()
        changes = self.read_body(DefinitionChangeSerializer, partial=True)
        run_at_once = changes.pop("run_at_once", False)
        update_definition(
            definition=definition, changes=changes, now=timezone.now(), run_at_once=run_at_once, actor=request.user
        )
        return self.answer(definition)

    def destroy(self, request: Request, pk: str) -> Response:
        delete_definition(definition=self.get_object(), actor=request.user)
        return Response(status=204)

    @extend_schema(request=ScheduleSerializer, responses=SchedulePreviewSerializer)
    @action(detail=False, methods=["post"], filter_backends=[], pagination_class=None)
    def preview(self, request: Request) -> Response:
        """What a schedule means: in words, and its next ten runs."""
        body = self.read_body(ScheduleSerializer)
        zone = body.get("time_zone", request.user.time_zone)
        shown = preview(cron=body["cron"], time_zone=zone, after=timezone.now())
        return Response(SchedulePreviewSerializer(shown).data)
