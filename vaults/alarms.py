"""Raising and clearing alarms: one stands per vault and code, and it is cleared by whoever finds the cause gone."""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import IntegrityError, transaction

from vaults.models import Alarm, Vault

logger = logging.getLogger(__name__)


def raise_alarm(vault: Vault, *, code: str, message: str, now: datetime) -> None:
    """Let the alarm stand, with the newest message. May run any number of times."""
    if Alarm.objects.standing().filter(vault=vault, code=code).update(message=message, seen_at=now):
        return
    try:
        with transaction.atomic():
            Alarm.objects.create(vault=vault, code=code, message=message, seen_at=now)
    except IntegrityError:
        return  # Another process raised it at the same moment.
    logger.error("alarm", extra={"vault": vault.name, "code": code, "reason": message})


def clear_alarm(vault: Vault, *, code: str, now: datetime) -> None:
    """The cause is gone. Does nothing when no such alarm stands."""
    if Alarm.objects.standing().filter(vault=vault, code=code).update(cleared_at=now):
        logger.info("alarm cleared", extra={"vault": vault.name, "code": code})
