"""Agents, the tokens that they are enrolled with, and releases of their program."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.enrolment import (
    LONGEST_HOST,
    LONGEST_MINUTES,
    USUAL_MINUTES,
    enrol_line,
    install_line,
    make_token,
    revoke_token,
)
from agents.fleet import UNUSED_AFTER_DAYS, unused_agents
from agents.models import Agent, EnrolmentToken, Release, Server
from agents.principals import approve_agent, release_agent, revoke_agent
from agents.releases import set_ring
from tenants.api import READ, ScopedViewSet, by_choice, by_id, by_presence, by_text, times
from tenants.roles import Action
from tenants.serializers import BodySerializer, ReadSerializer, ScopedField


class AgentSerializer(ReadSerializer):
    server_name = serializers.CharField(source="server.name", read_only=True)

    class Meta:
        model = Agent
        fields: tuple[str, ...] = (
            *("id", "name", "server", "server_name", "status", "quarantine_reason", "version", "health_code", "health"),
            *("facts", "trees", "policy_number", "policy_seen", "release_taken"),
            *("last_seen_at", "silent_since", "created_at"),
        )
        read_only_fields = fields
        extra_kwargs = {
            "health": {"help_text": "The agent's own last error, in its own words; empty when all is well."},
            "policy_number": {"help_text": "The policy that counts; `policy_seen` is the one that it works by."},
            "trees": {"help_text": "The file systems that it found, and why one is left out."},
        }


class AgentViewSet(ScopedViewSet):
    queryset = Agent.objects.select_related("server__tenant").order_by("name", "pk")
    serializer_class = AgentSerializer
    role_actions = {**READ, "approve": Action.EDIT, "revoke": Action.EDIT, "readmit": Action.EDIT}
    filters = {
        "tenant": by_id("server__tenant"),
        "server": by_id("server"),
        "status": by_choice("status", Agent.Status.values),
        "version": by_text("version"),
        "unused": serializers.BooleanField(
            help_text=f"Enrolled, and not heard of for {UNUSED_AFTER_DAYS} days, or never: it counts against the quota."
        ),
        **times("seen", "last_seen_at"),
        **times("created", "created_at"),
    }
    search_fields = ("name",)
    ordering_fields = ("name", "created_at")

    def apply_filters(self, queryset: Any, chosen: dict[str, Any]) -> Any:
        unused = chosen.pop("unused", None)
        found = super().apply_filters(queryset, chosen)
        if unused is None:
            return found
        keys = unused_agents(Agent.objects.all(), now=timezone.now()).values("pk")
        return found.filter(pk__in=keys) if unused else found.exclude(pk__in=keys)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def approve(self, request: Request, pk: str) -> Response:
        """Let an agent in that waits for it."""
        agent = self.get_object()
        approve_agent(agent=agent, actor=request.user)
        return self.answer(agent)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def revoke(self, request: Request, pk: str) -> Response:
        """Its next request is refused, and what it works on ends. What it backed up stays."""
        agent = self.get_object()
        revoke_agent(agent=agent, actor=request.user)
        return self.answer(agent)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def readmit(self, request: Request, pk: str) -> Response:
        """Out of quarantine: one machine has its key. If in doubt revoke it, and enrol the right machine again."""
        agent = self.get_object()
        release_agent(agent=agent, actor=request.user)
        return self.answer(agent)


class EnrolmentTokenSerializer(ReadSerializer):
    server_name = serializers.CharField(source="server.name", read_only=True)
    made_by = serializers.CharField(source="made_by.username", default=None, read_only=True, allow_null=True)
    state = serializers.SerializerMethodField(help_text="open, used, revoked or expired.")

    class Meta:
        model = EnrolmentToken
        fields = (
            *("id", "server", "server_name", "expected_host", "state", "agent", "made_by"),
            *("created_at", "expires_at", "used_at", "revoked_at"),
        )
        read_only_fields = fields

    def get_state(self, token: EnrolmentToken) -> str:
        return token.state(timezone.now())


class NewEnrolmentTokenSerializer(BodySerializer):
    server = ScopedField(queryset=Server.objects.select_related("tenant"), action=Action.EDIT)
    expected_host = serializers.CharField(
        max_length=LONGEST_HOST,
        required=False,
        default="",
        allow_blank=True,
        help_text="An agent on another host waits for approval. Empty: any host.",
    )
    minutes = serializers.IntegerField(min_value=1, max_value=LONGEST_MINUTES, required=False, default=USUAL_MINUTES)


class MadeTokenSerializer(EnrolmentTokenSerializer):
    token = serializers.CharField()
    install_line = serializers.CharField()
    enrol_line = serializers.CharField(help_text="For a server that has the program; the token is its standard input.")

    class Meta(EnrolmentTokenSerializer.Meta):
        fields = (*EnrolmentTokenSerializer.Meta.fields, "token", "install_line", "enrol_line")
        read_only_fields = fields


class EnrolmentTokenViewSet(ScopedViewSet):
    queryset = EnrolmentToken.objects.select_related("server__tenant", "made_by").order_by("-created_at", "-pk")
    serializer_class = EnrolmentTokenSerializer
    role_actions = {**READ, "create": Action.CREATE, "revoke": Action.EDIT}
    filters = {
        "tenant": by_id("server__tenant"),
        "server": by_id("server"),
        "used": by_presence("used_at"),
        **times("created", "created_at"),
    }
    ordering_fields = ("created_at",)
    # Its answer holds the token.
    secret_actions = frozenset({"create"})

    @extend_schema(request=NewEnrolmentTokenSerializer, responses={201: MadeTokenSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        """A token that makes one program the agent of the server, once, within the hour. It is told once."""
        token, text = make_token(actor=request.user, now=timezone.now(), **self.read_body(NewEnrolmentTokenSerializer))
        lines = {"install_line": install_line(text), "enrol_line": enrol_line()}
        told = {**EnrolmentTokenSerializer(token).data, "token": text, **lines}
        return Response(told, status=201)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def revoke(self, request: Request, pk: str) -> Response:
        token = self.get_object()
        revoke_token(token=token, actor=request.user, now=timezone.now())
        return self.answer(token)


class ReleaseSerializer(ReadSerializer):
    class Meta:
        model = Release
        fields = ("id", "number", "version", "file", "state", "percent", "created_at", "changed_at")
        read_only_fields = fields


class RingSerializer(BodySerializer):
    state = serializers.ChoiceField(choices=Release.State.choices)
    percent = serializers.IntegerField(min_value=0, max_value=100)


class ReleaseViewSet(ScopedViewSet):
    queryset = Release.objects.order_by("-number")
    serializer_class = ReleaseSerializer
    role_actions = {**READ, "ring": Action.EDIT}
    filters = {"state": by_choice("state", Release.State.values)}
    ordering_fields = ("number", "created_at")

    @extend_schema(request=RingSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def ring(self, request: Request, pk: str) -> Response:
        """To how many percent of the agents it is offered; who has it keeps it."""
        release = self.get_object()
        set_ring(release=release, actor=request.user, **self.read_body(RingSerializer))
        return self.answer(release)
