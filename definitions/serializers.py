"""Backup definitions and the preview of a schedule as JSON."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from agents.models import Disk
from definitions.models import Definition
from tenants.serializers import BodySerializer, ReadSerializer, ScopedField, UtcDateTimeField
from tenants.services import why_waiting


class DefinitionSerializer(ReadSerializer):
    server = serializers.UUIDField(source="disk.server_id", read_only=True)
    server_name = serializers.CharField(source="disk.server.name", read_only=True)
    waiting_reason = serializers.SerializerMethodField(
        help_text="Why nothing is started though it is active; empty when nothing stands in the way."
    )

    class Meta:
        model = Definition
        fields = (
            "id",
            "name",
            "tenant",
            "server",
            "server_name",
            "disk",
            "vault",
            "type",
            "cron",
            "time_zone",
            "retention_count",
            "immutable_days",
            "bandwidth_limit",
            "active",
            "description",
            "next_run_at",
            "waiting_reason",
            "created_at",
            "changed_at",
        )
        read_only_fields = fields

    def get_waiting_reason(self, definition: Definition) -> str:
        return why_waiting(definition.tenant.status, definition.tenant.status_reason)


class DefinitionChangeSerializer(BodySerializer):
    """Name and disk stay for life; the rest may change."""

    cron = serializers.CharField(required=False)
    time_zone = serializers.CharField(required=False, help_text="IANA name. New definitions take the caller's own.")
    retention_count = serializers.IntegerField(required=False, help_text="Greatest number of backups; 0 keeps all.")
    immutable_days = serializers.IntegerField(
        required=False,
        allow_null=True,
        help_text="How long nobody can remove a backup, if longer than the vault's own days. Applies to new backups.",
    )
    bandwidth_limit = serializers.IntegerField(
        required=False, allow_null=True, help_text="Bytes per second that a backup may send; null: no limit."
    )
    active = serializers.BooleanField(required=False)
    description = serializers.CharField(required=False, allow_blank=True, max_length=128)
    run_at_once = serializers.BooleanField(required=False, help_text="The next backup is due now.")


class NewDefinitionSerializer(DefinitionChangeSerializer):
    disk = ScopedField(queryset=Disk.objects.select_related("server"))
    name = serializers.CharField(max_length=16)
    cron = serializers.CharField()


class ScheduleSerializer(BodySerializer):
    cron = serializers.CharField()
    time_zone = serializers.CharField(required=False)


class RunSerializer(serializers.Serializer[Any]):
    utc = UtcDateTimeField(source="*")
    local = serializers.SerializerMethodField()
    utc_offset = serializers.SerializerMethodField()
    abbreviation = serializers.SerializerMethodField()

    def get_local(self, run: Any) -> str:
        return str(run.isoformat())

    def get_utc_offset(self, run: Any) -> str:
        return str(run.isoformat()[-6:])

    def get_abbreviation(self, run: Any) -> str:
        return str(run.tzname())


class SchedulePreviewSerializer(serializers.Serializer[Any]):
    cron = serializers.CharField()
    time_zone = serializers.CharField()
    explanation = serializers.CharField()
    runs = RunSerializer(many=True)
