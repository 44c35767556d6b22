"""The life of tenants, their limits, and moves of servers as JSON."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from tenants.models import QuotaKind, Tenant, TenantDeletion, TenantEvent
from tenants.quotas import LARGEST
from tenants.serializers import BodySerializer, ReadSerializer, ScopedField, UtcDateTimeField


class TenantChangeSerializer(BodySerializer):
    title = serializers.CharField(max_length=100, required=False)


class SuspensionSerializer(BodySerializer):
    """`reason` is shown to the tenant's people."""

    reason = serializers.CharField(max_length=255, required=False, allow_blank=True, default="")


class QuotaUseSerializer(serializers.Serializer[Any]):
    """null: no limit, or nothing that is counted."""

    kind = serializers.ChoiceField(choices=QuotaKind.choices)
    soft = serializers.IntegerField(allow_null=True)
    hard = serializers.IntegerField(allow_null=True)
    used = serializers.IntegerField(allow_null=True)
    soft_passed = serializers.BooleanField(source="is_soft_passed")


class LimitSerializer(BodySerializer):
    soft = serializers.IntegerField(min_value=0, max_value=LARGEST, allow_null=True, required=False)
    hard = serializers.IntegerField(min_value=0, max_value=LARGEST, allow_null=True, required=False)


class QuotasSerializer(BodySerializer):
    """The kinds that are named are set; null takes a limit away."""

    servers = LimitSerializer(required=False, allow_null=True)
    agents = LimitSerializer(required=False, allow_null=True)
    definitions_per_server = LimitSerializer(required=False, allow_null=True)
    retention_days = LimitSerializer(required=False, allow_null=True)
    retention_count = LimitSerializer(required=False, allow_null=True)
    bytes = LimitSerializer(required=False, allow_null=True)


class DeletionOrderSerializer(BodySerializer):
    """`confirmation` is the name of the tenant: its backups go for ever when their locks end."""

    confirmation = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class RemainsSerializer(serializers.Serializer[Any]):
    backups = serializers.IntegerField(help_text="In the catalogue still; each goes when its own promise is over.")
    jobs = serializers.IntegerField()
    objects = serializers.IntegerField()
    size_bytes = serializers.IntegerField()
    lent_objects = serializers.IntegerField(
        help_text="Needed by servers that were moved to other tenants: keys and vaults stay for them."
    )
    last_lock_ends = UtcDateTimeField(
        allow_null=True, help_text="Not before that can everything be gone; new locks are not set."
    )
    counted_at = UtcDateTimeField(
        allow_null=True,
        help_text="When it was counted, where there is too much to count it for each request; null: now.",
    )


class DeletionSerializer(ReadSerializer):
    status = serializers.ChoiceField(source="tenant.status", choices=Tenant.Status.choices, read_only=True)
    requested_by = serializers.CharField(source="requested_by_name", read_only=True)

    class Meta:
        model = TenantDeletion
        fields = ("tenant", "status", "requested_by", "reason", "requested_at", "undo_until", "finished_at")
        read_only_fields = fields


class DeletionStateSerializer(serializers.Serializer[Any]):
    """`deletion` is null while none was asked for; then `remains` says what would have to go."""

    deletion = DeletionSerializer(allow_null=True)
    remains = RemainsSerializer()


class TenantEventSerializer(ReadSerializer):
    class Meta:
        model = TenantEvent
        fields = ("at", "code", "message")
        read_only_fields = fields


class MoveSerializer(BodySerializer):
    """`confirmation` is the name of the server: its present tenant loses it with all its backups."""

    tenant = ScopedField(queryset=Tenant.objects.all())
    confirmation = serializers.CharField(allow_blank=True)
