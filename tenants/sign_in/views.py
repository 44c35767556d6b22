"""Pages of signing in and out, of the person's own sessions, and of a SuperAdmin who helps somebody back in."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from allauth.account.internal.flows.login import perform_password_login
from allauth.account.models import Login
from allauth.mfa.base.views import IndexView
from allauth.socialaccount.adapter import get_adapter as get_social_adapter
from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from common.errors import BackupsiteError, NotFoundError
from tenants.access import get_for_user
from tenants.audit import record
from tenants.models import Person, PortalSession
from tenants.roles import Action
from tenants.sign_in import factors, guard
from tenants.sign_in.confirming import confirmed, is_confirmed
from tenants.sign_in.forms import SignInForm
from tenants.sign_in.session_store import row_key
from tenants.views import back_with_error, portal_page


class SignInView(LoginView):
    """Name and password; then the second factor, if the person has one. Nothing of the session before stays."""

    template_name = "tenants/login.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def form_valid(self, form: Any) -> HttpResponse:
        person: Person = form.get_user()
        login = Login(user=person, redirect_url=self.get_success_url())
        answer: HttpResponse = perform_password_login(self.request, {"username": person.username}, login)
        return answer

    def form_invalid(self, form: Any) -> HttpResponse:
        answer = super().form_invalid(form)
        if form.refusal is not None:
            answer.status_code = 429
            answer.headers["Retry-After"] = str(form.refusal.wait_seconds)
        return answer

    def get_context_data(self, **told: Any) -> dict[str, Any]:
        return {**super().get_context_data(**told), "providers": get_social_adapter().list_providers(self.request)}


class OverviewView(IndexView):
    """The person's own sign-in: second factors, where he is signed in, how long he may do without a factor."""

    def get_context_data(self, **told: Any) -> dict[str, Any]:
        now = timezone.now()
        person = self.request.user
        here = row_key(self.request.session.session_key or "")
        sessions = PortalSession.objects.filter(person=person, expire_date__gt=now).order_by("-seen_at")
        return {
            **super().get_context_data(**told),
            "sessions": [(session, session.pk == here) for session in sessions[:100]],
            "factor_wanted": factors.needs_factor(person) and not factors.has_factor(person),
            "factor_until": guard.factor_wanted_until(self.request),
            "factor_due": guard.factor_is_due(self.request, now=now),
            "is_confirmed": is_confirmed(self.request, now=time.time()),
        }


@require_POST
@portal_page
def end_session(request: HttpRequest, key: str) -> HttpResponse:
    ended, _ = PortalSession.objects.filter(person=request.user, pk=key).delete()
    if not ended:
        raise NotFoundError("There is no such session.")
    record(action="sign_out.session", subject=request.user, after={"sessions": ended})
    messages.success(request, "That session has ended.")
    return redirect("mfa_index")


@require_POST
@portal_page
def sign_out_everywhere(request: HttpRequest) -> HttpResponse:
    """Here too: who is not sure any more starts anew."""
    ended = factors.end_sessions(request.user)
    record(action="sign_out.everywhere", subject=request.user, after={"sessions": ended})
    logout(request)
    messages.success(request, "You are signed out everywhere.")
    return redirect("login")


@require_GET
@portal_page
def person_sign_in(request: HttpRequest, pk: UUID) -> HttpResponse:
    """For SuperAdmins; for everybody else the page is not there."""
    person = _helped(request, pk)
    sessions = PortalSession.objects.filter(person=person, expire_date__gt=timezone.now()).count()
    told = {"person": person, "has_factor": factors.has_factor(person), "sessions": sessions}
    return render(request, "tenants/person_sign_in.html", told)


@require_POST
@portal_page
@confirmed
def reset_factors(request: HttpRequest, pk: UUID) -> HttpResponse:
    person = _helped(request, pk)
    try:
        factors.reset_factors(person=person, actor=request.user)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise="/")
    messages.success(request, f"{person} has no second factor any more, and is signed out everywhere.")
    return redirect("person-sign-in", pk)


@require_POST
@portal_page
@confirmed
def end_sessions_of(request: HttpRequest, pk: UUID) -> HttpResponse:
    person = _helped(request, pk)
    ended = factors.end_sessions(person)
    record(action="sign_out.everywhere", subject=person, after={"sessions": ended})
    messages.success(request, f"{person} is signed out everywhere.")
    return redirect("person-sign-in", pk)


def _helped(request: HttpRequest, pk: UUID) -> Person:
    if not request.user.is_superuser:
        raise NotFoundError("There is no such page.")
    found: Person = get_for_user(Person.objects.all(), person=request.user, action=Action.EDIT, pk=pk)
    return found
