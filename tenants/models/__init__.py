"""Tenants, people and their rights. The other modules of the project import models from here."""

from tenants.models.approvals import ApprovalEvent, ApprovalRequest, ApprovalRule
from tenants.models.audit import AuditCheck, AuditEvent, AuditHead, RefusalBucket
from tenants.models.core import (
    ADMINISTER_TENANT,
    Company,
    Person,
    Tenant,
    TenantGroupPermission,
    TenantUserPermission,
    validate_time_zone,
)
from tenants.models.lifecycle import TenantDeletion, TenantEvent
from tenants.models.notices import NoticeEvent, NoticeKey, OutboxMessage, Subscription, Webhook
from tenants.models.people import Invitation, Membership
from tenants.models.quotas import Quota, QuotaKind
from tenants.models.requests import IdempotencyRecord
from tenants.models.sign_in import FirstSignIn, KnownDevice, PortalSession
from tenants.models.tokens import ApiToken

__all__ = [
    "ADMINISTER_TENANT",
    "ApiToken",
    "ApprovalEvent",
    "ApprovalRequest",
    "ApprovalRule",
    "AuditCheck",
    "AuditEvent",
    "AuditHead",
    "Company",
    "FirstSignIn",
    "IdempotencyRecord",
    "Invitation",
    "KnownDevice",
    "Membership",
    "NoticeEvent",
    "NoticeKey",
    "OutboxMessage",
    "Person",
    "PortalSession",
    "Quota",
    "QuotaKind",
    "RefusalBucket",
    "Subscription",
    "Tenant",
    "TenantDeletion",
    "TenantEvent",
    "TenantGroupPermission",
    "TenantUserPermission",
    "Webhook",
    "validate_time_zone",
]
