"""Telling the sender that there is something to send. Only a hint: it looks by itself every few seconds."""

from __future__ import annotations

import logging

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)

QUEUE = "notices"
TASK = "tenants.tasks.send_notices"
# A hint that is older says nothing that the next look does not find.
EXPIRES_SECONDS = 30


def hint_sender() -> None:
    """After the transaction. Never raises for a broker that is away."""
    transaction.on_commit(_hint, robust=True)


def _hint() -> None:
    try:
        current_app.send_task(TASK, queue=QUEUE, retry=False, ignore_result=True, expires=EXPIRES_SECONDS)
    except (OperationalError, OSError):
        logger.warning("broker does not answer; the sender looks by itself", extra={"task": TASK})
