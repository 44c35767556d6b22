"""Mails about sign-in. They leave after the answer, from a thread: their time tells nobody who has an account."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import connection

from tenants.models import Person

logger = logging.getLogger(__name__)

MOST_WAITING = 200
_pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="sign-in-mail")
_room = threading.BoundedSemaphore(MOST_WAITING)


def later(work: Callable[[], None]) -> None:
    """Do it soon, in the same context. What is too much is left out; trouble is for the log."""
    if not _room.acquire(blocking=False):
        logger.warning("Too many mails about sign-in wait; one was left out.")
        return
    _pool.submit(contextvars.copy_context().run, _do, work)


def _do(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:  # the caller was answered long ago
        logger.exception("A mail about sign-in could not be sent.")
    finally:
        _room.release()
        connection.close()


def send(address: str, *, subject: str, text: str) -> None:
    EmailMessage(
        subject=subject,
        body=text,
        from_email=settings.DEFAULT_FROM_EMAIL,
        to=[address],
        headers={"Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"},
    ).send()


def tell(person: Person, what: str) -> None:
    """Something about the person's sign-in changed; he should hear of it, above all when it was not he."""
    if not person.email:
        return
    address, portal = person.email, settings.CONFIG.portal_url
    text = (
        f"{what}\n\nAccount: {person.username}\nPortal: {portal}\n\n"
        "If this was not you, tell an administrator and change your password at once.\n"
    )
    later(lambda: send(address, subject="Backupsite: your sign-in was changed", text=text))
