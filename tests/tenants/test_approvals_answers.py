"""What may be answered to a request, and how the rules that ask are changed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from common.errors import ApprovalNeededError, ConflictError, InvalidInputError, NotAllowedError
from tenants.approval_states import ApprovalKind
from tenants.approvals import (
    approve,
    decline,
    is_required,
    keep,
    require,
    set_rule,
    withdraw,
)
from tenants.audit import record
from tenants.models import AuditEvent, Person, Tenant
from tests.factories import make_person, make_tenant
from tests.tenants.approving import KIND, ask, switch_on


def test_declined_and_withdrawn_requests_are_over(tenant: Tenant, first: Person, second: Person) -> None:
    switch_on(tenant)
    declined, withdrawn = ask(tenant, first, count=1), ask(tenant, first, count=2)

    assert decline(request=declined, reason="no", actor=second, now=timezone.now()).reason == "no"
    withdraw(request=withdrawn, actor=first, now=timezone.now())

    for request in (declined, withdrawn):
        with pytest.raises(ConflictError):
            approve(request=request, actor=second, now=timezone.now())


def test_an_approval_can_be_taken_back_until_it_is_used(tenant: Tenant, first: Person, second: Person) -> None:
    switch_on(tenant)
    request = approve(request=ask(tenant, first), actor=second, now=timezone.now())

    decline(request=request, reason="thought again", actor=second, now=timezone.now())

    with pytest.raises(ApprovalNeededError):
        require(kind=KIND, subject=tenant, actor=first)


def test_only_the_requester_withdraws(tenant: Tenant, first: Person, second: Person) -> None:
    switch_on(tenant)

    with pytest.raises(NotAllowedError):
        withdraw(request=ask(tenant, first), actor=second, now=timezone.now())


def test_every_step_is_in_the_audit(tenant: Tenant, first: Person, second: Person) -> None:
    switch_on(tenant)
    approve(request=ask(tenant, first, count=3), actor=second, now=timezone.now())
    require(kind=KIND, subject=tenant, actor=first, parameters={"count": 3})

    events = AuditEvent.objects.filter(action__startswith="approval.").order_by("pk")
    assert [(event.action, event.actor_name) for event in events] == [
        ("approval.requested", "first"),
        ("approval.approved", "second"),
        ("approval.used", "first"),
    ]
    assert {event.tenant_id for event in events} == {tenant.pk}
    assert events[0].after["parameters"] == {"count": 3}


def test_with_one_administrator_no_rule_can_be_switched_on(tenant: Tenant, first: Person) -> None:
    with pytest.raises(ConflictError, match="nobody else") as raised:
        set_rule(kind=KIND, tenant=tenant, required=True, actor=first, now=timezone.now())

    assert raised.value.code == "no_second_person"
    assert not is_required(KIND, tenant)


def test_with_two_it_can(tenant: Tenant, first: Person, second: Person) -> None:
    set_rule(kind=KIND, tenant=tenant, required=True, actor=first, now=timezone.now())

    assert is_required(KIND, tenant) and not is_required(KIND, make_tenant())
    assert AuditEvent.objects.filter(action="approval_rule.on", tenant=tenant).count() == 1


def test_administrators_of_a_tenant_do_not_count_where_a_superadmin_is_needed(
    tenant: Tenant, first: Person, second: Person
) -> None:
    boss = make_person(superadmin=True)

    with pytest.raises(ConflictError, match="nobody else"):
        set_rule(kind=ApprovalKind.TENANT_DELETE, tenant=tenant, required=True, actor=boss, now=timezone.now())


def test_rules_for_everywhere_are_for_superadmins(tenant: Tenant, first: Person, second: Person) -> None:
    with pytest.raises(NotAllowedError):
        set_rule(kind=KIND, tenant=None, required=True, actor=first, now=timezone.now())


@pytest.mark.parametrize("kind", ["approvals.off", "no.such", ""])
def test_there_is_no_rule_for_other_kinds(tenant: Tenant, first: Person, kind: str) -> None:
    with pytest.raises(InvalidInputError):
        set_rule(kind=kind, tenant=tenant, required=True, actor=first, now=timezone.now())


def test_switching_a_rule_off_needs_a_second_person(tenant: Tenant, first: Person, second: Person) -> None:
    set_rule(kind=KIND, tenant=tenant, required=True, actor=first, now=timezone.now())

    with pytest.raises(ApprovalNeededError) as raised:
        set_rule(kind=KIND, tenant=tenant, required=False, actor=first, now=timezone.now())
    assert is_required(KIND, tenant)
    keep(raised.value.request)
    approve(request=raised.value.request, actor=second, now=timezone.now())
    set_rule(kind=KIND, tenant=tenant, required=False, actor=first, now=timezone.now())

    assert not is_required(KIND, tenant)


def test_who_is_left_alone_may_switch_it_off(tenant: Tenant, first: Person, second: Person) -> None:
    set_rule(kind=KIND, tenant=tenant, required=True, actor=first, now=timezone.now())
    Person.objects.filter(pk=second.pk).update(is_active=False)

    set_rule(kind=KIND, tenant=tenant, required=False, actor=first, now=timezone.now())

    assert not is_required(KIND, tenant)


def test_but_not_right_after_he_sent_the_others_away(tenant: Tenant, first: Person, second: Person) -> None:
    set_rule(kind=KIND, tenant=tenant, required=True, actor=first, now=timezone.now())
    Person.objects.filter(pk=second.pk).update(is_active=False)
    record(action="person.deactivate", subject=second, actor=first)

    with pytest.raises(ConflictError, match="only administrator"):
        set_rule(kind=KIND, tenant=tenant, required=False, actor=first, now=timezone.now())

    set_rule(kind=KIND, tenant=tenant, required=False, actor=first, now=timezone.now() + timedelta(days=8))
