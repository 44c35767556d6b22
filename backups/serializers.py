"""Backups and jobs as JSON. Sizes in bytes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from agents.models import Disk
from backups.lock_coverage import locked_until
from backups.models import Backup, Job, JobEvent
from tenants.roles import Action
from tenants.serializers import BodySerializer, ReadSerializer, ScopedField, UtcDateTimeField


class BackupSerializer(ReadSerializer):
    checksum = serializers.CharField(read_only=True, help_text="SHA-256 of the manifest; empty while pending.")
    vault = serializers.PrimaryKeyRelatedField[Any](
        read_only=True, allow_null=True, help_text="Null: another tenant's, which had the server before."
    )

    class Meta:
        model = Backup
        fields = (
            "id",
            "name",
            "tenant",
            "vault",
            "server",
            "server_name",
            "disk",
            "disk_number",
            "definition",
            "node",
            "type",
            "status",
            "frozen",
            "note",
            "slot_at",
            "created_at",
            "finished_at",
            "duration_seconds",
            "size_bytes",
            "read_bytes",
            "changed_bytes",
            "stored_bytes",
            "checksum",
            "immutable_until",
            "health",
            "verified_at",
            "damaged_bytes",
            "unique_bytes",
            "shared_bytes",
            "removed_at",
        )
        read_only_fields = fields
        extra_kwargs = {
            "verified_at": {
                "help_text": "When every block was opened last; of a backup that only the customer's own key opens, "
                "when its map was walked and every object hashed."
            },
            "unique_bytes": {"help_text": "Bytes in the vault that no other backup needs."},
            "shared_bytes": {"help_text": "Bytes in the vault that other backups need, too."},
        }

    def to_representation(self, backup: Backup) -> dict[str, Any]:
        shown: dict[str, Any] = super().to_representation(backup)
        if backup.vault.tenant_id != backup.tenant_id and not self._sees_vaults_of(backup.vault.tenant_id):
            shown["vault"] = None
        return shown

    def _sees_vaults_of(self, tenant_id: UUID) -> bool:
        """After a move: the caller of the server's present tenant need not know the former one's."""
        person = self.context["request"].user
        if person.is_superuser:
            return True
        return tenant_id in set(person.administered_tenants().values_list("pk", flat=True))


class DamagedFileSerializer(serializers.Serializer[Any]):
    """A file of a file tree that cannot be restored whole, or a stretch of names that is lost."""

    kind = serializers.CharField(help_text='"file", or "names": everything from path on is unknown, up to next_path.')
    path = serializers.CharField(help_text="Below the root of the tree; bytes that are no UTF-8 appear as \\xNN.")
    next_path = serializers.CharField(allow_null=True, help_text="Null: a file, or names are lost to the end.")
    lost_bytes = serializers.IntegerField()
    ranges = serializers.ListField(
        child=serializers.ListField(child=serializers.IntegerField(), min_length=2, max_length=2),
        help_text="The first ten [offset, length] in the file.",
    )


class BackupDetailSerializer(BackupSerializer):
    """With what cannot be read now, and until when at least every object of the backup is locked."""

    damage = serializers.ListField(
        child=serializers.ListField(child=serializers.IntegerField(), min_length=2, max_length=2),
        source="damaged_ranges",
        read_only=True,
        help_text="Ranges [offset, length] of the disk or stream, at most 1000; damaged_bytes is the total.",
    )
    damaged_files = DamagedFileSerializer(
        many=True, read_only=True, help_text="Of a file tree, at most 1000; damaged_bytes is the total."
    )
    locked_until = serializers.SerializerMethodField()

    class Meta(BackupSerializer.Meta):
        fields = (*BackupSerializer.Meta.fields, "damage", "damaged_files", "locked_until")
        read_only_fields = fields

    @extend_schema_field(UtcDateTimeField(allow_null=True))
    def get_locked_until(self, backup: Backup) -> str | None:
        until = locked_until(backup)
        return None if until is None else UtcDateTimeField().to_representation(until)


class NoteSerializer(BodySerializer):
    note = serializers.CharField(allow_blank=True)


def target_field() -> ScopedField:
    return ScopedField(queryset=Disk.objects.select_related("server__node"), action=Action.RESTORE)


class RestoreTargetSerializer(BodySerializer):
    target = target_field()


class RestoreOrderSerializer(BodySerializer):
    """`confirmation` is the name of the target's server: all data and all snapshots there are lost."""

    target = target_field()
    confirmation = serializers.CharField(allow_blank=True)


class RefusalSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    detail = serializers.CharField(source="message")


class RestorePreviewSerializer(serializers.Serializer[Any]):
    backup = serializers.UUIDField(source="backup.pk")
    target = serializers.UUIDField(source="target.pk")
    warning = serializers.CharField()
    confirm_with = serializers.CharField(source="target.server.name")
    refused = serializers.BooleanField()
    refusal = RefusalSerializer(allow_null=True)


class JobEventSerializer(ReadSerializer):
    class Meta:
        model = JobEvent
        fields = ("at", "code", "message")
        read_only_fields = fields


class JobSerializer(ReadSerializer):
    requested_by = serializers.CharField(source="requested_by.username", default=None, read_only=True, allow_null=True)
    percent = serializers.IntegerField(read_only=True, allow_null=True)

    class Meta:
        model = Job
        fields = (
            "id",
            "kind",
            "state",
            "tenant",
            "disk",
            "node",
            "definition",
            "backup",
            "backup_name",
            "requested_by",
            "slot_at",
            "phase",
            "done_bytes",
            "total_bytes",
            "stored_bytes",
            "percent",
            "code",
            "message",
            "cancel_requested",
            "waits",
            "attempt",
            "retry_of",
            "not_before",
            "granted_bandwidth",
            "created_at",
            "started_at",
            "finished_at",
            "mover_wall_seconds",
            "mover_cpu_seconds",
            "mover_peak_memory_bytes",
        )
        read_only_fields = fields
        extra_kwargs = {
            "disk": {"help_text": "Null for the check of a backup whose disk is gone."},
            "node": {"help_text": "Null for a check: no node works on it."},
            "waits": {"help_text": "Why it is not begun, in words; empty when it only waits for a worker."},
            "attempt": {"help_text": "From 0; a retry is a job of its own."},
            "granted_bandwidth": {"help_text": "Bytes per second that budgets gave it; null: no limit of theirs."},
        }


class JobDetailSerializer(JobSerializer):
    events = JobEventSerializer(many=True, read_only=True)

    class Meta(JobSerializer.Meta):
        fields = (*JobSerializer.Meta.fields, "events")
        read_only_fields = fields
