"""Space, locks and alarms as JSON. Sizes in bytes, spans of time in seconds."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from tenants.serializers import BodySerializer, ReadSerializer, UtcDateTimeField
from vaults.alarms import LONGEST_ACKNOWLEDGEMENT
from vaults.models import Alarm
from vaults.severity import Severity


class UsageSerializer(serializers.Serializer[Any]):
    """What backups take up. What several backups need counts once."""

    used_bytes = serializers.IntegerField(help_text="Needed by backups in the catalogue: unique and shared.")
    unique_bytes = serializers.IntegerField(help_text="Needed by exactly one backup.")
    shared_bytes = serializers.IntegerField(help_text="Needed by several backups.")
    pending_delete_bytes = serializers.IntegerField(help_text="Needed by no backup, not deleted yet.")
    locked_bytes = serializers.IntegerField(help_text="The part of pending_delete_bytes that nobody can delete yet.")
    total_bytes = serializers.IntegerField()
    counted_at = UtcDateTimeField(
        default=None, allow_null=True, help_text="Null: now. A large tenant is counted every hour."
    )


class ViolationSerializer(serializers.Serializer[Any]):
    backup = serializers.UUIDField(source="backup_id")
    key = serializers.CharField()
    promised_until = UtcDateTimeField()
    locked_until = UtcDateTimeField()
    reason = serializers.CharField()


class CoverageSerializer(serializers.Serializer[Any]):
    """Locks beside promises: every object that a backup needs is locked until the backup's immutable_until at least."""

    vault = serializers.UUIDField(source="vault_id")
    at = UtcDateTimeField()
    kept = serializers.BooleanField(source="is_kept")
    backup_count = serializers.IntegerField()
    violation_count = serializers.IntegerField()
    violations = ViolationSerializer(many=True, help_text="At most 100.")
    least_slack_seconds = serializers.SerializerMethodField(
        help_text="How much longer than promised locks last, at the least, over promises that still run."
    )
    soonest_end = UtcDateTimeField(allow_null=True, help_text="The next end of a lock on something that is needed.")
    ending_count = serializers.IntegerField(
        help_text="Objects that are needed and whose lock ends within a day or has ended: their promise is over."
    )

    def get_least_slack_seconds(self, coverage: Any) -> float | None:
        return None if coverage.least_slack is None else float(coverage.least_slack.total_seconds())


class AlarmSerializer(ReadSerializer):
    vault_name = serializers.CharField(source="vault.name", read_only=True)
    severity = serializers.ChoiceField(
        source="get_severity_display", choices=[severity.name.lower() for severity in Severity], read_only=True
    )
    acknowledged_by = serializers.CharField(
        source="acknowledged_by.username", default=None, read_only=True, allow_null=True
    )

    class Meta:
        model = Alarm
        fields = (
            "id",
            "vault",
            "vault_name",
            "severity",
            "code",
            "subject",
            "message",
            "created_at",
            "seen_at",
            "acknowledged_at",
            "acknowledged_by",
            "acknowledgement",
            "cleared_at",
            "cleared_reason",
        )
        read_only_fields = fields
        extra_kwargs = {
            "subject": {"help_text": "The object that it is about; empty for the vault as a whole."},
            "cleared_reason": {"help_text": "Why it is over; empty while it stands."},
        }


class AcknowledgementSerializer(BodySerializer):
    note = serializers.CharField(allow_blank=True, required=False, default="", max_length=LONGEST_ACKNOWLEDGEMENT)
