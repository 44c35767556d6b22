"""Agents as people see them: who is there, letting one in, shutting one out. Agents themselves use `/agent/v1/`."""

from __future__ import annotations

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.models import Agent
from agents.principals import approve_agent, revoke_agent
from tenants.api import READ, ScopedViewSet, by_choice, by_id, by_text, times
from tenants.roles import Action
from tenants.serializers import ReadSerializer


class AgentSerializer(ReadSerializer):
    server_name = serializers.CharField(source="server.name", read_only=True)

    class Meta:
        model = Agent
        fields = (
            *("id", "name", "server", "server_name", "status", "version", "health"),
            *("last_seen_at", "silent_since", "created_at"),
        )
        read_only_fields = fields


class AgentViewSet(ScopedViewSet):
    queryset = Agent.objects.select_related("server").order_by("name", "pk")
    serializer_class = AgentSerializer
    role_actions = {**READ, "approve": Action.EDIT, "revoke": Action.EDIT}
    filters = {
        "tenant": by_id("server__tenant"),
        "server": by_id("server"),
        "status": by_choice("status", Agent.Status.values),
        "version": by_text("version"),
        **times("seen", "last_seen_at"),
        **times("created", "created_at"),
    }
    search_fields = ("name",)
    ordering_fields = ("name", "created_at")

    @extend_schema(request=None, responses=AgentSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def approve(self, request: Request, pk: str) -> Response:
        """Let an agent in that waits for it."""
        agent = self.get_object()
        approve_agent(agent=agent, actor=request.user)
        return self.answer(agent)

    @extend_schema(request=None, responses=AgentSerializer)
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def revoke(self, request: Request, pk: str) -> Response:
        """Its next request is refused. What it backed up stays."""
        agent = self.get_object()
        revoke_agent(agent=agent, actor=request.user)
        return self.answer(agent)
