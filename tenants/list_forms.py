"""The filters of the lists of tenants and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import Q
from django.utils import timezone

from tenants.list_fields import NamePartField, choice_field, named
from tenants.listing import ListForm
from tenants.models import Tenant
from tenants.token_limits import SCOPE_CHOICES


class TenantFilters(ListForm):
    q = NamePartField("Title or name")
    status = choice_field("Status", Tenant.Status.choices, every="Any status")

    def narrow(self, tenants: Any, wanted: Mapping[str, Any]) -> Any:
        if "status" in wanted:
            tenants = tenants.filter(status=wanted["status"])
        if "q" not in wanted:
            return tenants
        return named(tenants, "title", wanted["q"]) | named(tenants, "name", wanted["q"])


class TokenFilters(ListForm):
    q = NamePartField("Label")
    scope = choice_field("Reach", SCOPE_CHOICES, every="Any reach")
    live = choice_field("Validity", [("yes", "valid"), ("no", "ended")], every="Valid or ended")

    def narrow(self, tokens: Any, wanted: Mapping[str, Any]) -> Any:
        if "scope" in wanted:
            tokens = tokens.filter(scope=wanted["scope"])
        if "live" in wanted:
            ended = ~Q(disabled_at=None) | Q(expires_at__lte=timezone.now())
            tokens = tokens.filter(~ended if wanted["live"] == "yes" else ended)
        return named(tokens, "label", wanted["q"]) if "q" in wanted else tokens
