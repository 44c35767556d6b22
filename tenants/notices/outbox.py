"""The life of a message: PENDING -> SENDING -> DONE, back to PENDING to be tried again, or DEAD.

Each step is one conditional update. A claim is a number of its own with a lease: a sender that was killed loses it, and
one that comes back late ends nothing. Trying again waits a random time up to a bound that doubles (full jitter), so
that endpoints that failed together do not come back together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import F

from common.ids import new_id
from tenants.models import OutboxMessage, Webhook
from tenants.notices.events import ABOUT_DELIVERY, ON_DEMAND, one_line
from tenants.notices.publishing import GIVE_UP_AFTER, publish

LEASE = timedelta(minutes=2)
FIRST_WAIT = timedelta(seconds=10)
LONGEST_WAIT = timedelta(hours=1)
# With these waits some six hours of nothing but failures.
DISABLE_AFTER_FAILURES = 20
LONGEST_ANSWER = 1024

# A number from 0 to 1, evenly spread.
Chance = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt. `final`: trying again cannot help. `gone`: nor can anything else to that webhook."""

    delivered: bool
    error: str = ""
    status_code: int | None = None
    seconds: float | None = None
    answer: str = ""
    final: bool = False
    gone: bool = False
    mail_id: UUID | None = None


def claim(message: OutboxMessage, *, now: datetime) -> bool:
    """Take the message for one attempt. False when it is not due any more: somebody else was first."""
    number = new_id()
    taken = OutboxMessage.objects.due(now).filter(pk=message.pk, claim=message.claim)
    changes = {"state": OutboxMessage.State.SENDING, "claim": number, "lease_until": now + LEASE}
    if taken.update(attempts=F("attempts") + 1, **changes) != 1:
        return False
    message.refresh_from_db(fields=["state", "claim", "lease_until", "attempts"])
    return True


def finish(message: OutboxMessage, outcome: Outcome, *, now: datetime, chance: Chance) -> bool:
    """Write down what came of a claimed message. False, and nothing is written, when the claim was lost."""
    with transaction.atomic():
        if not _settle(message, outcome, now=now, chance=chance):
            return False
        if message.webhook_id is not None:
            _settle_webhook(message.webhook_id, outcome, now=now, chance=chance)
        return True


def wait_after(failures: int, chance: float) -> timedelta:
    """Evenly spread from nothing to a bound that doubles with each failure, up to an hour."""
    return min(FIRST_WAIT * 2 ** min(max(failures - 1, 0), 30), LONGEST_WAIT) * chance


def postpone(message: OutboxMessage, *, until: datetime) -> bool:
    """Not yet: the receiver has had enough for now. No attempt is counted."""
    waiting = OutboxMessage.objects.filter(pk=message.pk, state=OutboxMessage.State.PENDING)
    return waiting.update(next_try_at=until) == 1


def give_up_old(*, now: datetime) -> int:
    """What waits for a day behind an endpoint that is paused or in trouble is dead."""
    old = OutboxMessage.objects.due(now).filter(give_up_at__lte=now)
    ended = 0
    for message in old.select_related("event", "webhook")[:500]:
        outcome = Outcome(delivered=False, error=message.last_error or "It waited for a day.", final=True)
        if claim(message, now=now):
            with transaction.atomic():
                ended += _settle(message, outcome, now=now, chance=lambda: 0.0)
    return ended


def retry(message: OutboxMessage, *, now: datetime) -> bool:
    """A person wants a dead message to be sent once more, for a day from now. False when it is not dead."""
    dead = OutboxMessage.objects.filter(pk=message.pk, state=OutboxMessage.State.DEAD)
    fresh = {"state": OutboxMessage.State.PENDING, "finished_at": None, "attempts": 0, "last_error": ""}
    return dead.update(**fresh, next_try_at=now, give_up_at=now + GIVE_UP_AFTER) == 1


def _settle(message: OutboxMessage, outcome: Outcome, *, now: datetime, chance: Chance) -> bool:
    mine = OutboxMessage.objects.filter(pk=message.pk, claim=message.claim, state=OutboxMessage.State.SENDING)
    told = {
        "claim": None,
        "lease_until": None,
        "status_code": outcome.status_code,
        "seconds": outcome.seconds,
        "answer": _printable(outcome.answer),
        "last_error": one_line(outcome.error, longest=300),
        "mail_id": outcome.mail_id,
    }
    if outcome.delivered:
        return mine.update(state=OutboxMessage.State.DONE, finished_at=now, **told) == 1
    next_try_at = now + wait_after(message.attempts, chance())
    if outcome.final or next_try_at > message.give_up_at:
        ended = mine.update(state=OutboxMessage.State.DEAD, finished_at=now, **told) == 1
        if ended:
            _tell_of_the_dead(message, outcome)
        return ended
    return mine.update(state=OutboxMessage.State.PENDING, next_try_at=next_try_at, **told) == 1


def _tell_of_the_dead(message: OutboxMessage, outcome: Outcome) -> None:
    """By e-mail. Of a notice that cannot be delivered itself nothing is told: it is in the list of deliveries."""
    webhook, event = message.webhook, message.event
    if webhook is None or event.code in ABOUT_DELIVERY | ON_DEMAND or webhook.status != Webhook.Status.ACTIVE:
        return
    facts = {"event": event.code, "reason": outcome.error}
    publish(event="webhook.undelivered", tenant=webhook.tenant, subject=webhook, facts=facts)


def _settle_webhook(webhook_id: UUID, outcome: Outcome, *, now: datetime, chance: Chance) -> None:
    webhook = Webhook.objects.select_for_update().get(pk=webhook_id)
    webhook.tried_at = now
    if outcome.delivered:
        webhook.consecutive_failures, webhook.not_before, webhook.succeeded_at = 0, None, now
    else:
        webhook.consecutive_failures += 1
        webhook.not_before = now + wait_after(webhook.consecutive_failures, chance())
    webhook.save(update_fields=["tried_at", "succeeded_at", "consecutive_failures", "not_before"])
    if webhook.status != Webhook.Status.ACTIVE:
        return
    if outcome.gone:
        _disable(webhook, reason="It answered that it is gone for good (410).", now=now)
    elif webhook.consecutive_failures >= DISABLE_AFTER_FAILURES:
        _disable(webhook, reason=f"{webhook.consecutive_failures} attempts in a row failed: {outcome.error}", now=now)


def _disable(webhook: Webhook, *, reason: str, now: datetime) -> None:
    """Nothing more is sent; what waits is dead and can be sent again once a person switched the webhook on."""
    webhook.status, webhook.status_reason = Webhook.Status.DISABLED, one_line(reason, longest=300)
    webhook.save(update_fields=["status", "status_reason", "changed_at"])
    waiting = OutboxMessage.objects.filter(webhook=webhook, state=OutboxMessage.State.PENDING)
    waiting.update(state=OutboxMessage.State.DEAD, finished_at=now, last_error="The webhook was switched off.")
    publish(event="webhook.disabled", tenant=webhook.tenant, subject=webhook, facts={"reason": webhook.status_reason})


def _printable(text: str) -> str:
    """What somebody else wrote: at most 1 KiB, one line, nothing that steers a terminal."""
    return one_line(text, longest=LONGEST_ANSWER)
