"""Requests for a second person, and the rules that ask for one."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from tenants import approvals
from tenants.api import READ, KeysetPaging, ScopedViewSet, by_boolean, by_choice, by_id, times
from tenants.approval_states import KIND_CHOICES, RULE_KINDS, STATUS_CHOICES
from tenants.models import ApprovalRequest, ApprovalRule, Tenant
from tenants.models.approvals import RULE_CHOICES
from tenants.roles import Action
from tenants.serializers import BodySerializer, ReadSerializer, ScopedField


class ApprovalRequestSerializer(ReadSerializer):
    class Meta:
        model = ApprovalRequest
        fields = (
            "id",
            "kind",
            "tenant",
            "subject_type",
            "subject_id",
            "subject_name",
            "parameters",
            "requested_by",
            "requested_by_name",
            "created_at",
            "expires_at",
            "status",
            "decided_by",
            "decided_by_name",
            "decided_at",
            "reason",
        )
        read_only_fields = fields


class DeclineSerializer(BodySerializer):
    reason = serializers.CharField(max_length=approvals.LONGEST_REASON, required=False, default="", allow_blank=True)


class ApprovalRuleSerializer(ReadSerializer):
    class Meta:
        model = ApprovalRule
        fields = ("id", "kind", "tenant", "required", "changed_at")
        read_only_fields = fields


class NewApprovalRuleSerializer(BodySerializer):
    """Without a tenant the rule holds everywhere."""

    kind = serializers.ChoiceField(choices=RULE_CHOICES)
    tenant = ScopedField(queryset=Tenant.objects.all(), required=False, allow_null=True, default=None)
    required = serializers.BooleanField(default=True)


class ApprovalRuleChangeSerializer(BodySerializer):
    required = serializers.BooleanField()


class ApprovalRequestViewSet(ScopedViewSet):
    """What waits for a second person, and what became of it. Made by doing a thing that needs one."""

    queryset = ApprovalRequest.objects.order_by("-id")
    serializer_class = ApprovalRequestSerializer
    role_actions = {**READ, "approve": Action.EDIT, "decline": Action.EDIT, "withdraw": Action.EDIT}
    filters: ClassVar[dict[str, Any]] = {
        "tenant": by_id("tenant", none=True),
        "kind": by_choice("kind", [kind for kind, _ in KIND_CHOICES]),
        "status": by_choice("status", [status for status, _ in STATUS_CHOICES]),
        "requested_by": by_id("requested_by", none=True),
        **times("created", "created_at"),
        **times("expires", "expires_at"),
    }
    search_fields = ("subject_name", "requested_by_name")
    pagination_class = KeysetPaging

    @extend_schema(request=None, responses={200: ApprovalRequestSerializer})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def approve(self, request: Request, pk: str) -> Response:
        """Agree, as the second person. The requester may do it once within a day."""
        return self.answer(approvals.approve(request=self.get_object(), actor=request.user, now=timezone.now()))

    @extend_schema(request=DeclineSerializer, responses={200: ApprovalRequestSerializer})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def decline(self, request: Request, pk: str) -> Response:
        """Refuse; or take back an approval that was not used yet."""
        found, body = self.get_object(), self.read_body(DeclineSerializer)
        declined = approvals.decline(request=found, reason=body["reason"], actor=request.user, now=timezone.now())
        return self.answer(declined)

    @extend_schema(request=None, responses={200: ApprovalRequestSerializer})
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def withdraw(self, request: Request, pk: str) -> Response:
        """Take one's own request back."""
        return self.answer(approvals.withdraw(request=self.get_object(), actor=request.user, now=timezone.now()))


class ApprovalRuleViewSet(ScopedViewSet):
    """For what a second person is needed. Switching a rule off needs one itself."""

    queryset = ApprovalRule.objects.order_by("kind", "pk")
    serializer_class = ApprovalRuleSerializer
    role_actions = {**READ, "create": Action.CREATE, "partial_update": Action.EDIT}
    filters: ClassVar[dict[str, Any]] = {
        "tenant": by_id("tenant", none=True),
        "kind": by_choice("kind", [str(kind) for kind in RULE_KINDS]),
        "required": by_boolean("required"),
    }
    etag_fields = ("required",)

    @extend_schema(request=NewApprovalRuleSerializer, responses={201: ApprovalRuleSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        """Make the rule, or set the one that is there already."""
        body = self.read_body(NewApprovalRuleSerializer)
        return self.answer(approvals.set_rule(actor=request.user, now=timezone.now(), **body), status=201)

    @extend_schema(request=ApprovalRuleChangeSerializer, responses={200: ApprovalRuleSerializer})
    def partial_update(self, request: Request, pk: str) -> Response:
        rule, body = self.get_object(), self.read_body(ApprovalRuleChangeSerializer)
        changed = approvals.set_rule(
            kind=rule.kind, tenant=rule.tenant, required=body["required"], actor=request.user, now=timezone.now()
        )
        return self.answer(changed)
