"""The filters of the lists of tenants, tokens and approvals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import Q
from django.utils import timezone

from tenants.approval_states import KIND_CHOICES, STATUS_CHOICES
from tenants.choosing import TENANTS, ScopedChoiceField
from tenants.list_fields import DayField, NamePartField, choice_field, named, within_days
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


_FOR_YOU, _ALL = "you", "all"


class ApprovalFilters(ListForm):
    """Of rows with `for_you`, 1 where the person can answer. Without a wish those that wait, or can still be used."""

    q = NamePartField("Object")
    state = choice_field(
        "State", [(_FOR_YOU, "waiting for you"), *STATUS_CHOICES, (_ALL, "all")], every="Waiting, or not used yet"
    )
    kind = choice_field("What", KIND_CHOICES, every="Anything")
    tenant = ScopedChoiceField(TENANTS, label="Tenant", required=False)
    since = DayField("Asked for from")
    until = DayField("Asked for to")
    more = ("tenant", "since", "until")
    of_administrators = ("tenant",)

    def offer(self) -> None:
        if "tenant" in self.fields:
            self.fields["tenant"].offer(Tenant.objects.for_user(self.person))

    def narrow(self, requests: Any, wanted: Mapping[str, Any]) -> Any:
        state = wanted.get("state")
        if state == _FOR_YOU:
            requests = requests.filter(for_you=1)
        elif state is None:
            requests = requests.open(timezone.now())
        elif state != _ALL:
            requests = requests.filter(status=state)
        requests = requests.filter(**{name: wanted[name] for name in ("kind", "tenant") if name in wanted})
        requests = within_days(requests, "created_at", wanted)
        return named(requests, "subject_name", wanted["q"]) if "q" in wanted else requests
