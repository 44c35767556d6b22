"""Writing an event and its messages, in the transaction of what happened: what was rolled back is told to nobody.

An event that nobody asked for leaves no row. When a cause is gone, those who were told of it are told of that as well,
whether or not they asked for good news.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from tenants.models import (
    Membership,
    NoticeEvent,
    OutboxMessage,
    Person,
    Subscription,
    Tenant,
    TenantGroupPermission,
    Webhook,
)
from tenants.notices.events import ABOUT_DELIVERY, RECOVERABLE, EventKind, kind_of, one_line, reported_facts
from tenants.notices.hints import hint_sender
from tenants.notices.reach import may_know

GIVE_UP_AFTER = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class _Receivers:
    webhooks: set[Any] = field(default_factory=set)
    subscriptions: set[Any] = field(default_factory=set)


def publish(
    *,
    event: str,
    tenant: Tenant | None,
    subject: models.Model,
    facts: Mapping[str, object] | None = None,
    cause: str = "",
    person: Person | None = None,
    name: str = "",
    at: datetime | None = None,
    quiet_for: timedelta | None = None,
    unasked: Collection[Person] = (),
    besides: Collection[NoticeEvent | None] = (),
) -> NoticeEvent | None:
    """Write the event and a message per receiver; None when nobody is to be told. KeyError for an unknown event.

    `cause` names what is wrong (`definition:<id>`), so that the event that `recovers` it finds those who were told.
    `person` is whom the event is about: he is always told by e-mail, and of others only SuperAdmins are.
    `name` stands for the subject where its own text does not say enough. With `quiet_for` the same event of the same
    cause is not told again within that time. `unasked` are told by e-mail whether they asked or not; who was told by an
    event of `besides`, of the same thing, is not told again.
    """
    kind = kind_of(event)
    written = NoticeEvent(
        code=event,
        severity=int(kind.severity),
        tenant=tenant,
        person=person,
        subject_model=subject._meta.label,
        subject_id=str(subject.pk),
        subject_name=one_line(name or str(subject), longest=200),
        facts=reported_facts(event, facts or {}),
        at=at or timezone.now(),
        cause=cause[:100],
        open=bool(cause) and event in RECOVERABLE,
    )
    if quiet_for is not None and _was_told(written, since=written.at - quiet_for):
        return None
    with transaction.atomic():
        told = _told_of_cause(written, kind)
        written.recovers = bool(told.webhooks or told.subscriptions)
        messages = [
            *_to_webhooks(written, told),
            *_to_subscriptions(written, told),
            *_to_persons(written, unasked),
        ]
        messages = _without(messages, already_by=besides)
        if not messages:
            return None
        written.save(force_insert=True)
        OutboxMessage.objects.bulk_create(messages)
    hint_sender()
    return written


def _was_told(event: NoticeEvent, *, since: datetime) -> bool:
    same = NoticeEvent.objects.filter(code=event.code, cause=event.cause, tenant_id=event.tenant_id, at__gt=since)
    return same.exists()


def send_to_webhook(webhook: Webhook, *, event: str, name: str, now: datetime) -> OutboxMessage:
    """One event for one webhook, whatever it asked for: the test."""
    written = NoticeEvent.objects.create(
        code=event,
        severity=int(kind_of(event).severity),
        tenant=webhook.tenant,
        subject_model=webhook._meta.label,
        subject_id=str(webhook.pk),
        subject_name=one_line(name, longest=200),
        at=now,
    )
    message = _message(written, webhook=webhook)
    message.save(force_insert=True)
    hint_sender()
    return message


def _message(event: NoticeEvent, **receiver: Any) -> OutboxMessage:
    """Unsaved; due at once."""
    kind = OutboxMessage.Kind.WEBHOOK if "webhook" in receiver else OutboxMessage.Kind.EMAIL
    return OutboxMessage(event=event, kind=kind, next_try_at=event.at, give_up_at=event.at + GIVE_UP_AFTER, **receiver)


def _told_of_cause(event: NoticeEvent, kind: EventKind) -> _Receivers:
    """Who was told of what is over now. The cause is closed."""
    if not (event.cause and kind.recovers):
        return _Receivers()
    opened = NoticeEvent.objects.filter(cause=event.cause, open=True, code__in=kind.recovers)
    sent = OutboxMessage.objects.filter(event__in=opened).values_list("webhook_id", "subscription_id")
    told = _Receivers({row[0] for row in sent if row[0]}, {row[1] for row in sent if row[1]})
    opened.update(open=False)
    return told


def _candidates(rows: models.QuerySet[Any], event: NoticeEvent, told: set[Any]) -> models.QuerySet[Any]:
    """Receivers of the event's tenant and of none in particular, at least as bad as they wish, or told of the cause."""
    within = Q(tenant=None) | Q(tenant_id=event.tenant_id) if event.tenant_id else Q(tenant=None)
    return rows.filter(within, Q(severity__lte=event.severity) | Q(pk__in=told))


