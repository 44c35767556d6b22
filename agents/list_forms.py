"""The filters of the lists of nodes, agents, people and orders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils import timezone

from agents.fleet import unused_agents
from agents.models import Agent, Node
from tenants.choosing import TENANTS, ScopedChoiceField
from tenants.list_fields import DayField, NamePartField, check_field, choice_field, named, within_days
from tenants.listing import ListForm
from tenants.models import Tenant


class NodeFilters(ListForm):
    q = NamePartField("Node")
    status = choice_field("Status", Node.Status.choices, every="Any status")
    is_backup = check_field("keeps copies")

    def narrow(self, nodes: Any, wanted: Mapping[str, Any]) -> Any:
        nodes = nodes.filter(**{name: wanted[name] for name in ("status", "is_backup") if name in wanted})
        return named(nodes, "name", wanted["q"]) if "q" in wanted else nodes


class AgentFilters(ListForm):
    q = NamePartField("Agent")
    status = choice_field("State", [*Agent.Status.choices, ("silent", "silent")], every="Any state")
    tenant = ScopedChoiceField(TENANTS, label="Tenant", required=False)
    unused = check_field("not used")
    of_administrators = ("tenant",)

    def offer(self) -> None:
        if "tenant" in self.fields:
            self.fields["tenant"].offer(Tenant.objects.for_user(self.person))

    def narrow(self, agents: Any, wanted: Mapping[str, Any]) -> Any:
        if "tenant" in wanted:
            agents = agents.filter(server__tenant=wanted["tenant"])
        if "status" in wanted:
            # As `shown_state` says it.
            is_silent = wanted["status"] == "silent"
            agents = agents.filter(silent_since__isnull=not is_silent)
            agents = agents if is_silent else agents.filter(status=wanted["status"])
        if "q" in wanted:
            agents = named(agents, "name", wanted["q"])
        return unused_agents(agents, now=timezone.now()) if "unused" in wanted else agents


class PersonFilters(ListForm):
    q = NamePartField("Name or e-mail")
    account = choice_field(
        "Account", [("active", "active"), ("disabled", "disabled"), ("super", "SuperAdmin")], every="Any account"
    )

    def narrow(self, people: Any, wanted: Mapping[str, Any]) -> Any:
        if "account" in wanted:
            meant = {"active": {"is_active": True}, "disabled": {"is_active": False}, "super": {"is_superuser": True}}
            people = people.filter(**meant[wanted["account"]])
        if "q" not in wanted:
            return people
        return named(people, "username", wanted["q"]) | named(people, "email", wanted["q"])


class OrderFilters(ListForm):
    q = NamePartField("Server")
    since = DayField("Ordered from")
    until = DayField("Ordered to")

    def narrow(self, orders: Any, wanted: Mapping[str, Any]) -> Any:
        orders = within_days(orders, "created_at", wanted)
        return named(orders, "server__name", wanted["q"]) if "q" in wanted else orders
