"""Backups and jobs as JSON. Sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from agents.models import Disk, Server, Storage
from backups.file_restores import LONGEST_FOLDER, LONGEST_PATH, MOST_PATHS, FileWish
from backups.lock_coverage import locked_until
from backups.models import Backup, Job, JobEvent
from backups.serving import LONGEST_HOURS, USUAL_HOURS
from tenants.roles import Action
from tenants.serializers import BodySerializer, ReadSerializer, ScopedField, UtcDateTimeField


class WarningSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()


class BackupSerializer(ReadSerializer):
    full_because = serializers.CharField(read_only=True, help_text="The reason in words.")
    warnings = WarningSerializer(many=True, read_only=True, help_text="What did not stop the backup.")
    counts = serializers.DictField(
        child=serializers.IntegerField(),
        read_only=True,
        help_text="Of a file tree: files, directories, symlinks, hard_links, specials, and entries that were changed "
        "or unchanged since the backup before. Empty for everything else.",
    )
    checksum = serializers.CharField(
        read_only=True, help_text="SHA-256 of the manifest, of a File backup that of the file; empty while pending."
    )
    vault = serializers.PrimaryKeyRelatedField[Any](
        read_only=True,
        allow_null=True,
        help_text="Null: on a storage, or in the vault of another tenant, which had the server before.",
    )

    class Meta:
        model = Backup
        fields = (
            "id",
            "name",
            "tenant",
            "vault",
            "storage",
            "place",
            "compression",
            "server",
            "server_name",
            "disk",
            "disk_number",
            "definition",
            "node",
            "type",
            "content",
            "counts",
            "status",
            "run_id",
            "frozen",
            "full_reason",
            "full_because",
            "has_configuration",
            "warnings",
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
            "drilled_at",
            "damaged_bytes",
            "unique_bytes",
            "shared_bytes",
            "removed_at",
            "erased_at",
        )
        read_only_fields = fields
        extra_kwargs = {
            "storage": {"help_text": "Of a Dataset or File backup; null for one in a vault."},
            "content": {"help_text": "disk: an image; tree: files; stream: what an application gave."},
            "place": {"help_text": "The path of its file on the storage, or dataset@snapshot."},
            "erased_at": {"help_text": "When it was removed from its storage, after it had left the catalogue."},
            "run_id": {"help_text": "Backups of one server that were started together carry the same."},
            "full_reason": {
                "help_text": "A stable code for why everything was read although the driver can tell what changed."
            },
            "has_configuration": {
                "help_text": "The backup kept what its server was: a new virtual server can be defined of it. Of a "
                "whole server (a tree) it is disk layout, boot and packages: `backupsite-restore facts` shows them."
            },
            "verified_at": {
                "help_text": "When every block was opened last; of a backup that only the customer's own key opens, "
                "when its map was walked and every object hashed."
            },
            "drilled_at": {"help_text": "When it was restored for real, to a scratch file, and compared."},
            "unique_bytes": {"help_text": "Bytes in the vault that no other backup needs."},
            "shared_bytes": {"help_text": "Bytes in the vault that other backups need, too."},
        }

    def to_representation(self, backup: Backup) -> dict[str, Any]:
        shown: dict[str, Any] = super().to_representation(backup)
        if (
            backup.vault is not None
            and backup.vault.tenant_id != backup.tenant_id
            and not self._sees_vaults_of(backup.vault.tenant_id)
        ):
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
    folder = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=LONGEST_FOLDER,
        help_text="Of a backup of files: a new folder inside of the target, in which nothing is replaced.",
    )
    delete_extra = serializers.BooleanField(
        required=False, help_text="Of a backup of files: remove what it does not have."
    )

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        files = FileWish(
            paths=tuple(attributes.pop("paths", ())),
            folder=attributes.pop("folder", ""),
            delete_extra=attributes.pop("delete_extra", False),
        )
        return {**attributes, "files": files}


class RestoreOrderSerializer(RestoreTargetSerializer):
    """`confirmation` is the name of the target's server: all data and all snapshots there are lost.

    With a `folder` nothing is lost, and no confirmation is asked for.
    """

    paths = serializers.ListField(
        child=serializers.CharField(max_length=LONGEST_PATH, trim_whitespace=False),
        required=False,
        max_length=MOST_PATHS,
        help_text="Of a backup of files: files and folders below its root; left out: all. Bytes that are no UTF-8 are "
        "written as \\xNN.",
    )
    confirmation = serializers.CharField(allow_blank=True, required=False, help_text="Required without a folder.")

    def to_internal_value(self, data: Any) -> Any:
        self.fields["confirmation"].required = not (isinstance(data, Mapping) and data.get("folder"))
        return super().to_internal_value(data)


class ServeSerializer(BodySerializer):
    """It ends by itself after so many hours, and when its job is canceled."""

    hours = serializers.IntegerField(min_value=1, max_value=LONGEST_HOURS, default=USUAL_HOURS)


class NewDiskRestoreSerializer(BodySerializer):
    """`storage` is one of the server's node, attached to its tenant."""

    server = ScopedField(queryset=Server.objects.select_related("node", "tenant"), action=Action.RESTORE)
    storage = ScopedField(queryset=Storage.objects.select_related("node"))


class NewServerRestoreSerializer(BodySerializer):
    """`storage` says on which node; the backups of the same run come along, one disk each."""

    name = serializers.CharField(max_length=128)
    storage = ScopedField(queryset=Storage.objects.select_related("node"))


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


class FileWishSerializer(serializers.Serializer[Any]):
    """Empty: everything, in the place of the target."""

    paths = serializers.ListField(child=serializers.CharField(), required=False)
    folder = serializers.CharField(required=False)
    delete_extra = serializers.BooleanField(required=False)


class JobSerializer(ReadSerializer):
    warnings = WarningSerializer(many=True, read_only=True, help_text="What did not stop a restore.")
    files = FileWishSerializer(read_only=True, help_text="Of a restore of files: which, and where to.")
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
            "run_id",
            "creates_disk",
            "new_server",
            "serve_seconds",
            "files",
            "safety_point",
            "warnings",
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
            "run_id": {"help_text": "Jobs of one server that were started together carry the same."},
            "creates_disk": {"help_text": "A restore that makes its target."},
            "serve_seconds": {"help_text": "How long the backup is served; null for every other kind."},
            "new_server": {"help_text": "The name of the server that is defined when its last disk is restored."},
            "safety_point": {
                "help_text": "The snapshot on the node of what was on the target before; kept for seven days."
            },
            "attempt": {"help_text": "From 0; a retry is a job of its own."},
            "granted_bandwidth": {"help_text": "Bytes per second that budgets gave it; null: no limit of theirs."},
        }


class JobDetailSerializer(JobSerializer):
    events = JobEventSerializer(many=True, read_only=True)

    class Meta(JobSerializer.Meta):
        fields = (*JobSerializer.Meta.fields, "events")
        read_only_fields = fields
