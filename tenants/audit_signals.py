"""Signing in and out, as Django tells of it: whichever way a person came in, these three signals are sent."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.utils import timezone

from tenants.audit import record
from tenants.models.core import Person
from tenants.refusals import note_failed_sign_in
from tenants.sign_in.backend import person_called

LONGEST_NAME = 254


def connect() -> None:
    """Called once when the app is ready."""
    user_logged_in.connect(_signed_in, dispatch_uid="audit.signed_in")
    user_logged_out.connect(_signed_out, dispatch_uid="audit.signed_out")
    user_login_failed.connect(_failed, dispatch_uid="audit.sign_in_failed")


def _signed_in(sender: Any, request: Any, user: Person, **rest: Any) -> None:
    record(action="sign_in.done", subject=user, actor=user)


def _signed_out(sender: Any, request: Any, user: Person | None, **rest: Any) -> None:
    if user is not None:
        record(action="sign_out.done", subject=user, actor=user)


def _failed(sender: Any, credentials: dict[str, Any], request: Any = None, **rest: Any) -> None:
    name = str(credentials.get("username") or credentials.get("email") or "")[:LONGEST_NAME]
    # As at the sign-in itself: by user name, or by the e-mail address of one person.
    person = person_called(name) if name else None
    note_failed_sign_in(request, person=person, now=timezone.now())
