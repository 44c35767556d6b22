"""A second person for what cannot be undone: who is asked, and that an approval is good once."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from common.errors import ApprovalNeededError, ConflictError
from tenants.approval_states import GOOD_FOR, WAITS, ApprovalKind, ApprovalStatus
from tenants.approvals import (
    MOST_PENDING,
    approve,
    expire_requests,
    require,
)
from tenants.models import ApprovalRequest, Person, Tenant
from tests.factories import make_person, make_tenant
from tests.tenants.approving import KIND, ask, switch_on


def test_without_a_rule_nobody_is_asked(tenant: Tenant, first: Person) -> None:
    require(kind=KIND, subject=tenant, actor=first)

    assert not ApprovalRequest.objects.exists()


def test_the_installation_itself_is_not_asked(tenant: Tenant) -> None:
    switch_on(tenant)

    require(kind=KIND, subject=tenant, actor=None)


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_rule_of_the_tenant_or_for_everywhere_asks(tenant: Tenant, first: Person, everywhere: bool) -> None:
    switch_on(None if everywhere else tenant)

    assert ask(tenant, first).status == ApprovalStatus.PENDING


def test_a_rule_of_another_tenant_or_kind_does_not_ask(tenant: Tenant, first: Person) -> None:
    switch_on(make_tenant())
    switch_on(tenant, ApprovalKind.KEY_EXPORT)

    require(kind=KIND, subject=tenant, actor=first)


def test_asking_again_is_the_same_request(tenant: Tenant, first: Person) -> None:
    switch_on(tenant)

    assert ask(tenant, first, count=3).pk == ask(tenant, first, count=3).pk
    assert ask(tenant, first, count=2).pk != ask(tenant, first, count=3).pk


def test_there_is_an_end_to_asking(tenant: Tenant, first: Person) -> None:
    switch_on(tenant)
    for number in range(MOST_PENDING):
        ask(tenant, first, count=number)

    with pytest.raises(ConflictError, match="Withdraw some") as raised:
        require(kind=KIND, subject=tenant, actor=first, parameters={"count": -1})
    assert raised.value.code == "too_many_approvals"


def test_the_error_names_the_request(tenant: Tenant, first: Person) -> None:
    switch_on(tenant)

    with pytest.raises(ApprovalNeededError) as raised:
        require(kind=KIND, subject=tenant, actor=first)

    assert raised.value.http_status == 409 and raised.value.code == "approval_needed"
    assert raised.value.extra["approval"] == str(raised.value.request.pk)
    assert str(raised.value.request.pk) in raised.value.message


def test_approved_it_is_good_for_exactly_one_use(tenant: Tenant, first: Person, second: Person) -> None:
    switch_on(tenant)
    request = approve(request=ask(tenant, first, count=3), actor=second, now=timezone.now())

    require(kind=KIND, subject=tenant, actor=first, parameters={"count": 3})

    request.refresh_from_db()
    assert request.status == ApprovalStatus.USED
    with pytest.raises(ApprovalNeededError):
        require(kind=KIND, subject=tenant, actor=first, parameters={"count": 3})


def test_it_is_not_good_for_anything_else(tenant: Tenant, first: Person, second: Person) -> None:
    switch_on(None)
    switch_on(None, ApprovalKind.KEY_EXPORT)
    approve(request=ask(tenant, first, count=3), actor=second, now=timezone.now())
    third = make_person("third", administers=[tenant])

    for changes in (
        {"parameters": {"count": 2}},
        {"parameters": {"count": 3, "more": 1}},
        {"kind": ApprovalKind.KEY_EXPORT},
        {"subject": make_tenant()},
        {"actor": third},
        {"actor": second},
    ):
        wanted: dict[str, Any] = {
            "kind": KIND,
            "subject": tenant,
            "actor": first,
            "parameters": {"count": 3},
            **changes,
        }
        with pytest.raises(ApprovalNeededError):
            require(**wanted)


def test_what_was_rolled_back_did_not_use_it_up(tenant: Tenant, first: Person, second: Person) -> None:
    switch_on(tenant)
    approve(request=ask(tenant, first), actor=second, now=timezone.now())

    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        require(kind=KIND, subject=tenant, actor=first)
        _ = 1 / 0

    require(kind=KIND, subject=tenant, actor=first)


@pytest.mark.parametrize(("late", "good"), [(GOOD_FOR - timedelta(seconds=1), True), (GOOD_FOR, False)])
def test_an_approval_is_good_for_a_day(
    tenant: Tenant, first: Person, second: Person, late: timedelta, good: bool
) -> None:
    switch_on(tenant)
    now = timezone.now()
    approve(request=ask(tenant, first), actor=second, now=now)

    if good:
        require(kind=KIND, subject=tenant, actor=first, now=now + late)
    else:
        with pytest.raises(ApprovalNeededError):
            require(kind=KIND, subject=tenant, actor=first, now=now + late)


def test_a_request_waits_three_days(tenant: Tenant, first: Person, second: Person) -> None:
    switch_on(tenant)
    now = timezone.now()
    request = ask(tenant, first, now=now)

    with pytest.raises(ConflictError, match="expired"):
        approve(request=request, actor=second, now=now + WAITS)

    assert expire_requests(now=now + WAITS - timedelta(seconds=1)) == 0
    assert expire_requests(now=now + WAITS) == 1
    request.refresh_from_db()
    assert request.status == ApprovalStatus.EXPIRED


def test_one_that_nobody_answered_does_not_stand_in_the_way_of_the_next(tenant: Tenant, first: Person) -> None:
    switch_on(tenant)
    now = timezone.now()
    late = ask(tenant, first, now=now - WAITS)

    fresh = ask(tenant, first, now=now)

    late.refresh_from_db()
    assert (late.status, fresh.status) == (ApprovalStatus.EXPIRED, ApprovalStatus.PENDING)


def test_who_approved_must_still_have_the_right_when_it_is_used(tenant: Tenant, first: Person, second: Person) -> None:
    switch_on(tenant)
    approve(request=ask(tenant, first), actor=second, now=timezone.now())

    Person.objects.filter(pk=second.pk).update(is_active=False)

    with pytest.raises(ApprovalNeededError):
        require(kind=KIND, subject=tenant, actor=first)
