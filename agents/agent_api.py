"""`/agent/v1/`: what agents ask and tell. No sessions, no tokens of persons, no objects by id: each reaches itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agents.authentication import AgentAuthentication, IsAgent
from agents.models import Agent
from agents.principals import LONGEST_HEALTH_BYTES, LONGEST_VERSION, note_heartbeat
from tenants.api import ApiView
from tenants.serializers import BodySerializer


class AgentView(ApiView):
    """Base of everything below /agent/. `agent` is who asks."""

    authentication_classes = (AgentAuthentication,)
    permission_classes = (IsAgent,)
    # Counted when the signature is looked at.
    throttle_classes: ClassVar[tuple[Any, ...]] = ()
    # Not a part of the OpenAPI document for people.
    schema = None

    @property
    def agent(self) -> Agent:
        found: Agent = self.request.user
        return found


class HeartbeatSerializer(BodySerializer):
    # An agent's words are made plain instead: one that talks nonsense is not to look silent.
    raw_fields = frozenset({"version", "health"})

    version = serializers.CharField(max_length=LONGEST_VERSION)
    health = serializers.CharField(allow_blank=True, default="", trim_whitespace=False)

    def validate_health(self, text: str) -> str:
        if len(text.encode()) > LONGEST_HEALTH_BYTES:
            raise serializers.ValidationError(f"At most {LONGEST_HEALTH_BYTES} bytes.", code="max_length")
        return text


class MeView(AgentView):
    http_method_names = ["get"]

    def get(self, request: Request) -> Response:
        agent = self.agent
        return Response(
            {
                "id": str(agent.pk),
                "name": agent.name,
                "status": agent.status,
                "server": {"id": str(agent.server_id), "name": agent.server.name},
                "tenant": agent.server.tenant.name,
                "time": _now_text(timezone.now()),
            }
        )


class HeartbeatView(AgentView):
    http_method_names = ["post"]

    def post(self, request: Request) -> Response:
        body = HeartbeatSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        now = timezone.now()
        note_heartbeat(agent=self.agent, now=now, **body.validated_data)
        return Response({"time": _now_text(now)})


def _now_text(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
