"""The filters of the list of policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import Q

from definitions.models import PolicyAssignment
from tenants.list_fields import NamePartField, choice_field, named
from tenants.listing import ListForm

_CHANGES = [("yes", "by the tenant"), ("no", "by SuperAdmins alone")]
_GIVEN = [("yes", "to somebody"), ("no", "to nobody")]


class PolicyFilters(ListForm):
    q = NamePartField("Policy")
    changes = choice_field("Changes", _CHANGES, every="By anybody")
    given = choice_field("Given", _GIVEN, every="To anybody or nobody")

    def offer(self) -> None:
        if not self.person.is_superuser:
            # A tenant knows of those that it follows; to whom else they are given is not its business.
            del self.fields["given"]

    def narrow(self, policies: Any, wanted: Mapping[str, Any]) -> Any:
        if "changes" in wanted:
            policies = policies.filter(restricted=wanted["changes"] == "no")
        if "given" in wanted:
            given = Q(pk__in=PolicyAssignment.objects.values("policy"))
            policies = policies.filter(given if wanted["given"] == "yes" else ~given)
        return named(policies, "name", wanted["q"]) if "q" in wanted else policies
