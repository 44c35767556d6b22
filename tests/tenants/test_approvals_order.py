"""Approvals in any order and at the same moment: an action happens once for each."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from common.errors import ApprovalNeededError, ConflictError, NotAllowedError
from tenants.approval_states import GOOD_FOR, MOVES, ApprovalStatus, sources_of
from tenants.approvals import (
    approve,
    decline,
    expire_requests,
    keep,
    require,
    withdraw,
)
from tenants.models import ApprovalEvent, ApprovalRequest
from tests.factories import make_person, make_tenant
from tests.tenants.approving import KIND, ask, switch_on


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
