"""Raising, acknowledging and clearing alarms: one stands per vault, code and subject.

It is cleared by whoever finds the cause gone. A person may acknowledge it: then it is off the list of what needs a
person and stands on, unless its kind says that nothing is left to be mended.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q

from common.errors import ConflictError, InvalidInputError, NotAllowedError
from tenants.audit import record
from tenants.models import Person
from tenants.notices import publish
from vaults.models import Alarm, Vault
from vaults.severity import Severity, kind_of

logger = logging.getLogger(__name__)

LONGEST_ACKNOWLEDGEMENT = 255
_UNACKNOWLEDGED: dict[str, Any] = {"acknowledged_at": None, "acknowledged_by": None, "acknowledgement": ""}


def raise_alarm(
    vault: Vault,
    *,
    code: str,
    message: str,
    now: datetime,
    subject: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Let the alarm stand, with the newest message. May run any number of times.

    An acknowledgement holds as long as the alarm stands; that of a critical one only while it says the same.
    """
    severity = kind_of(code).severity
    standing = Alarm.objects.standing().filter(vault=vault, code=code, subject=subject)
    facts: dict[str, Any] = {"message": message, "seen_at": now, "severity": severity, "details": dict(details or {})}
    if severity == Severity.CRITICAL:
        standing.filter(~Q(message=message)).update(**_UNACKNOWLEDGED)
    if standing.update(**facts):
        return
    try:
        with transaction.atomic():
            alarm = Alarm.objects.create(vault=vault, code=code, subject=subject, **facts)
            _tell(alarm, event="vault.alarm", message=message, at=now)
    except IntegrityError:
        return  # Another process raised it at the same moment.
    told = {"vault": vault.name, "code": code, "severity": severity.name.lower(), "reason": message}
    logger.log(logging.INFO if severity == Severity.INFO else logging.ERROR, "alarm", extra=told)


def clear_alarm(vault: Vault, *, code: str, now: datetime, subject: str = "", reason: str = "") -> None:
    """The cause is gone; without a `reason`, what the table says of such alarms. Nothing when no such alarm stands."""
    standing = Alarm.objects.standing().filter(vault=vault, code=code, subject=subject)
    alarm = standing.first()
    if alarm is None:
        return
    over = {"cleared_at": now, "cleared_reason": reason or kind_of(code).mended}
    with transaction.atomic():
        cleared = standing.filter(pk=alarm.pk).update(**over)
        if cleared:
            _tell(alarm, event="vault.alarm_cleared", message=str(over["cleared_reason"]), at=now)
    if cleared:
        logger.info("alarm cleared", extra={"vault": vault.name, "code": code})


def _tell(alarm: Alarm, *, event: str, message: str, at: datetime) -> None:
    """To whom it may concern, outside of the portal as well. What is only good to know is not told."""
    if alarm.severity == Severity.INFO:
        return
    facts = {"code": alarm.code, "about": alarm.subject, "message": message, "alarm": str(alarm.pk)}
    cause, vault = f"alarm:{alarm.pk}", alarm.vault
    publish(event=event, tenant=vault.tenant, subject=alarm, facts=facts, cause=cause, name=vault.name, at=at)


def acknowledge_alarm(alarm: Alarm, *, note: str, actor: Person, now: datetime) -> Alarm:
    """A SuperAdmin has seen it. Doing it twice keeps the first.

    Raises NotAllowedError for anybody else, InvalidInputError for a note that is too long, ConflictError for an alarm
    that is cleared.
    """
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin acknowledges alarms.")
    note = note.strip()
    if len(note) > LONGEST_ACKNOWLEDGEMENT:
        raise InvalidInputError(f"A note has at most {LONGEST_ACKNOWLEDGEMENT} characters.", field="note")
    with transaction.atomic():
        current = Alarm.objects.select_for_update().get(pk=alarm.pk)
        if current.cleared_at is not None and current.acknowledged_at is None:
            raise ConflictError("The cause of this alarm is gone already.", code="alarm_cleared")
        if current.acknowledged_at is None:
            _acknowledge(current, note=note, actor=actor, now=now)
    return current


def _acknowledge(alarm: Alarm, *, note: str, actor: Person, now: datetime) -> None:
    alarm.acknowledged_at, alarm.acknowledged_by, alarm.acknowledgement = now, actor, note
    if kind_of(alarm.code).closes_when_acknowledged:
        alarm.cleared_at, alarm.cleared_reason = now, f"Acknowledged by {actor}. {note}".strip()
    alarm.save()
    record(action="alarm.acknowledge", subject=alarm, actor=actor, after={"code": alarm.code, "note": note})
    logger.info("alarm acknowledged", extra={"alarm": str(alarm.pk), "code": alarm.code, "actor": str(actor)})
