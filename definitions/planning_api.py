"""Pauses, times without backups, and policies as JSON."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.models import Node, Server
from common.errors import InvalidInputError, NotFoundError
from definitions import holds, policies
from definitions.models import BlackoutWindow, Definition, DefinitionPause, Policy, PolicyAssignment
from definitions.names import check_name
from definitions.serializers import RulesSerializer
from tenants.api import READ, ScopedViewSet, by_boolean, by_id
from tenants.models import Tenant
from tenants.roles import Action
from tenants.serializers import BodySerializer, LocalTimeField, ReadSerializer, ScopedField
from vaults.models import Region


class PauseSerializer(ReadSerializer):
    class Meta:
        model = DefinitionPause
        fields = ("id", "definition", "node", "tenant", "reason", "starts_at", "until", "ended_at", "created_at")
        read_only_fields = fields


class NewPauseSerializer(BodySerializer):
    """Of a definition, a node or a tenant; without one, of the whole fleet."""

    definition = ScopedField(queryset=Definition.objects.select_related("tenant"), action=Action.EDIT, required=False)
    node = ScopedField(queryset=Node.objects.all(), required=False)
    tenant = ScopedField(queryset=Tenant.objects.all(), required=False)
    reason = serializers.CharField(max_length=200)
    until = serializers.DateTimeField(required=False, allow_null=True)


class PauseViewSet(ScopedViewSet):
    queryset = DefinitionPause.objects.order_by("-created_at", "pk")
    serializer_class = PauseSerializer
    role_actions = {**READ, "create": Action.CREATE, "end": Action.EDIT}
    filters = {"tenant": by_id("tenant"), "definition": by_id("definition"), "node": by_id("node")}

    @extend_schema(request=NewPauseSerializer, responses={201: PauseSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        """Nothing starts by schedule until it ends. What is due meanwhile runs once, afterwards."""
        made = holds.pause(actor=request.user, now=timezone.now(), **self.read_body(NewPauseSerializer))
        return self.answer(made, status=201, location=f"/api/v1/pauses/{made.pk}/")

    @extend_schema(request=None, responses=PauseSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def end(self, request: Request, pk: str) -> Response:
        """Let it start again."""
        found = self.get_object()
        holds.end_pause(pause=found, now=timezone.now(), actor=request.user)
        return self.answer(found)


class BlackoutSerializer(ReadSerializer):
    class Meta:
        model = BlackoutWindow
        fields = ("id", "node", "tenant", "reason", "start", "end", "time_zone", "weekdays", "created_at")
        read_only_fields = fields


@extend_schema_field({"type": "string", "minLength": 1, "pattern": "^1?2?3?4?5?6?7?$", "example": "12345"})
class WeekdaysField(serializers.CharField):
    """Digits of days; their order does not matter."""


class NewBlackoutSerializer(BodySerializer):
    """Of a node or a tenant; without one, of the whole fleet."""

    node = ScopedField(queryset=Node.objects.all(), required=False)
    tenant = ScopedField(queryset=Tenant.objects.all(), required=False)
    reason = serializers.CharField(max_length=200)
    start = LocalTimeField()
    end = LocalTimeField(help_text="Not later than the start: of the next day.")
    time_zone = serializers.CharField(required=False)
    weekdays = WeekdaysField(required=False, max_length=7, help_text="Of the start; 1 is Monday, each once.")


class BlackoutViewSet(ScopedViewSet):
    queryset = BlackoutWindow.objects.standing().order_by("created_at", "pk")
    serializer_class = BlackoutSerializer
    role_actions = {**READ, "create": Action.CREATE, "destroy": Action.DELETE}
    filters = {"tenant": by_id("tenant"), "node": by_id("node")}

    @extend_schema(request=NewBlackoutSerializer, responses={201: BlackoutSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        values = {"time_zone": request.user.time_zone, **self.read_body(NewBlackoutSerializer)}
        made = holds.add_blackout(actor=request.user, **values)
        return self.answer(made, status=201, location=f"/api/v1/blackouts/{made.pk}/")

    @extend_schema(request=None, responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        holds.remove_blackout(window=self.get_object(), now=timezone.now(), actor=request.user)
        return Response(status=204)


class PolicySerializer(ReadSerializer):
    class Meta:
        model = Policy
        fields = ("id", "name", *policies.POLICY_FIELDS, "created_at", "changed_at")
        read_only_fields = fields


class BandwidthHoursSerializer(BodySerializer):
    """Between two full hours of the policy's zone."""

    begin_hour = serializers.IntegerField(min_value=0, max_value=23)
    end_hour = serializers.IntegerField(min_value=1, max_value=24)
    bytes_per_second = serializers.IntegerField(min_value=0, max_value=2**40, help_text="0: no limit; else >= 65536.")


class AgentLimitsSerializer(BodySerializer):
    """Of servers with an agent. What is left out is as usual."""

    allows_excludes = serializers.BooleanField(required=False)
    allows_hooks = serializers.BooleanField(required=False)
    allows_run_now = serializers.BooleanField(required=False)
    bandwidth = BandwidthHoursSerializer(many=True, required=False)
    cpu_weight = serializers.IntegerField(required=False, min_value=1, max_value=100)
    idle_io = serializers.BooleanField(required=False)
    pause_on_battery = serializers.BooleanField(required=False)
    pause_on_metered = serializers.BooleanField(required=False)
    pause_above_load = serializers.FloatField(required=False, min_value=0, max_value=10_000, help_text="0: never.")
    start_jitter_seconds = serializers.IntegerField(required=False, min_value=0, max_value=21_600)


