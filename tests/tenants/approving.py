"""Asking for what needs a second person."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from common.errors import ApprovalNeededError
from tenants.approval_states import ApprovalKind
from tenants.approvals import keep, require
from tenants.models import ApprovalRequest, ApprovalRule, Person, Tenant

KIND = ApprovalKind.RETENTION_SHORTEN


def switch_on(tenant: Tenant | None, kind: str = KIND) -> None:
    ApprovalRule.objects.create(tenant=tenant, kind=kind, required=True)


def ask(tenant: Tenant, actor: Person, *, now: datetime | None = None, **parameters: Any) -> ApprovalRequest:
    """What a service and the middleware do together."""
    with pytest.raises(ApprovalNeededError) as raised:
        require(kind=KIND, subject=tenant, actor=actor, parameters=parameters, now=now)
    request = raised.value.request
    if request._state.adding:
        assert keep(request)
    return request
