"""Tokens of the API: `Authorization: Bearer bks_...`, and as the es grammar sends them: `Authorization: Token bks_...`
or `ES-API-KEY: bks_...`. The same tokens with the same rules, whichever way they come.
"""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from tenants.models import ApiToken, Person
from tenants.origin import client_address
from tenants.tokens import person_of

_SCHEMES = frozenset({b"bearer", b"token"})


class TokenAuthentication(BaseAuthentication):
    """Wrong, expired, ended, from elsewhere, of somebody who is disabled: one answer."""

    def authenticate(self, request: Request) -> tuple[Person, ApiToken] | None:
        shown = _shown(request)
        if not shown:
            return None
        # Two different ones: nobody knows which of them the caller means.
        if len(shown) == 1:
            found = person_of(shown.pop(), address=client_address(request._request), now=timezone.now())
            if found is not None:
                return found
        raise AuthenticationFailed("The token is not valid, or no longer.")

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="backupsite"'


def _shown(request: Request) -> set[str]:
    found = set()
    scheme, _, value = get_authorization_header(request).partition(b" ")
    if scheme.lower() in _SCHEMES:
        found.add(value.decode("ascii", errors="replace").strip())
    if "ES-API-KEY" in request.headers:
        found.add(request.headers["ES-API-KEY"].strip())
    return found


class TokenScheme(OpenApiAuthenticationExtension):
    """How tokens appear in the OpenAPI document."""

    target_class = "tenants.authentication.TokenAuthentication"
    name = ["apiToken", "esApiKey"]

    def get_security_definition(self, auto_schema: object) -> list[dict[str, str]]:
        return [{"type": "http", "scheme": "bearer"}, {"type": "apiKey", "in": "header", "name": "ES-API-KEY"}]
