"""Backup definitions."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from definitions.choices import choices_for
from definitions.hour_moves import move_to_hour, preview_move
from definitions.models import Definition
from definitions.retention import Rules
from definitions.rule_fields import RULE_FIELDS
from definitions.schedule import preview
from definitions.serializers import (
    ChoicesQuerySerializer,
    ChoicesSerializer,
    DefinitionChangeSerializer,
    DefinitionSerializer,
    HourMoveSerializer,
    MoveToHourSerializer,
    NewDefinitionSerializer,
    SchedulePreviewSerializer,
    ScheduleSerializer,
    SimulatedDaySerializer,
    SimulationSerializer,
    SpreadResultSerializer,
    SpreadSerializer,
    UndoSpreadSerializer,
)
from definitions.services import EDITABLE, create_definition, update_definition
from definitions.simulator import simulate
from definitions.spreading import NIGHT, find_act, preview_pile, preview_spread, spread, spread_pile, undo_spread
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
    queryset = Definition.objects.select_related("disk__server", "vault", "tenant", "policy").order_by(
        "created_at", "pk"
    )
    serializer_class = DefinitionSerializer
    role_actions = {
        **READ,
        "create": Action.CREATE,
        "partial_update": Action.EDIT,
        "preview": Action.VIEW,
        "simulate": Action.VIEW,
        "choices": Action.VIEW,
        "spread": Action.EDIT,
        "undo_spread": Action.EDIT,
        "move": Action.EDIT,
    }
    filters = {
        "tenant": by_id("tenant"),
        "server": by_id("disk__server"),
        "disk": by_id("disk"),
        "vault": by_id("vault"),
        "name": by_text("name"),
        "type": by_choice("type", Definition.Type.values),
        "active": by_boolean("active"),
        "node": by_id("disk__server__node"),
        "policy": by_id("policy"),
        **times("created", "created_at"),
        **times("next_run", "next_run_at"),
    }
    action_parameters = {
        "choices": frozenset({"disk"}),
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

    def read_query(self, serializer_class: Any) -> dict[str, Any]:
        serializer = serializer_class(data=self.request.query_params.dict(), context=self.get_serializer_context())
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    @extend_schema(parameters=[ChoicesQuerySerializer], responses=ChoicesSerializer)
    @action(detail=False, methods=["get"], filter_backends=[], pagination_class=None)
    def choices(self, request: Request) -> Response:
        """What can be chosen for a definition of the disk; what cannot comes with the reason."""
        disk = self.read_query(ChoicesQuerySerializer)["disk"]
        return Response(ChoicesSerializer(choices_for(disk, person=request.user)).data)

    @extend_schema(request=SpreadSerializer, responses=SpreadResultSerializer)
    @action(detail=False, methods=["post"], filter_backends=[], pagination_class=None)
    @transaction.atomic
    def spread(self, request: Request) -> Response:
        """Spread definitions over their windows, so that the load of nodes is level."""
        body = self.read_body(SpreadSerializer)
        apply, chosen = body.pop("apply"), {"actor": request.user, "now": timezone.now()}
        if "node" in body:
            window = {"start": body.pop("window_start", NIGHT[0]), "end": body.pop("window_end", NIGHT[1])}
            chosen |= {**body, **window, "definitions": Definition.objects.for_user(request.user, Action.EDIT)}
            look, act = preview_pile, spread_pile
        else:
            chosen |= {"definitions": Definition.objects.for_user(request.user)}
            look, act = preview_spread, spread
        if apply:
            made = act(**chosen)
            moves = [{"definition": key, "before": before, "after": after} for key, before, after in made.moves]
            return Response(SpreadResultSerializer({"spread": made.pk, "moves": moves}).data)
        planned = look(**chosen)
        moves = [{"definition": str(one.definition.pk), "before": one.before, "after": one.after} for one in planned]
        return Response(SpreadResultSerializer({"spread": None, "moves": moves}).data)

    @extend_schema(request=MoveToHourSerializer, responses=HourMoveSerializer)
    @action(detail=False, methods=["post"], filter_backends=[], pagination_class=None)
    @transaction.atomic
    def move(self, request: Request) -> Response:
        """Let definitions that run once a day start in another hour; `undo-spread/` takes it back."""
        body = self.read_body(MoveToHourSerializer)
        verb = preview_move if body.pop("preview") else move_to_hour
        made = verb(actor=request.user, now=timezone.now(), **body)
        moves = [{"definition": str(one.definition.pk), "before": one.before, "after": one.after} for one in made.moves]
        shown = {"spread": made.act.pk if made.act else None, "moves": moves, "loads": made.loads}
        return Response(HourMoveSerializer(shown).data)

    @extend_schema(request=UndoSpreadSerializer, responses={204: None})
    @action(detail=False, methods=["post"], url_path="undo-spread", filter_backends=[], pagination_class=None)
    @transaction.atomic
    def undo_spread(self, request: Request) -> Response:
        """Take a spreading back, where nobody changed the schedule since: one's own, or as a SuperAdmin any."""
        act = find_act(self.read_body(UndoSpreadSerializer)["spread"], actor=request.user)
        undo_spread(act=act, actor=request.user, now=timezone.now())
        return Response(status=204)

    @extend_schema(request=ScheduleSerializer, responses=SchedulePreviewSerializer)
    @action(detail=False, methods=["post"], filter_backends=[], pagination_class=None)
    def preview(self, request: Request) -> Response:
        """What a schedule means: in words, and its next ten runs."""
        body = self.read_body(ScheduleSerializer)
        zone = body.get("time_zone", request.user.time_zone)
        shown = preview(cron=body["cron"], time_zone=zone, after=timezone.now())
        return Response(SchedulePreviewSerializer(shown).data)

    @extend_schema(request=SimulationSerializer, responses=SimulatedDaySerializer(many=True))
    @action(detail=False, methods=["post"], filter_backends=[], pagination_class=None)
    def simulate(self, request: Request) -> Response:
        """What rules keep on each of the next days, with bytes and the tail that locks add."""
        body = self.read_body(SimulationSerializer)
        rules = Rules(*(body.pop(name) for name in RULE_FIELDS))
        body.setdefault("time_zone", request.user.time_zone)
        return Response(SimulatedDaySerializer(simulate(rules=rules, start=timezone.now(), **body), many=True).data)
