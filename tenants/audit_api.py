"""The audit, for reading: SuperAdmins all of it, administrators what belongs to their tenants."""

from __future__ import annotations

from typing import Any, ClassVar

from tenants.api import KeysetPaging, ScopedViewSet, by_choice, by_id, by_text, times
from tenants.models import AuditEvent
from tenants.serializers import ReadSerializer


class AuditEventSerializer(ReadSerializer):
    class Meta:
        model = AuditEvent
        fields = (
            "id",
            "sequence",
            "at",
            "tenant",
            "tenant_name",
            "actor_kind",
            "actor_id",
            "actor_name",
            "address",
            "token_id",
            "request_id",
            "action",
            "outcome",
            "subject_type",
            "subject_id",
            "subject_name",
            "before",
            "after",
            "previous_hash",
            "hash",
        )
        read_only_fields = fields


class AuditEventViewSet(ScopedViewSet):
    """What was done and refused, the newest first. `sequence` and `hash` are empty for a moment, until it is sealed."""

    queryset = AuditEvent.objects.order_by("-id")
    serializer_class = AuditEventSerializer
    filters: ClassVar[dict[str, Any]] = {
        "tenant": by_id("tenant", none=True),
        "actor": by_text("actor_id"),
        "actor_name": by_text("actor_name"),
        "actor_kind": by_text("actor_kind"),
        "action": by_text("action"),
        "outcome": by_choice("outcome", AuditEvent.Outcome.values),
        "object": by_text("subject_id"),
        "object_type": by_text("subject_type"),
        "address": by_text("address"),
        "request": by_text("request_id"),
        **times("at", "at"),
    }
    pagination_class = KeysetPaging
