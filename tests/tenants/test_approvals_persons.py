"""Who counts as the second person: somebody with the right, whom the first did not make."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from agents.invitations import accept_invitation, invite
from common.errors import ApprovalNeededError, NotAllowedError
from tenants.approval_states import COOLING, ApprovalKind, ApprovalStatus
from tenants.approvals import (
    approve,
    decline,
    keep,
    may_approve,
    require,
)
from tenants.audit import record
from tenants.models import ApprovalRequest, AuditEvent, Person, Tenant
from tests.factories import make_person, make_tenant
from tests.tenants.approving import KIND, ask, switch_on


def test_nobody_approves_his_own(tenant: Tenant) -> None:
    boss = make_person("boss", superadmin=True)
    switch_on(tenant)
    request = ask(tenant, boss)

    with pytest.raises(NotAllowedError, match="your own"):
        approve(request=request, actor=boss, now=timezone.now())
    with pytest.raises(NotAllowedError, match="your own"):
        decline(request=request, reason="", actor=boss, now=timezone.now())


def test_who_has_no_right_cannot_answer(tenant: Tenant, first: Person) -> None:
    switch_on(tenant)
    request = ask(tenant, first)

    for stranger in (
        make_person(),
        make_person(administers=[make_tenant()]),
        make_person(superadmin=True, active=False),
        make_person(administers=[tenant], active=False),
    ):
        with pytest.raises(NotAllowedError):
            approve(request=request, actor=stranger, now=timezone.now())
        with pytest.raises(NotAllowedError):
            decline(request=request, reason="", actor=stranger, now=timezone.now())
        assert not may_approve(request, stranger)


def test_to_delete_a_tenant_a_superadmin_has_to_agree(tenant: Tenant, second: Person) -> None:
    boss, other = make_person("boss", superadmin=True), make_person("other", superadmin=True)
    switch_on(None, ApprovalKind.TENANT_DELETE)
    with pytest.raises(ApprovalNeededError) as raised:
        require(kind=ApprovalKind.TENANT_DELETE, subject=tenant, actor=boss)
    keep(raised.value.request)

    with pytest.raises(NotAllowedError):
        approve(request=raised.value.request, actor=second, now=timezone.now())
    assert approve(request=raised.value.request, actor=other, now=timezone.now()).status == ApprovalStatus.APPROVED


@pytest.mark.parametrize("action", ["person.create", "role.grant", "person.change"])
def test_who_got_his_right_from_the_requester_is_no_second_person(
    tenant: Tenant, first: Person, second: Person, action: str
) -> None:
    switch_on(tenant)
    request = ask(tenant, first)
    record(action=action, subject=second, actor=first)

    with pytest.raises(NotAllowedError, match="changed by first"):
        approve(request=request, actor=second, now=timezone.now())
    assert approve(request=request, actor=make_person(superadmin=True), now=timezone.now())


@pytest.mark.parametrize("has_account", [True, False])
def test_nor_is_whom_the_requester_invited(tenant: Tenant, first: Person, has_account: bool) -> None:
    switch_on(tenant)
    puppet = make_person("puppet") if has_account else None
    Person.objects.filter(username="puppet").update(email="puppet@example.org")
    _, token = invite(
        email="puppet@example.org", tenant=tenant, administers=True, servers=[], actor=first, now=timezone.now()
    )
    puppet = accept_invitation(token, now=timezone.now(), signed_in=puppet, password="a long enough pass phrase")

    with pytest.raises(NotAllowedError, match="changed by first less than 72 hours before"):
        approve(request=ask(tenant, first), actor=puppet, now=timezone.now())


@pytest.mark.parametrize(
    ("before", "good"), [(COOLING - timedelta(hours=1), False), (COOLING + timedelta(hours=1), True)]
)
def test_nor_is_who_got_it_shortly_before(
    tenant: Tenant, first: Person, second: Person, before: timedelta, good: bool
) -> None:
    switch_on(tenant)
    event = AuditEvent(
        at=timezone.now() - before,
        action="role.grant",
        actor_kind="person",
        actor_id=str(first.pk),
        subject_type="person",
        subject_id=str(second.pk),
    )
    event.save()

    assert may_approve(ask(tenant, first), second) is good


def test_an_approval_does_not_outlive_a_favour_that_comes_after_it(
    tenant: Tenant, first: Person, second: Person
) -> None:
    switch_on(tenant)
    approve(request=ask(tenant, first), actor=second, now=timezone.now())
    record(action="role.grant", subject=second, actor=first)

    with pytest.raises(ApprovalNeededError):
        require(kind=KIND, subject=tenant, actor=first)


def test_the_database_refuses_that_one_person_is_both(tenant: Tenant, first: Person) -> None:
    switch_on(tenant)
    request = ask(tenant, first)

    with pytest.raises(Exception, match="approval_by_another"), transaction.atomic():
        ApprovalRequest.objects.filter(pk=request.pk).update(decided_by=first)
