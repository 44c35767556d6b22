"""What a session must still fulfil: its age, its idle time, and the second factor that administrators need.

The facts that need the database are looked up once a minute and kept in the session. Pages that ask by themselves
(htmx) do not count as somebody being there.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY, logout
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django_htmx.http import HttpResponseClientRedirect

from tenants.models import Person, PortalSession
from tenants.sign_in import devices, factors
from tenants.sign_in.confirming import records_of
from tenants.sign_in.limits import is_over
from tenants.sign_in.session_store import SEEN_AT, SIGNED_IN_AT

GUARD = "guard"
LOOK_SECONDS = 60
# Pages for somebody who has to set up a second factor first.
_OPEN_PREFIXES = ("mfa_", "account_")
_OPEN = frozenset({"login", "logout", "sign-out-everywhere", "livez", "readyz"})


def begin(request: HttpRequest, person: Person, *, now: datetime) -> None:
    """At sign-in."""
    stamp = now.timestamp()
    request.session[SIGNED_IN_AT] = request.session[SEEN_AT] = stamp
    devices.note_sign_in(request, person, now=now)
    factors.note_first_sign_in(person, now=now)
    PortalSession.objects.filter(expire_date__lte=now).delete()
    look(request, person, now=now)


def look(request: HttpRequest, person: Person, *, now: datetime) -> None:
    """Look the facts up: whether he administers, and until when he may do without a second factor (None: for ever)."""
    administrator = person.administers()
    until = None
    if (
        administrator
        and not came_with_factor(request, person)
        and factors.needs_factor(person)
        and not factors.has_factor(person)
    ):
        until = factors.grace_ends_at(person, now=now).timestamp()
    request.session[GUARD] = {"at": now.timestamp(), "administrator": administrator, "factor_until": until}


def look_again(request: HttpRequest) -> None:
    """Something changed: look with the next request."""
    if GUARD in getattr(request, "session", {}):
        request.session[GUARD] = {**request.session[GUARD], "at": 0}


def factor_is_due(request: HttpRequest, *, now: datetime) -> bool:
    """Whether the time is over in which this person may sign in without a second factor."""
    until = request.session.get(GUARD, {}).get("factor_until")
    return until is not None and now.timestamp() >= until


def factor_wanted_until(request: HttpRequest) -> datetime | None:
    """For the reminder on the pages."""
    until = request.session.get(GUARD, {}).get("factor_until")
    return datetime.fromtimestamp(until, tz=UTC) if until is not None else None


def came_with_factor(request: HttpRequest, person: Person) -> bool:
    return any(entry.get("method") == "mfa" for entry in records_of(request, person))


class SignInGuardMiddleware:
    """Stands after AuthenticationMiddleware. Token requests have no session and pass."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if settings.SESSION_COOKIE_NAME in request.COOKIES and SESSION_KEY in request.session:
            self._keep_or_end(request, timezone.now())
        return self._get_response(request)

    def process_view(self, request: HttpRequest, view: Any, args: Any, options: Any) -> HttpResponse | None:
        """The API refuses by itself (`tenants.sign_in.api_session`), in its own words."""
        name = request.resolver_match.url_name or "" if request.resolver_match else ""
        if request.path.startswith("/api/") or name in _OPEN or name.startswith(_OPEN_PREFIXES):
            return None
        if SESSION_KEY not in request.session or not factor_is_due(request, now=timezone.now()):
            return None
        target = reverse("mfa_index")
        return HttpResponseClientRedirect(target) if _is_htmx(request) else HttpResponseRedirect(target)

    def _keep_or_end(self, request: HttpRequest, now: datetime) -> None:
        session, stamp = request.session, now.timestamp()
        guard = session.get(GUARD, {})
        ended = is_over(
            signed_in_at=session.get(SIGNED_IN_AT),
            seen_at=session.get(SEEN_AT),
            administrator=guard.get("administrator", True),
            now=stamp,
            limits=settings.SESSION_LIMITS,
        )
        if ended or not request.user.is_authenticated:
            logout(request)
            return
        if stamp - guard.get("at", 0) >= LOOK_SECONDS:
            look(request, request.user, now=now)
        if stamp - session[SEEN_AT] >= LOOK_SECONDS and not _is_htmx(request):
            session[SEEN_AT] = stamp


def _is_htmx(request: HttpRequest) -> bool:
    return request.headers.get("HX-Request") == "true" and request.headers.get("HX-Boosted") != "true"
