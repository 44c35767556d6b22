"""What people type to sign in or to get a new password."""

from __future__ import annotations

import time
from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm, SetPasswordForm, UsernameField
from django.core.exceptions import ValidationError

from common.forms import PlainForm
from tenants.sign_in.throttle import Attempt, begin_attempt

TOO_MANY = "Too many attempts. Wait a while before you try again."
_CURRENT = forms.PasswordInput(attrs={"class": "form-control", "autocomplete": "current-password"})


class SignInForm(AuthenticationForm):
    """Wrong, unknown, disabled: one text. `refusal` is set when too much was tried; then nothing was looked at."""

    username = UsernameField(max_length=254)
    refusal: Attempt | None = None

    def clean(self) -> dict[str, Any]:
        name = self.cleaned_data.get("username")
        if not name or not self.cleaned_data.get("password"):
            return self.cleaned_data
        attempt = begin_attempt(self.request, name, now=time.time())
        if not attempt.is_allowed:
            self.refusal = attempt
            raise ValidationError(TOO_MANY, code="too_many")
        cleaned = super().clean()
        attempt.forgive()
        return cleaned


class ResetForm(PlainForm):
    email = forms.EmailField(
        label="E-mail address",
        max_length=254,
        widget=forms.EmailInput(attrs={"class": "form-control", "autocomplete": "email", "autofocus": True}),
    )


class EnrolForm(PlainForm):
    code = forms.CharField(
        label="Code",
        max_length=16,
        widget=forms.TextInput(
            attrs={"class": "form-control", "autocomplete": "one-time-code", "inputmode": "numeric", "autofocus": True}
        ),
    )


class _Styled:
    """The portal's look."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for field in self.fields.values():
            field.widget.attrs["class"] = "form-control"


class NewPasswordForm(_Styled, SetPasswordForm):
    """Twice the same, by the rules for passwords."""


class ChangePasswordForm(_Styled, PasswordChangeForm):
    """With the present one; wrong ones count like wrong sign-ins."""

    def clean_old_password(self) -> str:
        attempt = begin_attempt(self.request, self.user.get_username(), now=time.time())
        if not attempt.is_allowed:
            raise ValidationError(TOO_MANY, code="too_many")
        old = super().clean_old_password()
        attempt.forgive()
        return str(old)
