"""`/api/accounts/` of the es grammar: sign-in by password for programs, mapped to the tokens of everybody else.

Such a token ends an hour after its last use, after a working day in any case, and with the next sign-in of the same
person. Whoever has or needs a second factor uses an API key: a password alone would make the factor worthless.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth import authenticate
from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from common.errors import NotAllowedError, NotSignedInError, TooManyAttemptsError
from tenants.api import ApiView
from tenants.api.throttling import SIGN_IN
from tenants.audit import record
from tenants.authentication import TokenAuthentication
from tenants.models import ApiToken, Person
from tenants.models.tokens import LOGIN_IDLE
from tenants.roles import Action
from tenants.serializers import BodySerializer, UtcDateTimeField
from tenants.sign_in import devices, factors
from tenants.sign_in.throttle import begin_attempt
from tenants.tokens import create_login_token

WRONG = "Wrong user name or password, or the account cannot be used."


class ApiKeyNeededError(NotAllowedError):
    """The password was right; it is not enough here."""

    code = "api_key_needed"


class LoginSerializer(BodySerializer):
    raw_fields = frozenset({"username", "password"})

    username = serializers.CharField(max_length=254)
    password = serializers.CharField(max_length=4096, trim_whitespace=False)


class LoginAnswerSerializer(serializers.Serializer[Any]):
    token = serializers.CharField(help_text="For `Authorization: Token` or `ES-API-KEY`.")
    expires = UtcDateTimeField(help_text="When it ends unless it is used before.")
    detail = serializers.CharField()


class DetailSerializer(serializers.Serializer[Any]):
    detail = serializers.CharField()


class LoginView(ApiView):
    authentication_classes = ()
    permission_classes = (AllowAny,)
    rate_scope = SIGN_IN
    http_method_names = ["post"]

    @extend_schema(request=LoginSerializer, responses=LoginAnswerSerializer, operation_id="es_accounts_login", auth=[])
    def post(self, request: Request) -> Response:
        body = LoginSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        now = timezone.now()
        person = _person_of(request, **body.validated_data)
        devices.note_sign_in(request._request, person, now=now)
        text = create_login_token(person=person, lifetime_seconds=settings.SESSION_LIMITS.life, now=now)
        return Response(
            LoginAnswerSerializer({"token": text, "expires": now + LOGIN_IDLE, "detail": "Signed in."}).data,
            headers={"es_username": person.username} if person.username.isascii() else None,
        )


def _person_of(request: Request, *, username: str, password: str) -> Person:
    """Counted before it is looked at, like a sign-in at the portal, by the same counters."""
    attempt = begin_attempt(request._request, username, now=time.time())
    if attempt.wait_seconds is not None:
        error = TooManyAttemptsError("Too many attempts. Wait for the seconds that Retry-After says.")
        error.retry_after_seconds = attempt.wait_seconds
        raise error
    person = authenticate(request._request, username=username, password=password)
    if not isinstance(person, Person):
        raise NotSignedInError(WRONG)
    attempt.forgive()
    if factors.has_factor(person) or factors.needs_factor(person):
        raise ApiKeyNeededError(
            "Your account needs a second factor, which cannot be shown here. Make an API key on the page Tokens of the "
            "portal, and send it in the header ES-API-KEY."
        )
    return person


class LogoutView(ApiView):
    """As the es command sends it, by GET, too: nothing but the token that came in a header is ended."""

    authentication_classes = (TokenAuthentication,)
    # A token of a sign-in has the whole scope; an API key only learns that it stays.
    role_action = Action.VIEW
    http_method_names = ["get", "post"]

    @extend_schema(responses=DetailSerializer, operation_id="es_accounts_logout")
    def get(self, request: Request) -> Response:
        return Response({"detail": _end(request.auth, person=request.user, now=timezone.now())})

    @extend_schema(request=None, responses=DetailSerializer, operation_id="es_accounts_logout_post")
    def post(self, request: Request) -> Response:
        return self.get(request)


@transaction.atomic
def _end(token: ApiToken, *, person: Person, now: datetime) -> str:
    if token.kind != ApiToken.Kind.LOGIN:
        return "This is an API key: it stays. End it on the page Tokens."
    if ApiToken.objects.filter(pk=token.pk).delete()[0]:
        record(action="sign_out.done", subject=person, actor=person, after={"by": "api"})
    return "Signed out."
