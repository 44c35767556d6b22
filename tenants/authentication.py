"""API tokens as `Authorization: Bearer bks_...`."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from common.ids import hash_token
from tenants.models import ApiToken, Person


class TokenAuthentication(BaseAuthentication):
    """Looks the token up by its hash, so no secrets are compared here. Wrong, expired, disabled: one answer."""

    def authenticate(self, request: Request) -> tuple[Person, ApiToken] | None:
        scheme, _, value = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        secret = value.decode("ascii", errors="replace").strip()
        token = ApiToken.objects.select_related("person").filter(secret_hash=hash_token(secret)).first()
        if token is None or token.is_expired(timezone.now()) or not token.person.is_active:
            raise AuthenticationFailed("The token is not valid, or no longer.")
        return token.person, token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="backupsite"'


class TokenScheme(OpenApiAuthenticationExtension):
    """How the token appears in the OpenAPI document."""

    target_class = "tenants.authentication.TokenAuthentication"
    name = "apiToken"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}
