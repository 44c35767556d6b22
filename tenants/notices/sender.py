"""The sender: claims what is due, speaks to the outside, writes down what came of it.

Slow receivers wait in threads that touch no database. In one round each webhook has at most one message on its way, and
those that waited longest come first: one tenant's endpoint holds up nobody else's. A receiver of mails gets at most a
few in ten minutes; what is more comes together in one.
"""

from __future__ import annotations

import json
import logging
import smtplib
import ssl
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from django.core.mail import EmailMessage
from django.db.models import Exists, F, OuterRef, Q

from common.errors import ConfigurationError
from common.guarded_http import Answer, DeliveryError, post
from common.ids import new_id
from common.ssrf import ForbiddenTargetError, Guard
from tenants.models import NoticeEvent, OutboxMessage, Webhook
from tenants.notices.events import Severity
from tenants.notices.mail import address_of, compose, sentence
from tenants.notices.outbox import Chance, Outcome, claim, finish, give_up_old, postpone
from tenants.notices.publishing import may_receive
from tenants.notices.reach import may_know
from tenants.notices.sealing import unseal
from tenants.notices.signatures import signed_headers

logger = logging.getLogger(__name__)

AT_ONCE = 8
MAILS_AT_ONCE = 16
LARGEST_LOOK = 500
MAILS_PER_WINDOW = 5
MAIL_WINDOW = timedelta(minutes=10)
USER_AGENT = "Backupsite-Webhooks/1"
SMTP_PERMANENT = 500

Poster = Callable[..., Answer]


@dataclass(frozen=True, slots=True)
class Tools:
    """What a sender works with. `private_key` opens the secrets of webhooks."""

    private_key: bytes
    guard: Guard
    clock: Callable[[], datetime]
    chance: Chance
    trust: ssl.SSLContext | None = None
    poster: Poster = post

    def __repr__(self) -> str:
        return "Tools(...)"


@dataclass(frozen=True, slots=True)
class _Attempt:
    """Claimed messages and the call that sends them: it runs in a thread, and raises nothing."""

    messages: tuple[OutboxMessage, ...]
    send: Callable[[], Outcome]


def send_due(tools: Tools, *, seconds: float) -> int:
    """Round after round until nothing is due or the time is over. Returns how many messages were delivered."""
    until, delivered = tools.clock() + timedelta(seconds=seconds), 0
    give_up_old(now=tools.clock())
    while tools.clock() < until:
        attempts = [*_to_webhooks(tools), *_mails(tools)]
        if not attempts:
            break
        delivered += _run(attempts, tools)
    return delivered


def _run(attempts: list[_Attempt], tools: Tools) -> int:
    delivered = 0
    with ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="notices") as pool:
        for attempt, outcome in zip(attempts, pool.map(lambda attempt: attempt.send(), attempts), strict=True):
            for message in attempt.messages:
                kept = finish(message, outcome, now=tools.clock(), chance=tools.chance)
                delivered += kept and outcome.delivered
            if not outcome.delivered:
                told = {"kind": attempt.messages[0].kind, "reason": outcome.error, "count": len(attempt.messages)}
                logger.info("notice not delivered", extra=told)
    return delivered


# --- webhooks ---------------------------------------------------------------------------------------------------------


def _to_webhooks(tools: Tools) -> Iterator[_Attempt]:
    now = tools.clock()
    due = OutboxMessage.objects.due(now).filter(webhook=OuterRef("pk"))
    ready = Webhook.objects.filter(Q(not_before=None) | Q(not_before__lte=now), status=Webhook.Status.ACTIVE)
    for webhook in ready.filter(Exists(due)).order_by(F("tried_at").asc(nulls_first=True), "pk")[:AT_ONCE]:
        waiting = OutboxMessage.objects.due(now).filter(webhook=webhook).select_related("event__tenant", "webhook")
        message = waiting.order_by("next_try_at", "pk").first()
        if message is not None and claim(message, now=now):
            yield _Attempt((message,), _call(message, webhook, tools))


def _call(message: OutboxMessage, webhook: Webhook, tools: Tools) -> Callable[[], Outcome]:
    """Prepared here, so that the thread needs no row."""
    body = webhook_body(message.event)
    try:
        headers = _headers(message, webhook, body, tools)
    except ConfigurationError as error:
        failure = Outcome(delivered=False, error=error.message)
        return lambda: failure
    return lambda: _post(webhook.url, body, headers, tools)


def webhook_body(event: NoticeEvent) -> bytes:
    """What is sent; the same bytes at each attempt."""
    tenant = event.tenant
    told = {
        "type": event.code,
        "timestamp": f"{event.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "data": {
            "event": str(event.pk),
            "severity": Severity(event.severity).name.lower(),
            "text": sentence(event),
            "recovers": event.recovers,
            "tenant": {"id": str(tenant.pk), "name": tenant.name} if tenant else None,
            "subject": {
                "kind": event.subject_model.rpartition(".")[2].lower(),
                "id": event.subject_id,
                "name": event.subject_name,
            },
            "facts": event.facts,
        },
    }
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _headers(message: OutboxMessage, webhook: Webhook, body: bytes, tools: Tools) -> Mapping[str, str]:
    now = tools.clock()
    sealed = [webhook.sealed_secret]
    if webhook.sealed_previous and webhook.previous_until is not None and webhook.previous_until > now:
        sealed.append(webhook.sealed_previous)
    secrets = [unseal(text, webhook_id=webhook.pk, private=tools.private_key) for text in sealed]
    signed = signed_headers(message_id=str(message.pk), body=body, secrets=secrets, now=now)
    return {"Content-Type": "application/json", "User-Agent": USER_AGENT, **signed}


