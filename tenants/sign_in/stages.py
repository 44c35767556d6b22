"""The step after the password: the second factor, unless the single sign-on asked for one just now."""

from __future__ import annotations

from allauth.account.internal.flows.login import get_authentication_records
from allauth.mfa.stages import AuthenticateStage
from django.http import HttpRequest


class FactorStage(AuthenticateStage):
    def _should_handle(self, request: HttpRequest) -> bool:
        records = get_authentication_records(request, self.login.user)
        if records and (records[-1].get("method"), records[-1].get("type")) == ("mfa", "oidc"):
            return False
        return bool(super()._should_handle(request))
