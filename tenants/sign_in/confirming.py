"""Asking again before what is sensitive: within five minutes the person must have shown that it is he.

Whoever has a second factor shows that one, everybody else the password, or comes from the single sign-on again. Portal
views carry `@confirmed`. The API asks `require_confirmed`, which refuses a session that is not fresh; a token cannot be
asked, it needs a scope for the action instead.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from allauth.account.internal.flows.login import get_authentication_records
from allauth.core.exceptions import ReauthenticationRequired
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from common.errors import NotAllowedError, StepUpNeededError
from tenants.models import Person
from tenants.sign_in import factors

_WITHOUT_FACTOR = frozenset({"password", "socialaccount", "mfa"})


def records_of(request: HttpRequest, person: Person | None = None) -> list[dict[str, Any]]:
    """How the person of this session signed in and confirmed since, oldest first: `method`, `at` (seconds), more."""
    return list(get_authentication_records(request, person or request.user))


def is_confirmed(request: HttpRequest, *, now: float) -> bool:
    """Whether the person has shown within the last minutes that it is he; a second factor counts if he has one."""
    if not request.user.is_authenticated:
        return False
    methods = {"mfa"} if factors.has_factor(request.user) else _WITHOUT_FACTOR
    shown = [entry["at"] for entry in records_of(request) if entry.get("method") in methods]
    return any(0 <= now - at < settings.ACCOUNT_REAUTHENTICATION_TIMEOUT for at in shown)


def confirmed(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """For portal views, inside `portal_page`. After the confirmation the request goes on as it was."""

    @functools.wraps(view)
    def asking(request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        ask_to_confirm(request)
        return view(request, *args, **options)

    return asking


def ask_to_confirm(request: HttpRequest) -> None:
    """The same, for a portal view that asks in some cases only. Raises what leads to the page that asks."""
    if is_confirmed(request, now=time.time()):
        return
    if not request.user.has_usable_password() and not factors.has_factor(request.user):
        raise NotAllowedError("Sign out and in again, then do this within five minutes.")
    raise ReauthenticationRequired


def require_confirmed(request: Any) -> None:
    """For actions of the API. Raises StepUpNeededError for a session that is not fresh; tokens pass."""
    if getattr(request, "auth", None) is not None:
        return
    if not is_confirmed(getattr(request, "_request", request), now=time.time()):
        raise StepUpNeededError(
            "Confirm that it is you: open /confirm/ in the portal, then do this within five minutes."
        )
