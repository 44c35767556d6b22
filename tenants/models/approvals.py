"""The second person: for which actions he is needed, and the requests that wait for him."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import Q

from common.models import IdentifiedModel
from tenants.approval_states import KIND_CHOICES, KINDS, OPEN, RULE_KINDS, STATUS_CHOICES, ApprovalKind, ApprovalStatus
from tenants.models.core import Person, Tenant
from tenants.querysets import ScopedQuerySet

RULE_CHOICES = [(str(kind), KINDS[kind].title) for kind in RULE_KINDS]


class ApprovalRuleQuerySet(ScopedQuerySet):
    tenant_path = "tenant"


class ApprovalRule(IdentifiedModel):
    """Whether actions of the kind need a second person: in one tenant, or everywhere (no tenant)."""

    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.CASCADE, related_name="approval_rules")
    kind = models.CharField(max_length=32, choices=RULE_CHOICES)
    required = models.BooleanField(default=False)

    objects = ApprovalRuleQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "kind"], name="approval_rule_of_tenant"),
            models.UniqueConstraint(fields=["kind"], condition=Q(tenant=None), name="approval_rule_everywhere"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} ({self.tenant.name if self.tenant else 'everywhere'})"


class ApprovalRequestQuerySet(ScopedQuerySet):
    tenant_path = "tenant"

    def open(self, now: datetime) -> ApprovalRequestQuerySet:
        return self.filter(status__in=OPEN, expires_at__gt=now)


class ApprovalRequest(IdentifiedModel):
    """Somebody wants to do one thing, with exactly these parameters, and asks a second person."""

    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.CASCADE, related_name="approval_requests")
    kind = models.CharField(max_length=32, choices=KIND_CHOICES)
    subject_type = models.CharField(max_length=64)
    subject_id = models.CharField(max_length=64)
    subject_name = models.CharField(max_length=200)
    parameters = models.JSONField(default=dict)
    parameters_hash = models.CharField(max_length=64)
    requested_by = models.ForeignKey(Person, null=True, on_delete=models.SET_NULL, related_name="approvals_requested")
    requested_by_name = models.CharField(max_length=200)
    expires_at = models.DateTimeField()
    status = models.CharField(max_length=12, choices=STATUS_CHOICES, default=ApprovalStatus.PENDING)
    decided_by = models.ForeignKey(Person, null=True, on_delete=models.SET_NULL, related_name="approvals_decided")
    decided_by_name = models.CharField(max_length=200, blank=True)
    decided_at = models.DateTimeField(null=True)
    reason = models.CharField(max_length=300, blank=True)

    objects = ApprovalRequestQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["tenant", "id"], name="approval_of_tenant"),
            models.Index(fields=["expires_at"], condition=Q(status__in=OPEN), name="approval_open"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "subject_id", "parameters_hash", "requested_by"],
                condition=Q(status="pending"),
                name="approval_asked_once",
            ),
            models.CheckConstraint(
                condition=Q(decided_by=None) | Q(requested_by=None) | ~Q(decided_by=models.F("requested_by")),
                name="approval_by_another",
            ),
        ]

    def __str__(self) -> str:
        return f"{KINDS[ApprovalKind(self.kind)].title}: {self.subject_name}"


class ApprovalEvent(models.Model):
    """A change of a request's status; written in the transaction of the change."""

    request = models.ForeignKey(ApprovalRequest, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    code = models.CharField(max_length=12)
    actor_name = models.CharField(max_length=200, blank=True)
