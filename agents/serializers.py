"""Nodes, storages, servers and disks as JSON. Sizes in bytes."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from agents.models import Disk, Node, Server, Storage
from agents.people_serializers import HeldRoleSerializer
from tenants.models import Tenant
from tenants.roles import Role
from tenants.serializers import BodySerializer, ReadSerializer, ScopedField


class NodeSerializer(ReadSerializer):
    """Without the tenants of the node: one tenant must not learn of the others there."""

    drivers = serializers.DictField(
        child=serializers.CharField(allow_blank=True),
        read_only=True,
        help_text="Driver -> why it does not work there; empty where it does.",
    )

    class Meta:
        model = Node
        fields = (
            *("id", "name", "region", "is_backup", "status", "last_seen_at", "drivers", "drivers_at", "created_at"),
        )
        read_only_fields = fields


class StorageSerializer(ReadSerializer):
    class Meta:
        model = Storage
        fields = (
            *(
                "id",
                "name",
                "node",
                "kind",
                "total_bytes",
                "free_bytes",
                "problem",
                "measured_at",
                "for_drills",
                "created_at",
            ),
        )
        read_only_fields = fields
        extra_kwargs = {
            "problem": {"help_text": "What is wrong with it, in words; empty when nothing is known."},
            "for_drills": {"help_text": "Whether restore drills make their scratch files there."},
            "measured_at": {"help_text": "When its node looked last; null: not yet."},
        }


class ServerSerializer(ReadSerializer):
    class Meta:
        model = Server
        fields = ("id", "name", "tenant", "region", "node", "source_name", "created_at")
        read_only_fields = fields
        extra_kwargs = {
            "node": {"help_text": "Null: it has an agent, or waits for one."},
            "source_name": {"help_text": "What its node calls it, such as the UUID of a domain."},
        }


class DiskSerializer(ReadSerializer):
    server_name = serializers.CharField(source="server.name", read_only=True)

    class Meta:
        model = Disk
        fields = (
            "id",
            "server",
            "server_name",
            "number",
            "driver",
            "storage",
            "path",
            "size_bytes",
            "incomplete_since",
            "created_at",
        )
        read_only_fields = fields


class MeSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField(source="username")
    roles = serializers.ListField(child=serializers.ChoiceField(choices=[str(role) for role in Role]))
    grants = HeldRoleSerializer(many=True, help_text="Each role with where it is held.")
    time_zone = serializers.CharField()


class ServerChangeSerializer(BodySerializer):
    """`source_name` and `region` are a SuperAdmin's."""

    name = serializers.CharField(max_length=128, required=False)
    region = serializers.CharField(
        max_length=16, required=False, help_text="Where it stands. What is backed up stays in the vault where it is."
    )
    source_name = serializers.CharField(max_length=128, required=False, allow_blank=True)


class NewServerSerializer(BodySerializer):
    name = serializers.CharField(max_length=128)
    tenant = ScopedField(queryset=Tenant.objects.all())
    region = serializers.CharField(max_length=16, source="region_code")
    node = ScopedField(
        queryset=Node.objects.all(),
        required=False,
        allow_null=True,
        default=None,
        help_text="Null for a server that gets an agent.",
    )
    source_name = serializers.CharField(max_length=128, required=False, allow_blank=True, default="")


class NewDiskSerializer(BodySerializer):
    """`path` is relative to the storage."""

    server = ScopedField(queryset=Server.objects.select_related("node"))
    number = serializers.IntegerField(min_value=1, max_value=32767)
    driver = serializers.CharField(max_length=32)
    storage = ScopedField(queryset=Storage.objects.all())
    path = serializers.CharField(max_length=300)
    size_bytes = serializers.IntegerField(
        min_value=1,
        max_value=2**63 - 1,
        required=False,
        help_text="Of a disk. Of a tree of files or a stream it is what its last backup found.",
    )
