"""The API for the portal's own pages: the session, with CSRF, and the second factor where one is needed."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.authentication import SessionScheme
from rest_framework import authentication
from rest_framework.request import Request

from common.errors import MfaNeededError
from tenants.sign_in.guard import factor_is_due


class SessionAuthentication(authentication.SessionAuthentication):
    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        """Raises MfaNeededError when the person has to set up a second factor first."""
        found: tuple[Any, None] | None = super().authenticate(request)
        if found is not None and factor_is_due(request._request, now=timezone.now()):
            raise MfaNeededError("Administrators need a second factor here. Set one up in the portal: /sign-in/.")
        return found


class PortalSessionScheme(SessionScheme):
    """How it appears in the OpenAPI document: the session's cookie."""

    target_class = "tenants.sign_in.api_session.SessionAuthentication"