class PolicyChangeSerializer(RulesSerializer):
    description = serializers.CharField(required=False, allow_blank=True, max_length=128)
    window_start = LocalTimeField(required=False)
    window_end = LocalTimeField(required=False)
    time_zone = serializers.CharField(required=False)
    lock_days = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=3650)
    lock_whole_retention = serializers.BooleanField(required=False)
    restricted = serializers.BooleanField(required=False)
    agent_limits = AgentLimitsSerializer(required=False)


class NewPolicySerializer(PolicyChangeSerializer):
    name = serializers.CharField(max_length=16, validators=[check_name])


class PolicyTargetSerializer(BodySerializer):
    """One of these."""

    server = ScopedField(queryset=Server.objects.select_related("tenant"), required=False)
    tag = serializers.CharField(required=False, max_length=32)
    tenant = ScopedField(queryset=Tenant.objects.all(), required=False)
    region = serializers.SlugRelatedField(slug_field="code", queryset=Region.objects.all(), required=False)


class AssignmentSerializer(ReadSerializer):
    target = serializers.CharField(read_only=True)

    class Meta:
        model = PolicyAssignment
        fields = ("id", "policy", "server", "tag", "tenant", "region", "target")
        read_only_fields = fields


class ServerTagsSerializer(BodySerializer):
    server = ScopedField(queryset=Server.objects.select_related("tenant"))
    tags = serializers.ListField(child=serializers.CharField(max_length=32), max_length=20)


class PolicyViewSet(ScopedViewSet):
    queryset = Policy.objects.order_by("name")
    serializer_class = PolicySerializer
    role_actions = {
        **READ,
        "create": Action.CREATE,
        "partial_update": Action.EDIT,
        "destroy": Action.DELETE,
        "assignments": Action.EDIT,
        "assign": Action.EDIT,
        "unassign": Action.EDIT,
        "tag_server": Action.CREATE,
    }
    filters = {"restricted": by_boolean("restricted")}
    search_fields = ("name",)
    etag_fields = (*policies.POLICY_FIELDS,)

    @extend_schema(request=NewPolicySerializer, responses={201: PolicySerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        policy = policies.create_policy(actor=request.user, **self.read_body(NewPolicySerializer))
        return self.answer(policy, status=201, location=f"/api/v1/policies/{policy.pk}/")

    @extend_schema(request=PolicyChangeSerializer, responses=PolicySerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """The definitions that follow it change with it, for the backups that they make from now on."""
        policy, changes = self.get_object(), self.read_body(PolicyChangeSerializer, partial=True)
        policies.update_policy(policy=policy, changes=changes, actor=request.user, now=timezone.now())
        return self.answer(policy)

    @extend_schema(request=None, responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        policies.delete_policy(policy=self.get_object(), actor=request.user)
        return Response(status=204)

    @extend_schema(responses=AssignmentSerializer(many=True))
    @action(detail=True, methods=["get"], filter_backends=[], pagination_class=None)
    def assignments(self, request: Request, pk: str) -> Response:
        """To whom it is assigned."""
        rows = self.get_object().assignments.select_related("server", "tenant", "region").order_by("pk")
        return Response(AssignmentSerializer(rows, many=True, context=self.get_serializer_context()).data)

    @extend_schema(request=PolicyTargetSerializer, responses=AssignmentSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def assign(self, request: Request, pk: str) -> Response:
        """Give it to a server, to servers with a tag, to a tenant, or to a region as its default."""
        policy, target = self.get_object(), self.read_body(PolicyTargetSerializer)
        row = policies.assign(policy=policy, actor=request.user, now=timezone.now(), **target)
        return Response(AssignmentSerializer(row, context=self.get_serializer_context()).data)

    @extend_schema(request=PolicyTargetSerializer, responses={204: None})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def unassign(self, request: Request, pk: str) -> Response:
        """The opposite: what is assigned less near counts again."""
        policy, target = self.get_object(), self.read_body(PolicyTargetSerializer)
        row = policy.assignments.filter(**_one(target)).first()
        if row is None:
            raise NotFoundError("It is not assigned to that.")
        policies.unassign(assignment=row, actor=request.user, now=timezone.now())
        return Response(status=204)

    @extend_schema(request=ServerTagsSerializer, responses={204: None})
    @action(detail=False, methods=["post"], url_path="tag-server", filter_backends=[], pagination_class=None)
    @transaction.atomic
    def tag_server(self, request: Request) -> Response:
        """The tags of a server, instead of those that it had."""
        policies.set_tags(actor=request.user, now=timezone.now(), **self.read_body(ServerTagsSerializer))
        return Response(status=204)


def _one(target: dict[str, Any]) -> dict[str, Any]:
    if len(target) != 1:
        raise InvalidInputError("Name one of server, tag, tenant and region.", field="server")
    return target
