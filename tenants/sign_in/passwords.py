"""Changing a password, and a new one by a link that was sent to the person's address: once, within an hour.

Who asks for a link always gets the same answer in the same time: everything that depends on the account is done after
the answer. Links are made with the portal's configured address, never with the Host header of who asked.
"""

from __future__ import annotations

import time
import unicodedata
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.tokens import default_token_generator
from django.contrib.auth.views import PasswordChangeView, PasswordResetConfirmView
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse, reverse_lazy
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from django.views.generic.edit import FormView

from tenants.audit import record
from tenants.models import Person
from tenants.sign_in import factors, mails
from tenants.sign_in.forms import TOO_MANY, ChangePasswordForm, NewPasswordForm, ResetForm
from tenants.sign_in.session_store import row_key
from tenants.sign_in.single_sign_on import mark_proven
from tenants.sign_in.throttle import begin_reset

_SUBJECT = "Backupsite: a new password"
_TEXT = """Somebody, probably you, asked for a new password for the account {name}.

Choose it here within one hour; the link works once:
{link}

If it was not you, do nothing: the present password stays.
"""


class ResetView(FormView):
    template_name = "tenants/password_reset.html"
    form_class = ResetForm

    def form_valid(self, form: Any) -> HttpResponse:
        email = form.cleaned_data["email"]
        attempt = begin_reset(self.request, email, now=time.time())
        if not attempt.is_allowed:
            form.add_error(None, TOO_MANY)
            answer = self.render_to_response(self.get_context_data(form=form), status=429)
            answer.headers["Retry-After"] = str(attempt.wait_seconds)
            return answer
        mails.later(lambda: send_links(email))
        return render(self.request, "tenants/password_reset_sent.html")


def send_links(email: str) -> None:
    """A link for each active person of the address who signs in by password."""
    for person in Person.objects.filter(email__iexact=email, is_active=True):
        # A database may take other signs for the same letter; the mail would go to somebody else.
        if not person.has_usable_password() or _folded(person.email) != _folded(email):
            continue
        uid = urlsafe_base64_encode(force_bytes(person.pk))
        path = reverse("password-reset-confirm", args=[uid, default_token_generator.make_token(person)])
        record(action="password.reset_asked", subject=person)
        text = _TEXT.format(name=person.username, link=settings.CONFIG.portal_url + path)
        mails.send(person.email, subject=_SUBJECT, text=text)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()


class ConfirmView(PasswordResetConfirmView):
    """The link's token goes into the session at once, so that no other page sees it."""

    template_name = "tenants/password_new.html"
    form_class = NewPasswordForm
    success_url = reverse_lazy("login")

    @transaction.atomic
    def form_valid(self, form: Any) -> HttpResponse:
        answer = super().form_valid(form)
        person: Person = form.user
        factors.end_sessions(person)
        mark_proven(person)
        record(action="password.reset", subject=person, actor=person)
        mails.tell(person, "The password was set anew by a link.")
        messages.success(self.request, "The new password is set. Sign in with it.")
        return answer


class ChangeView(LoginRequiredMixin, PasswordChangeView):
    """All other sessions of the person end."""

    template_name = "tenants/password_change.html"
    form_class = ChangePasswordForm
    success_url = reverse_lazy("mfa_index")

    def get_form(self, form_class: Any = None) -> Any:
        form = super().get_form(form_class)
        form.request = self.request
        return form

    @transaction.atomic
    def form_valid(self, form: Any) -> HttpResponse:
        answer = super().form_valid(form)
        person: Person = form.user
        factors.end_sessions(person, but=row_key(self.request.session.session_key or ""))
        record(action="password.change", subject=person, actor=person)
        mails.tell(person, "The password was changed.")
        messages.success(self.request, "The password is changed.")
        return answer
