"""Agents with how they do: their last good backup and their next run; and the restores that they asked for."""

from __future__ import annotations

from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agents.agents_api import AgentSerializer
from agents.agents_api import AgentViewSet as PlainAgentViewSet
from backups.asked_restores import confirm_restore, refuse_asked
from backups.models import AskedRestore, Backup, Job
from backups.serializers import JobSerializer
from backups.states import ON_A_NODE, BackupStatus, JobState
from definitions.models import Definition
from tenants.api import READ, ScopedViewSet, by_choice, by_id, times
from tenants.roles import Action
from tenants.serializers import BodySerializer, ReadSerializer, UtcDateTimeField


def with_runs(agents: Any) -> QuerySet[Any]:
    """Each with `last_good_at` and `next_run_at` of its server, and `waits`: what its oldest waiting job waits for,
    None when no job waits.
    """
    good = Backup.objects.in_catalogue().filter(server=OuterRef("server"), status=BackupStatus.OK)
    planned = Definition.objects.filter(disk__server=OuterRef("server"), active=True, next_run_at__isnull=False)
    waiting = Job.objects.filter(disk__server=OuterRef("server"), state=JobState.PENDING, kind__in=ON_A_NODE)
    found: QuerySet[Any] = agents.annotate(
        waits=Subquery(waiting.order_by("created_at", "pk").values("waits")[:1]),
        last_good_at=Subquery(good.order_by("-created_at").values("created_at")[:1]),
        next_run_at=Subquery(planned.order_by("next_run_at").values("next_run_at")[:1]),
    )
    return found


class FleetSerializer(AgentSerializer):
    last_good_at = UtcDateTimeField(read_only=True, allow_null=True, help_text="When its last good backup was made.")
    next_run_at = UtcDateTimeField(read_only=True, allow_null=True)
    waits = serializers.CharField(
        read_only=True,
        allow_null=True,
        help_text="Why its oldest waiting job is not begun; empty when it is offered, null when no job waits.",
    )

    class Meta(AgentSerializer.Meta):
        fields = (*AgentSerializer.Meta.fields, "last_good_at", "next_run_at", "waits")
        read_only_fields = fields


class AgentViewSet(PlainAgentViewSet):
    queryset = with_runs(PlainAgentViewSet.queryset)
    serializer_class = FleetSerializer


class AskedRestoreSerializer(ReadSerializer):
    server = serializers.UUIDField(source="agent.server_id", read_only=True)
    server_name = serializers.CharField(source="agent.server.name", read_only=True)
    backup_name = serializers.CharField(source="backup.name", read_only=True)
    paths = serializers.ListField(child=serializers.CharField(), read_only=True)
    state = serializers.SerializerMethodField(help_text="waits, confirmed, refused or expired.")

    class Meta:
        model = AskedRestore
        # Not the code: who confirms reads it at the server.
        fields = (
            *("id", "server", "server_name", "backup", "backup_name", "target", "paths", "overwrite", "state"),
            *("job", "created_at", "expires_at"),
        )
        read_only_fields = fields

    def get_state(self, asked: AskedRestore) -> str:
        return asked.shown_state(timezone.now())


class CodeSerializer(BodySerializer):
    code = serializers.CharField(max_length=20, help_text="As the server shows it.")


class AskedRestoreViewSet(ScopedViewSet):
    """Restores that somebody at a server asks for, until a person who may restore answers."""

    queryset = AskedRestore.objects.select_related("agent__server__tenant", "backup").order_by("-created_at", "-pk")
    serializer_class = AskedRestoreSerializer
    role_actions = {**READ, "confirm": Action.RESTORE, "refuse": Action.RESTORE}
    filters = {
        "tenant": by_id("agent__server__tenant"),
        "server": by_id("agent__server"),
        "answer": by_choice("state", AskedRestore.State.values),
        **times("created", "created_at"),
    }
    ordering_fields = ("created_at",)

    @extend_schema(request=CodeSerializer, responses={202: JobSerializer})
    @action(detail=True, methods=["post"])
    def confirm(self, request: Request, pk: str) -> Response:
        """Let it happen. 400 for another code than the one at the server."""
        asked, code = self.get_object(), self.read_body(CodeSerializer)["code"]
        job = confirm_restore(asked=asked, code=code, actor=request.user, now=timezone.now())
        return Response(JobSerializer(job).data, status=202)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def refuse(self, request: Request, pk: str) -> Response:
        """It does not happen, and the server is told."""
        asked = self.get_object()
        refuse_asked(asked=asked, actor=request.user, now=timezone.now())
        return Response(self.get_serializer(self.get_object()).data)
