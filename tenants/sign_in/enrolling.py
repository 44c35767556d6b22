"""A first second factor for somebody whom the password alone does not do any more: whose time without one is over, or
who had one and lost it. He gets a code to his address; with password and code he may set one up.

So a stolen password sets up nothing in his place, and nobody is locked out for ever. Who signed in by a single sign-on
that asked for a second factor is not asked. The code is kept as a hash in the session that the password opened.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from tenants.audit import record
from tenants.models import Person
from tenants.refusals import note_refusal
from tenants.sign_in import factors, guard, mails
from tenants.sign_in.forms import TOO_MANY, EnrolForm
from tenants.sign_in.throttle import Attempt, begin_attempt, begin_reset
from tenants.views import STATUS_WRONG_INPUT, portal_page

CODE, PROVEN_UNTIL = "enrol_code", "enrol_proven_until"
GOOD_SECONDS = 15 * 60
DIGITS = 8
MOST_TRIES = 5
_SUBJECT = "Backupsite: a code to set up a second factor"
_TEXT = """The code is {code}. It works for 15 minutes, where you asked for it.

Account: {name}
Portal: {portal}

If you did not ask for it, somebody knows your password: change it at once, and tell an administrator.
"""


def with_code(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """For the pages on which a second factor is set up."""

    @functools.wraps(view)
    def asking(request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        if request.user.is_authenticated and needs_code(request, request.user):
            return redirect("mfa_enrol_code")
        return view(request, *args, **options)

    return asking


def needs_code(request: HttpRequest, person: Person) -> bool:
    """Whether the person has to type a code from his mail before he may set up a second factor in this session."""
    if factors.has_factor(person) or guard.came_with_factor(request, person):
        return False
    if time.time() < request.session.get(PROVEN_UNTIL, 0):
        return False
    return factors.is_past_password_alone(person, now=timezone.now())


@require_http_methods(["GET", "POST"])
@portal_page
def enrol_code(request: HttpRequest) -> HttpResponse:
    """POST with `send` mails a code; with `code` the session may set up a factor for a while."""
    if not needs_code(request, request.user):
        return redirect("mfa_index")
    if request.method == "POST" and "send" in request.POST:
        return _send(request)
    form = EnrolForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        attempt = begin_attempt(request, request.user.username, now=time.time())
        if not attempt.is_allowed:
            return _too_many(request, form, attempt)
        if _is_right(request, form.cleaned_data["code"]):
            attempt.forgive()
            request.session[PROVEN_UNTIL] = time.time() + GOOD_SECONDS
            record(action="mfa.enrol_code_used", subject=request.user, actor=request.user)
            return redirect("mfa_index")
        facts = {"account": request.user.username, "route": f"mfa:{request.user.pk}", "kind": "mail"}
        note_refusal(action="mfa.failed", facts=facts, subject=request.user, now=timezone.now())
        form.add_error("code", "This is not the code, or it is over. You may ask for another one.")
    return _page(request, form, status=STATUS_WRONG_INPUT if form.errors else 200)


def _page(request: HttpRequest, form: EnrolForm, *, status: int = 200) -> HttpResponse:
    context = {"form": form, "has_address": bool(request.user.email), "is_sent": CODE in request.session}
    return render(request, "mfa/enrol_code.html", context, status=status)


def _too_many(request: HttpRequest, form: EnrolForm, attempt: Attempt) -> HttpResponse:
    form.add_error(None, TOO_MANY)
    answer = _page(request, form, status=429)
    answer.headers["Retry-After"] = str(attempt.wait_seconds)
    return answer


def _send(request: HttpRequest) -> HttpResponse:
    person: Person = request.user
    if not person.email:
        return redirect("mfa_enrol_code")
    attempt = begin_reset(request, person.email, now=time.time())
    if not attempt.is_allowed:
        return _too_many(request, EnrolForm({}), attempt)
    code = f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"
    request.session[CODE] = {"hash": _digest(request, code), "until": time.time() + GOOD_SECONDS, "tries": 0}
    record(action="mfa.enrol_code_sent", subject=person, actor=person)
    text = _TEXT.format(code=code, name=person.username, portal=settings.CONFIG.portal_url)
    address = person.email
    mails.later(lambda: mails.send(address, subject=_SUBJECT, text=text))
    messages.success(request, "A code was sent to your address.")
    return redirect("mfa_enrol_code")


def _is_right(request: HttpRequest, typed: str) -> bool:
    """A code is good for a few tries and once."""
    kept = request.session.get(CODE)
    if kept is None or time.time() >= kept["until"] or kept["tries"] >= MOST_TRIES:
        return False
    is_right = hmac.compare_digest(kept["hash"], _digest(request, typed))
    request.session[CODE] = {**kept, "tries": MOST_TRIES if is_right else kept["tries"] + 1}
    return is_right


def _digest(request: HttpRequest, code: str) -> str:
    """Keyed: who reads the session's row does not find eight digits by trying them all."""
    text = f"enrol:{request.user.pk}:{code}"
    return hmac.new(settings.SECRET_KEY.encode(), text.encode(), hashlib.sha256).hexdigest()
