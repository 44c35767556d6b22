"""Messages under crashes, several senders and endpoints that fail: delivered at least once, done once, never lost."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tenants.models import NoticeEvent, OutboxMessage, Webhook
from tenants.notices import keeping, outbox
from tenants.notices.outbox import DISABLE_AFTER_FAILURES, LEASE, Outcome, claim, finish, retry, wait_after
from tenants.notices.publishing import GIVE_UP_AFTER, publish
from tests.factories import make_subscription, make_tenant, make_webhook
from tests.tenants.notice_world import Clock

pytestmark = pytest.mark.django_db
DONE = Outcome(delivered=True, status_code=200)
FAILED = Outcome(delivered=False, error="It answered 500.", status_code=500)
State = OutboxMessage.State


def a_message(clock: Clock, **changes: Any) -> OutboxMessage:
    webhook = make_webhook(make_tenant(), **changes)
    return another(webhook, clock)


def another(webhook: Webhook, clock: Clock) -> OutboxMessage:
    event = publish(event="backup.failed", tenant=webhook.tenant, subject=webhook.tenant, at=clock.now)
    assert event is not None
    return event.messages.get(webhook=webhook)


def attempt(message: OutboxMessage, outcome: Outcome, clock: Clock) -> OutboxMessage:
    """Claim and finish, as soon as it is due."""
    message = OutboxMessage.objects.select_related("webhook", "event").get(pk=message.pk)
    clock.now = max(clock.now, message.next_try_at)
    assert claim(message, now=clock.now)
    assert finish(message, outcome, now=clock.now, chance=lambda: 1.0)
    return OutboxMessage.objects.select_related("webhook", "event").get(pk=message.pk)


def test_a_message_is_delivered() -> None:
    clock = Clock()

    done = attempt(a_message(clock), Outcome(delivered=True, status_code=204, seconds=0.1, answer="a\nb\x1b"), clock)

    assert (done.state, done.status_code, done.attempts, done.answer) == (State.DONE, 204, 1, "a b")
    assert done.webhook is not None and done.webhook.succeeded_at == clock.now


def test_of_two_senders_one_gets_it() -> None:
    clock = Clock()
    first = a_message(clock)
    second = OutboxMessage.objects.get(pk=first.pk)

    assert claim(first, now=clock.now)
    assert not claim(second, now=clock.now)
    assert not claim(OutboxMessage.objects.get(pk=first.pk), now=clock.now)


def test_a_sender_that_was_lost_loses_its_claim_and_ends_nothing() -> None:
    clock = Clock()
    lost = a_message(clock)
    claim(lost, now=clock.now)
    clock.now += LEASE

    other = OutboxMessage.objects.get(pk=lost.pk)
    assert claim(other, now=clock.now)

    assert not finish(lost, FAILED, now=clock.now, chance=lambda: 1.0)
    assert finish(other, DONE, now=clock.now, chance=lambda: 1.0)
    assert not finish(other, FAILED, now=clock.now, chance=lambda: 1.0)
    found = OutboxMessage.objects.get(pk=lost.pk)
    assert (found.state, found.attempts) == (State.DONE, 2)
    assert Webhook.objects.get().consecutive_failures == 0


@given(st.integers(0, 60), st.floats(0, 1))
def test_waits_are_spread_and_bounded(failures: int, chance: float) -> None:
    wait = wait_after(failures, chance)

    assert timedelta(0) <= wait <= timedelta(hours=1)
    assert wait_after(failures, 1.0) <= wait_after(failures + 1, 1.0)
    assert wait_after(1, 1.0) == timedelta(seconds=10)


def test_it_is_tried_for_a_day_and_then_given_up_with_a_notice() -> None:
    clock = Clock()
    message = a_message(clock)
    make_subscription(tenant=message.webhook.tenant, address="team@example.com")
    begun = clock.now
    while message.state != State.DEAD:
        # One answer in between, so that the endpoint as a whole is not switched off.
        Webhook.objects.update(consecutive_failures=0, not_before=None)
        message = attempt(message, FAILED, clock)

    assert GIVE_UP_AFTER - timedelta(hours=1) <= clock.now - begun <= GIVE_UP_AFTER
    assert message.attempts > 24
    told = NoticeEvent.objects.get(code="webhook.undelivered")
    assert told.facts == {"event": "backup.failed", "reason": "It answered 500."}
    assert [row.kind for row in told.messages.all()] == ["email"]


def test_an_endpoint_that_only_fails_is_switched_off_with_a_notice_and_can_be_switched_on() -> None:
    clock = Clock()
    message = a_message(clock)
    webhook = message.webhook
    assert webhook is not None
    make_subscription(tenant=webhook.tenant, address="team@example.com")
    others = [another(webhook, clock) for _ in range(3)]
    failing = [message, *others]

    for number in range(DISABLE_AFTER_FAILURES):
        failing[number % 4] = attempt(failing[number % 4], FAILED, clock)

    webhook.refresh_from_db()
    assert webhook.status == Webhook.Status.DISABLED
    assert "20 attempts in a row failed: It answered 500." in webhook.status_reason
    assert set(OutboxMessage.objects.filter(webhook=webhook).values_list("state", flat=True)) == {State.DEAD}
    assert NoticeEvent.objects.filter(code="webhook.disabled").count() == 1
    # Nothing new is made for it, and what was given up can be sent again.
    assert publish(event="backup.failed", tenant=webhook.tenant, subject=webhook.tenant).messages.count() == 1
    Webhook.objects.update(status=Webhook.Status.ACTIVE, consecutive_failures=0, not_before=None)
    assert retry(failing[0], now=clock.now)
    assert attempt(failing[0], DONE, clock).state == State.DONE


def test_an_endpoint_that_is_gone_for_good_is_switched_off_at_once() -> None:
    clock = Clock()

    message = attempt(a_message(clock), Outcome(delivered=False, error="It answered 410.", gone=True), clock)

    assert message.webhook is not None and message.webhook.status == Webhook.Status.DISABLED


def test_a_success_forgets_failures() -> None:
    clock = Clock()
    message = attempt(a_message(clock), FAILED, clock)
    assert message.webhook is not None
    assert message.webhook.not_before == clock.now + timedelta(seconds=10)

    message = attempt(message, DONE, clock)

    assert message.webhook is not None
    assert (message.webhook.consecutive_failures, message.webhook.not_before) == (0, None)


def test_what_waits_behind_a_paused_endpoint_is_given_up_after_a_day() -> None:
    clock = Clock()
    message = a_message(clock)
    Webhook.objects.update(status=Webhook.Status.PAUSED)

    assert outbox.give_up_old(now=clock.now) == 0
    clock.now += GIVE_UP_AFTER
    assert outbox.give_up_old(now=clock.now) == 1

    message.refresh_from_db()
    assert message.state == State.DEAD


def test_only_what_is_dead_is_sent_again() -> None:
    clock = Clock()

    assert not retry(a_message(clock), now=clock.now)


def test_a_crash_between_finish_and_commit_leaves_the_claim() -> None:
    clock = Clock()
    message = a_message(clock)
    claim(message, now=clock.now)

    with pytest.raises(RuntimeError), transaction.atomic():
        finish(message, DONE, now=clock.now, chance=lambda: 1.0)
        raise RuntimeError

    assert OutboxMessage.objects.get().state == State.SENDING
    assert OutboxMessage.objects.due(clock.now + LEASE).count() == 1


def test_old_messages_and_their_events_are_forgotten() -> None:
    clock = Clock()
    done, dead, waiting = a_message(clock), a_message(clock), a_message(clock)
    attempt(done, DONE, clock)
    attempt(dead, Outcome(delivered=False, final=True, error="no"), clock)

    assert keeping.forget_old(now=clock.now + timedelta(days=29)) == 0
    assert keeping.forget_old(now=clock.now + timedelta(days=31)) == 1
    assert keeping.forget_old(now=clock.now + timedelta(days=91)) == 1
    assert [row.pk for row in OutboxMessage.objects.all()] == [waiting.pk]
    assert set(NoticeEvent.objects.values_list("pk", flat=True)) == {waiting.event_id}


class OutboxMachine(RuleBasedStateMachine):
    """Two senders, crashes at each step, time, and a receiver that fails now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = transaction.atomic()
        self.outer.__enter__()
        self.clock = Clock()
        self.webhook = make_webhook(make_tenant())
        self.looked: dict[int, OutboxMessage] = {}
        self.held: dict[int, OutboxMessage] = {}
        self.received: set[uuid.UUID] = set()
        self.ended: dict[uuid.UUID, int] = {}

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.outer.__exit__(None, None, None)

    @initialize()
    def something_happened(self) -> None:
        self.something_happens()

    @rule()
    def something_happens(self) -> None:
        publish(event="backup.failed", tenant=self.webhook.tenant, subject=self.webhook.tenant, at=self.clock.now)

    @rule(sender=st.integers(0, 1))
    def a_sender_looks(self, sender: int) -> None:
        message = OutboxMessage.objects.due(self.clock.now).select_related("event", "webhook").first()
        if message is not None:
            self.looked[sender] = message

    @rule(sender=st.integers(0, 1))
    def a_sender_claims_what_it_saw(self, sender: int) -> None:
        message = self.looked.pop(sender, None)
        if message is None or not claim(message, now=self.clock.now):
            return
        assert not [held for held in self.held.values() if held.pk == message.pk and held.lease_until > self.clock.now]
        self.held[sender] = message

    @rule(sender=st.integers(0, 1))
    def its_receiver_takes_it_and_the_sender_is_killed(self, sender: int) -> None:
        if sender in self.held:
            self.received.add(self.held.pop(sender).pk)

    @rule(sender=st.integers(0, 1))
    def the_sender_is_killed_before(self, sender: int) -> None:
        self.held.pop(sender, None)

    @rule(sender=st.integers(0, 1), taken=st.booleans())
    def a_sender_sends_and_finishes(self, sender: int, taken: bool) -> None:
        message = self.held.pop(sender, None)
        if message is None:
            return
        if taken:
            self.received.add(message.pk)
        if finish(message, DONE if taken else FAILED, now=self.clock.now, chance=lambda: 0.5) and taken:
            self.ended[message.pk] = self.ended.get(message.pk, 0) + 1

    @rule(minutes=st.sampled_from([0.1, 2, 2, 300]))
    def time_passes(self, minutes: float) -> None:
        self.clock.forward(minutes=minutes)

    @rule()
    def the_endpoint_is_switched_on_again(self) -> None:
        Webhook.objects.update(status=Webhook.Status.ACTIVE, consecutive_failures=0)

    @invariant()
    def what_is_done_was_received_and_ended_once(self) -> None:
        done = set(OutboxMessage.objects.filter(state=State.DONE).values_list("pk", flat=True))
        assert done <= self.received
        assert all(count == 1 for count in self.ended.values())
        assert done == set(self.ended)

    @invariant()
    def nothing_is_stuck(self) -> None:
        """What is neither done nor given up is due at some time to come."""
        open_ = OutboxMessage.objects.filter(state__in=[State.PENDING, State.SENDING])
        later = self.clock.now + timedelta(hours=2)
        assert set(open_.values_list("pk", flat=True)) == set(
            OutboxMessage.objects.due(later).values_list("pk", flat=True)
        )


def test_in_any_order() -> None:
    run_state_machine_as_test(
        OutboxMachine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
