"""What a mail says. The texts are ours; what people typed is put in as plain values and never read as a template."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, tzinfo
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.mail import EmailMessage
from django.template.loader import render_to_string

from tenants.models import NoticeEvent, OutboxMessage
from tenants.notices.events import Severity, kind_of, one_line

LONGEST_SUBJECT = 150
# More in one digest are only counted.
LISTED_EVENTS = 100


def address_of(message: OutboxMessage) -> str:
    """Where the message goes; empty when its receiver has no address any more."""
    person = message.person or (message.subscription.person if message.subscription else None)
    if person is not None:
        return str(person.email)
    return message.subscription.address if message.subscription else ""


def sentence(event: NoticeEvent) -> str:
    """What happened, in one line."""
    return one_line(kind_of(event.code).text.replace("{name}", event.subject_name), longest=400)


def compose(messages: Sequence[OutboxMessage], *, address: str) -> EmailMessage:
    """One mail about all of the messages, oldest first. They have one receiver."""
    ordered = sorted(messages, key=lambda message: (message.event.at, str(message.pk)))
    zone = _zone_of(ordered[0])
    context = {
        "entries": [_entry(message.event, zone) for message in ordered[:LISTED_EVENTS]],
        "more": max(0, len(ordered) - LISTED_EVENTS),
        "portal": settings.CONFIG.portal_url,
        "team": ordered[0].subscription is not None and ordered[0].subscription.person_id is None,
        "account": ordered[0].person_id is not None,
    }
    return EmailMessage(
        subject=_subject([message.event for message in ordered]),
        body=render_to_string("notices/mail.txt", context),
        from_email=settings.DEFAULT_FROM_EMAIL,
        to=[address],
        headers={
            "Message-ID": _message_id(ordered),
            "Auto-Submitted": "auto-generated",
            "X-Auto-Response-Suppress": "All",
        },
    )


def _subject(events: Sequence[NoticeEvent]) -> str:
    if len(events) == 1:
        recovered = "Over: " if events[0].recovers else ""
        return one_line(f"[Backupsite] {recovered}{sentence(events[0])}", longest=LONGEST_SUBJECT)
    worst = max(event.severity for event in events)
    return f"[Backupsite] {len(events)} events, the worst of them: {Severity(worst).name.lower()}"


def _entry(event: NoticeEvent, zone: tzinfo) -> dict[str, object]:
    return {
        "text": sentence(event),
        "at": f"{event.at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}",
        "code": event.code,
        "severity": Severity(event.severity).name.lower(),
        "tenant": event.tenant.title if event.tenant else "",
        "recovers": event.recovers,
        "facts": [(name.replace("_", " "), one_line(str(value), longest=500)) for name, value in _shown(event)],
    }


def _shown(event: NoticeEvent) -> list[tuple[str, object]]:
    return [(name, value) for name, value in event.facts.items() if value not in ("", None)]


def _zone_of(message: OutboxMessage) -> tzinfo:
    person = message.person or (message.subscription.person if message.subscription else None)
    return ZoneInfo(person.time_zone) if person is not None else UTC


def _message_id(messages: Sequence[OutboxMessage]) -> str:
    """The same for the same messages: a mail that comes again after a crash is known as the same one."""
    digest = hashlib.sha256("|".join(str(message.pk) for message in messages).encode()).hexdigest()[:32]
    return f"<{digest}@{urlsplit(settings.CONFIG.portal_url).hostname}>"
