"""Vaults and the ordering of tenants as JSON."""

from __future__ import annotations

from rest_framework import serializers

from tenants.serializers import BodySerializer, ReadSerializer
from vaults.models import Vault


class VaultSerializer(ReadSerializer):
    region = serializers.CharField(source="endpoint.region_id", read_only=True)

    class Meta:
        model = Vault
        fields = (
            "id",
            "name",
            "tenant",
            "region",
            "bucket",
            "immutable_days",
            "status",
            "refusal",
            "checked_at",
            "created_at",
        )
        read_only_fields = fields


class TenantOrderSerializer(BodySerializer):
    """With a region (of its servers) the tenant gets a vault where affinity puts it."""

    title = serializers.CharField(max_length=100)
    region = serializers.CharField(max_length=16, required=False)
