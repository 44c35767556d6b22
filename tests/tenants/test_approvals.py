"""A second person for what cannot be undone: who counts as one, that it is good once, and how the rules change."""

from __future__ import annotations

import contextlib
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from agents.invitations import accept_invitation, invite
from common.errors import ApprovalNeededError, ConflictError, InvalidInputError, NotAllowedError
from tenants.approval_states import COOLING, GOOD_FOR, MOVES, WAITS, ApprovalKind, ApprovalStatus, sources_of
from tenants.approvals import (
    MOST_PENDING,
    approve,
    decline,
    expire_requests,
    is_required,
    keep,
    may_approve,
    require,
    set_rule,
    withdraw,
)
from tenants.audit import record
from tenants.models import ApprovalEvent, ApprovalRequest, ApprovalRule, AuditEvent, Person, Tenant
from tests.factories import make_person, make_tenant

KIND = ApprovalKind.RETENTION_SHORTEN


@pytest.fixture
def tenant(db: None) -> Tenant:
    return make_tenant()


@pytest.fixture
def first(tenant: Tenant) -> Person:
    return make_person("first", administers=[tenant])


@pytest.fixture
def second(tenant: Tenant) -> Person:
    return make_person("second", administers=[tenant])


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


# --- asking -----------------------------------------------------------------------------------------------------------


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


# --- being good once --------------------------------------------------------------------------------------------------


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


# --- who is the second person -----------------------------------------------------------------------------------------


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


# --- answers ----------------------------------------------------------------------------------------------------------


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


# --- rules ------------------------------------------------------------------------------------------------------------


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


# --- the state machine ------------------------------------------------------------------------------------------------


def test_the_table_of_moves_has_no_way_out_of_an_end() -> None:
    ends = {status for status in ApprovalStatus if not MOVES[status]}

    assert ends == {"declined", "withdrawn", "expired", "used"}
    assert sources_of(ApprovalStatus.USED) == [ApprovalStatus.APPROVED]
    assert all(ApprovalStatus.PENDING not in targets for targets in MOVES.values())


@pytest.mark.django_db(transaction=True)
def test_one_approval_used_many_times_at_once_is_used_once() -> None:
    tenant = make_tenant()
    first, second = make_person(administers=[tenant]), make_person(administers=[tenant])
    switch_on(tenant)
    approve(request=ask(tenant, first), actor=second, now=timezone.now())
    outcomes: list[str] = []

    def use() -> None:
        try:
            with transaction.atomic():
                require(kind=KIND, subject=tenant, actor=first)
            outcomes.append("done")
        except ApprovalNeededError:
            outcomes.append("refused")
        finally:
            connections.close_all()

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["done", *["refused"] * 7]
    connection.close()


class Approvals(RuleBasedStateMachine):
    """Whatever is done in whatever order: an action happens only with a fresh approval by somebody else, once each."""

    @initialize()
    def begin(self) -> None:
        self.tenant = make_tenant()
        self.people = [make_person(administers=[self.tenant]) for _ in range(3)]
        switch_on(self.tenant)
        self.now = timezone.now()
        self.done: list[tuple[int, int]] = []
        # (requester, parameter) -> by whom and when it was approved.
        self.good: dict[tuple[int, int], tuple[int, datetime]] = {}

    @rule(who=st.integers(0, 2), what=st.integers(0, 1))
    def act(self, who: int, what: int) -> None:
        approval = self.good.get((who, what))
        try:
            require(kind=KIND, subject=self.tenant, actor=self.people[who], parameters={"what": what}, now=self.now)
        except ApprovalNeededError as error:
            assert approval is None or approval[1] + GOOD_FOR <= self.now
            if error.request._state.adding:
                assert keep(error.request)
            return
        assert approval is not None and approval[0] != who and self.now < approval[1] + GOOD_FOR
        del self.good[who, what]

    @rule(who=st.integers(0, 2), number=st.integers(0, 10), answer=st.sampled_from(["approve", "decline", "withdraw"]))
    def answer(self, who: int, number: int, answer: str) -> None:
        requests = list(ApprovalRequest.objects.filter(tenant=self.tenant).order_by("pk"))
        if not requests:
            return
        request, person = requests[number % len(requests)], self.people[who]
        asked = (self.people.index(request.requested_by), request.parameters["what"])
        try:
            if answer == "approve":
                approve(request=request, actor=person, now=self.now)
                assert request.status == ApprovalStatus.PENDING and asked[0] != who and self.now < request.expires_at
                self.good[asked] = (who, self.now)
            elif answer == "decline":
                decline(request=request, reason="", actor=person, now=self.now)
                assert asked[0] != who
                self._forget(request, asked)
            else:
                withdraw(request=request, actor=person, now=self.now)
                assert asked[0] == who
                self._forget(request, asked)
        except (ConflictError, NotAllowedError):
            return

    def _forget(self, request: ApprovalRequest, asked: tuple[int, int]) -> None:
        if request.status == ApprovalStatus.APPROVED:
            self.good.pop(asked, None)

    @rule(hours=st.sampled_from([1, 23, 24, 72]))
    def wait(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule()
    def expire(self) -> None:
        expire_requests(now=self.now)
        self.good = {key: value for key, value in self.good.items() if self.now < value[1] + GOOD_FOR}

    @invariant()
    def every_status_has_its_event(self) -> None:
        if not hasattr(self, "tenant"):
            return
        for request in ApprovalRequest.objects.filter(tenant=self.tenant):
            codes = list(ApprovalEvent.objects.filter(request=request).order_by("pk").values_list("code", flat=True))
            assert codes[0] == "requested"
            assert request.status == (codes[-1] if len(codes) > 1 else "pending")


def test_in_any_order_of_asking_answering_waiting_and_acting(db: None) -> None:
    run_state_machine_as_test(
        Approvals,
        settings=settings(
            max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
