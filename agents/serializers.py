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

    class Meta:
        model = Node
        fields = ("id", "name", "region", "is_backup", "status", "last_seen_at", "created_at")
        read_only_fields = fields


class StorageSerializer(ReadSerializer):
    class Meta:
        model = Storage
        fields = ("id", "name", "node", "created_at")
        read_only_fields = fields


class ServerSerializer(ReadSerializer):
    class Meta:
        model = Server
        fields = ("id", "name", "tenant", "region", "node", "created_at")
        read_only_fields = fields


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
    name = serializers.CharField(max_length=128, required=False)


class NewServerSerializer(BodySerializer):
    name = serializers.CharField(max_length=128)
    tenant = ScopedField(queryset=Tenant.objects.all())
    region = serializers.CharField(max_length=16, source="region_code")
    node = ScopedField(queryset=Node.objects.all())


class NewDiskSerializer(BodySerializer):
    """`path` is relative to the storage."""

    server = ScopedField(queryset=Server.objects.select_related("node"))
    number = serializers.IntegerField(min_value=1, max_value=32767)
    driver = serializers.CharField(max_length=32)
    storage = ScopedField(queryset=Storage.objects.all())
    path = serializers.CharField(max_length=300)
    size_bytes = serializers.IntegerField(min_value=1, max_value=2**63 - 1)