def _post(url: str, body: bytes, headers: Mapping[str, str], tools: Tools) -> Outcome:
    try:
        answer = tools.poster(url, body=body, headers=headers, guard=tools.guard, trust=tools.trust)
    except (DeliveryError, ForbiddenTargetError) as error:
        return Outcome(delivered=False, error=error.message)
    except Exception:
        logger.exception("webhook failed in an unexpected way")
        return Outcome(delivered=False, error="The service could not send it. Its log says why.")
    error = "" if 200 <= answer.status < 300 else f"It answered {answer.status}."
    if 300 <= answer.status < 400:
        error = f"It answered {answer.status}; redirects are not followed."
    return Outcome(
        delivered=not error,
        error=error,
        status_code=answer.status,
        seconds=round(answer.seconds, 3),
        answer=answer.body.decode("utf-8", errors="replace"),
        gone=answer.status == 410,
    )


# --- mails ------------------------------------------------------------------------------------------------------------


def _mails(tools: Tools) -> Iterator[_Attempt]:
    now = tools.clock()
    due = OutboxMessage.objects.due(now).filter(kind=OutboxMessage.Kind.EMAIL)
    related = due.select_related("event__tenant", "event__person", "subscription__person", "person")
    rows = list(related.order_by("next_try_at", "pk")[:LARGEST_LOOK])
    rows.sort(key=_receiver)
    made = 0
    for _, group in groupby(rows, key=_receiver):
        for attempt in _to_receiver(list(group), tools, now):
            made += 1
            yield attempt
        # More at once would outlast their lease when the mail server hangs.
        if made >= MAILS_AT_ONCE:
            return


def _receiver(message: OutboxMessage) -> tuple[str, str]:
    return str(message.subscription_id or ""), str(message.person_id or "")


def _to_receiver(messages: list[OutboxMessage], tools: Tools, now: datetime) -> Iterator[_Attempt]:
    """A mail per message while there is room in the window; all in one when it is little, none when there is none."""
    sent = _sent_lately(messages[0], now)
    if len(sent) >= MAILS_PER_WINDOW:
        for message in messages:
            postpone(message, until=min(sent.values()) + MAIL_WINDOW)
        return
    claimed = [message for message in messages if claim(message, now=now)]
    allowed = [message for message in claimed if _is_still_his_business(message)]
    for message in claimed:
        if message not in allowed:
            outcome = Outcome(delivered=False, error="The receiver is not to be told of this any more.", final=True)
            finish(message, outcome, now=now, chance=tools.chance)
    if len(allowed) > MAILS_PER_WINDOW - len(sent):
        yield _mail(tuple(allowed))
    else:
        yield from (_mail((message,)) for message in allowed)


def _sent_lately(message: OutboxMessage, now: datetime) -> dict[Any, datetime]:
    """The mails that the receiver got within the window: when each was sent."""
    done = OutboxMessage.objects.filter(
        subscription_id=message.subscription_id,
        person_id=message.person_id,
        kind=OutboxMessage.Kind.EMAIL,
        state=OutboxMessage.State.DONE,
        finished_at__gt=now - MAIL_WINDOW,
    )
    return {mail_id: at for mail_id, at in done.values_list("mail_id", "finished_at") if at is not None}


def _is_still_his_business(message: OutboxMessage) -> bool:
    if not address_of(message):
        return False
    if message.subscription is not None:
        return message.subscription.active and may_receive(message.subscription, message.event)
    return message.person is not None and may_know(message.person, message.event)


def _mail(messages: tuple[OutboxMessage, ...]) -> _Attempt:
    mail = compose(messages, address=address_of(messages[0]))
    number = new_id()
    return _Attempt(messages, lambda: _send_mail(mail, number))


def _send_mail(mail: EmailMessage, number: Any) -> Outcome:
    try:
        mail.send()
    except smtplib.SMTPRecipientsRefused as error:
        code = next(iter(error.recipients.values()), (0, b""))[0]
        final = code >= SMTP_PERMANENT
        return Outcome(delivered=False, error=f"The mail server refuses the address ({code}).", final=final)
    except smtplib.SMTPResponseException as error:
        return Outcome(delivered=False, error=f"The mail server refused the mail ({error.smtp_code}).")
    except (OSError, smtplib.SMTPException):
        return Outcome(delivered=False, error="The mail server cannot be reached, or does not answer as it should.")
    except Exception:
        logger.exception("mail failed in an unexpected way")
        return Outcome(delivered=False, error="The service could not send it. Its log says why.")
    return Outcome(delivered=True, mail_id=number)
