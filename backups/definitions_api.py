"""Definitions with the verbs and figures that backups and jobs bring: backup now, overview, load, deleting."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.models import Node
from backups.api import job_answer
from backups.bulk import DEFINITION_VERBS, DefinitionBulkSerializer
from backups.node_load import load_map
from backups.overview import overview_of
from backups.parting import delete_with_backups
from backups.serializers import JobDetailSerializer
from backups.services import request_backup
from definitions.api import DefinitionViewSet as PlainDefinitionViewSet
from definitions.serializers import (
    DefinitionFateSerializer,
    HeatMapQuerySerializer,
    HeatMapSerializer,
    OverviewSerializer,
    PartingSerializer,
)
from definitions.services import Fate, delete_definition
from tenants.api import BulkResultSerializer, bulk_response
from tenants.roles import Action

NODES_PER_PAGE = 50


class DefinitionViewSet(PlainDefinitionViewSet):
    role_actions = {
        **PlainDefinitionViewSet.role_actions,
        "destroy": Action.DELETE,
        "backup_now": Action.RUN,
        "bulk": Action.VIEW,
        "overview": Action.VIEW,
        "heat_map": Action.VIEW,
    }
    action_parameters = {
        **PlainDefinitionViewSet.action_parameters,
        "destroy": frozenset({"backups", "days", "adopter", "confirmation"}),
        "overview": frozenset({*PlainDefinitionViewSet.filters, "search", "ordering", "limit", "cursor", "count"}),
        "heat_map": frozenset({"page", "node"}),
    }

    @extend_schema(parameters=[DefinitionFateSerializer], request=None, responses={200: PartingSerializer, 204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """204; with `backups=delete` 200 and what went with it."""
        definition, fate = self.get_object(), self.read_query(DefinitionFateSerializer)
        chosen, confirmation = Fate(fate.pop("backups")), fate.pop("confirmation", "")
        who: dict[str, Any] = {"actor": request.user, "now": timezone.now()}
        if chosen is Fate.DELETE:
            parting = delete_with_backups(definition=definition, confirmation=confirmation, **who)
            return Response(PartingSerializer(parting).data)
        delete_definition(definition=definition, backups=chosen, **who, **fate)
        return Response(status=204)

    @extend_schema(request=DefinitionBulkSerializer, responses=BulkResultSerializer)
    @action(detail=False, methods=["post"], filter_backends=[], pagination_class=None)
    def bulk(self, request: Request) -> Response:
        """Pause, resume, delete, or back up now: up to 500 definitions, each with its own result."""
        return bulk_response(self, DEFINITION_VERBS, self.read_body(DefinitionBulkSerializer))

    @extend_schema(request=None, responses={202: JobDetailSerializer})
    @action(detail=True, methods=["post"], url_path="backup-now")
    @transaction.atomic
    def backup_now(self, request: Request, pk: str) -> Response:
        job = request_backup(definition=self.get_object(), actor=request.user, now=timezone.now())
        return job_answer(request, job)

    @extend_schema(responses=OverviewSerializer(many=True))
    @action(detail=False, methods=["get"])
    def overview(self, request: Request) -> Response:
        """By tenant or by node (`tenant=`, `node=`): each definition with its backups and how well it protects."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        rows = overview_of(page or [], person=request.user, now=timezone.now())
        return self.get_paginated_response(OverviewSerializer(rows, many=True).data)

    @extend_schema(parameters=[HeatMapQuerySerializer], responses=HeatMapSerializer)
    @action(detail=False, methods=["get"], url_path="heat-map", filter_backends=[], pagination_class=None)
    def heat_map(self, request: Request) -> Response:
        """The planned and the actual load of nodes that the caller sees, hour by hour; 50 nodes a page."""
        query = self.read_query(HeatMapQuerySerializer)
        nodes = Node.objects.for_user(request.user).order_by("name")
        if "node" in query:
            nodes = nodes.filter(pk=query["node"].pk)
        pages = Paginator(nodes, NODES_PER_PAGE)
        chosen = list(pages.get_page(query["page"]))
        found = load_map(chosen, person=request.user, now=timezone.now())
        shown = {"on": found.on, "pages": pages.num_pages, "rows": found.rows, "advice": found.advice}
        shown["counted_at"] = found.counted_at
        return Response(HeatMapSerializer(shown).data)
