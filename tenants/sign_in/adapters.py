"""Where allauth asks us: nobody signs up, whose address it is, how secrets are kept, who may come by single sign-on."""

from __future__ import annotations

import base64
import binascii
import logging
import os
import time
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.internal.flows.login import record_authentication
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialLogin
from allauth.socialaccount.providers.base import AuthProcess
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.signals import user_login_failed
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from common.errors import ConfigurationError
from tenants.models import Person
from tenants.origin import client_address
from tenants.sign_in import factors, single_sign_on
from tenants.sign_in.throttle import begin_attempt

logger = logging.getLogger(__name__)

_MFA_STAGE = "allauth.mfa.stages.AuthenticateStage"
_OURS = "tenants.sign_in.stages.FactorStage"
_NONCE_BYTES = 12
_SEALED_FOR = b"backupsite second factor v1"


class AccountAdapter(DefaultAccountAdapter):
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        return client_address(request) or "unknown"

    def get_login_stages(self) -> list[str]:
        return [_OURS if stage == _MFA_STAGE else stage for stage in super().get_login_stages()]

    def get_reauthentication_methods(self, user: Any) -> list[dict[str, Any]]:
        """Whoever has a second factor shows that one; the password alone does not do for him."""
        found: list[dict[str, Any]] = super().get_reauthentication_methods(user)
        if user.is_authenticated and factors.has_factor(user):
            return [method for method in found if method["id"] != "reauthenticate"]
        return found

    def reauthenticate(self, user: Person, password: str) -> bool:
        request = self.request
        attempt = begin_attempt(request, user.username, now=time.time())
        if not attempt.is_allowed:
            raise self.validation_error("too_many_login_attempts")
        if user.check_password(password):
            attempt.forgive()
            return True
        user_login_failed.send(sender=__name__, credentials={"username": user.username}, request=request)
        return False

    def pre_login(self, request: HttpRequest, user: Person, **told: Any) -> HttpResponse | None:
        """What the single sign-on says about a second factor is noted in the session, for this person alone."""
        sociallogin = (told.get("signal_kwargs") or {}).get("sociallogin")
        if sociallogin is not None and single_sign_on.brought_factor(sociallogin):
            record_authentication(request, user, method="mfa", type="oidc", provider=sociallogin.account.provider)
        answer: HttpResponse | None = super().pre_login(request, user, **told)
        return answer

    def respond_user_inactive(self, request: HttpRequest, user: Person) -> HttpResponse:
        messages.error(request, single_sign_on.NO_ACCOUNT)
        return redirect("login")

    def send_notification_mail(self, *arguments: Any, **options: Any) -> None:
        """`tenants.sign_in.hooks` tells people, in our words."""


class FactorAdapter(DefaultMFAAdapter):
    """Seeds of codes are sealed: who reads the database makes no codes."""

    def encrypt(self, text: str) -> str:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(settings.CONFIG.mfa_key_bytes).encrypt(nonce, text.encode(), _SEALED_FOR)
        return base64.b64encode(nonce + sealed).decode()

    def decrypt(self, encrypted_text: str) -> str:
        """Raises ConfigurationError when the key is another one than at the time of sealing."""
        try:
            data = base64.b64decode(encrypted_text, validate=True)
            opened = AESGCM(settings.CONFIG.mfa_key_bytes).decrypt(
                data[:_NONCE_BYTES], data[_NONCE_BYTES:], _SEALED_FOR
            )
        except (binascii.Error, ValueError, InvalidTag):
            raise ConfigurationError(
                "A second factor does not open with BACKUPSITE_MFA_KEY: is it another key?"
            ) from None
        return opened.decode()


class SocialAdapter(DefaultSocialAccountAdapter):
    """Nobody gets an account by single sign-on: it must be there, with an address that was proven here and there."""

    def is_open_for_signup(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:
        return False

    def authenticate_by_email(self, sociallogin: SocialLogin) -> None:
        """Accounts are linked in `pre_social_login`, by our own rules."""

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        if sociallogin.state.get("process") != AuthProcess.LOGIN or not single_sign_on.is_consistent(sociallogin):
            _refuse(request, "the answer of the provider is not consistent")
        if sociallogin.is_existing:
            return
        person = single_sign_on.person_of(sociallogin)
        if person is None:
            _refuse(request, "no account with a proven address")
            return
        sociallogin.connect(request, person)
        single_sign_on.note_link(person, provider=sociallogin.account.provider)

    def on_authentication_error(self, request: HttpRequest, provider: Any, **told: Any) -> None:
        _refuse(request, f"{told.get('error')} {type(told.get('exception')).__name__}")

    def send_notification_mail(self, *arguments: Any, **options: Any) -> None:
        """As above."""


def _refuse(request: HttpRequest, reason: str) -> None:
    """One text for all reasons; which it was is in the log."""
    logger.info("A sign-in by single sign-on was refused: %s", reason)
    user_login_failed.send(sender=__name__, credentials={"username": ""}, request=request)
    messages.error(request, single_sign_on.NO_ACCOUNT)
    raise ImmediateHttpResponse(redirect("login"))