def _to_webhooks(event: NoticeEvent, told: _Receivers) -> Iterable[OutboxMessage]:
    if event.code in ABOUT_DELIVERY:
        return
    for webhook in _candidates(Webhook.objects.filter(status=Webhook.Status.ACTIVE), event, told.webhooks):
        if _asked_for(event, webhook.events) or webhook.pk in told.webhooks:
            yield _message(event, webhook=webhook)


def _to_subscriptions(event: NoticeEvent, told: _Receivers) -> Iterable[OutboxMessage]:
    rows = _candidates(Subscription.objects.filter(_concerned(event), active=True), event, told.subscriptions)
    for row in rows.select_related("person"):
        if not _asked_for(event, row.events) and row.pk not in told.subscriptions:
            continue
        if may_receive(row, event):
            yield _message(event, subscription=row)


def _concerned(event: NoticeEvent) -> Q:
    """Leaves out the people of other tenants in one statement; who is left is asked one by one in `may_receive`."""
    members = Membership.objects.filter(company__tenant_id=event.tenant_id).values("person_id")
    groups = TenantGroupPermission.objects.filter(content_object_id=event.tenant_id).values("group__user")
    return Q(person=None) | Q(person__is_superuser=True) | Q(person__in=members) | Q(person__in=groups)


def _to_persons(event: NoticeEvent, unasked: Collection[Person]) -> Iterable[OutboxMessage]:
    """What concerns the safety of an account reaches its owner whether he asked for it or not."""
    direct = [*unasked] if event.person is None else [event.person, *unasked]
    for person in {person.pk: person for person in direct}.values():
        if person.email and person.is_active:
            yield _message(event, person=person)


def _without(messages: list[OutboxMessage], *, already_by: Collection[NoticeEvent | None]) -> list[OutboxMessage]:
    """Each receiver hears of one thing once: by itself, or as the person of a subscription."""
    told: set[Any] = set()
    earlier = OutboxMessage.objects.filter(event__in=[event for event in already_by if event is not None])
    for message in earlier.select_related("subscription") if any(already_by) else ():
        told |= _receivers_of(message)
    kept = []
    # Directly first: of two ways to one person this one says that it is about the account.
    for message in sorted(messages, key=lambda message: message.person_id is None):
        if not told & _receivers_of(message):
            kept.append(message)
            told |= _receivers_of(message)
    return kept


def _receivers_of(message: OutboxMessage) -> set[Any]:
    subscriber = message.subscription.person_id if message.subscription is not None else None
    keys = (message.webhook_id, message.subscription_id, message.person_id, subscriber)
    return {key for key in keys if key is not None}


def may_receive(subscription: Subscription, event: NoticeEvent) -> bool:
    """Whether what the event tells is the receiver's business now."""
    if subscription.person is not None:
        return bool(subscription.person.email) and may_know(subscription.person, event)
    return subscription.is_installation_wide or subscription.tenant_id == event.tenant_id


def _asked_for(event: NoticeEvent, events: list[str]) -> bool:
    """An empty list is all events."""
    return not events or event.code in events
