"""Backup definitions."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
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
from definitions.services import create_definition, delete_definition, update_definition
from tenants.api import READ, ScopedViewSet
from tenants.roles import Action


class DefinitionViewSet(ScopedViewSet):
    queryset = Definition.objects.select_related("disk__server", "vault").order_by("disk__server__name", "name", "pk")
    serializer_class = DefinitionSerializer
    role_actions = {
        **READ,
        "create": Action.CREATE,
        "partial_update": Action.EDIT,
        "destroy": Action.DELETE,
        "preview": Action.VIEW,
    }
    filters = {
        "tenant": serializers.UUIDField(),
        "server": serializers.UUIDField(),
        "disk": serializers.UUIDField(),
        "active": serializers.BooleanField(),
    }

    def apply_filters(self, queryset: Any, chosen: dict[str, Any]) -> Any:
        if "server" in chosen:
            chosen["disk__server"] = chosen.pop("server")
        return queryset.filter(**chosen)

    @extend_schema(request=NewDefinitionSerializer, responses={201: DefinitionSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        body = self.read_body(NewDefinitionSerializer)
        definition = create_definition(now=timezone.now(), **{"time_zone": request.user.time_zone, **body})
        return self.answer(definition, status=201)

    @extend_schema(request=DefinitionChangeSerializer, responses=DefinitionSerializer)
    @transaction.atomic
    def partial_update(self, request: Request, pk: str) -> Response:
        definition = self.get_object()
        changes = self.read_body(DefinitionChangeSerializer, partial=True)
        run_at_once = changes.pop("run_at_once", False)
        update_definition(definition=definition, changes=changes, now=timezone.now(), run_at_once=run_at_once)
        return self.answer(definition)

    def destroy(self, request: Request, pk: str) -> Response:
        delete_definition(definition=self.get_object())
        return Response(status=204)

    @extend_schema(request=ScheduleSerializer, responses=SchedulePreviewSerializer)
    @action(detail=False, methods=["post"], filter_backends=[], pagination_class=None)
    def preview(self, request: Request) -> Response:
        """What a schedule means: in words, and its next ten runs."""
        body = self.read_body(ScheduleSerializer)
        zone = body.get("time_zone", request.user.time_zone)
        shown = preview(cron=body["cron"], time_zone=zone, after=timezone.now())
        return Response(SchedulePreviewSerializer(shown).data)
