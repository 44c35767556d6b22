"""What a SuperAdmin types about a policy and to whom it is given. No rules: the services know them."""

from __future__ import annotations

from typing import Any

from django import forms

from agents.choosing import SERVERS
from agents.models import Server
from definitions.agent_limit_forms import AgentLimitsForm, initial_limits
from definitions.forms import RulesForm, StyledForm
from definitions.models import Policy
from definitions.policies import POLICY_FIELDS
from tenants.choosing import TENANTS, ScopedChoiceField
from tenants.models import Person, Tenant
from vaults.models import Region


def clock(label: str) -> forms.TimeField:
    """A field for a time of day."""
    return forms.TimeField(
        label=label, widget=forms.TimeInput(attrs={"class": "form-control", "type": "time"}, format="%H:%M")
    )


class PolicyForm(RulesForm, AgentLimitsForm):
    """The fields that may change during a policy's life."""

    description = forms.CharField(label="Description", max_length=128, required=False)
    window_start = clock("Window from")
    window_end = clock("Window until")
    time_zone = forms.CharField(
        label="Time zone of the window",
        max_length=64,
        widget=forms.TextInput(attrs={"class": "form-control", "list": "time-zones", "autocomplete": "off"}),
    )
    lock_days = forms.IntegerField(
        label="Days that nobody can remove a backup",
        min_value=1,
        max_value=3650,
        required=False,
        help_text="Empty: as the vault says. Never shorter than that.",
    )
    lock_whole_retention = forms.BooleanField(label="Lock each backup as long as the rules may keep it", required=False)
    restricted = forms.BooleanField(
        label="Restricted", required=False, help_text="The tenant sees what it gives and cannot change it."
    )

    def changes(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in POLICY_FIELDS}


class NewPolicyForm(PolicyForm):
    name = forms.CharField(label="Name", max_length=16, help_text="Its definitions get this name; it stays for life.")
    field_order = ["name"]

    @classmethod
    def usual(cls) -> dict[str, Any]:
        """What a new policy stands at: the window and the 14 days of the product's default."""
        return {"window_start": "22:00", "window_end": "06:00", "retention_count": 0, "retention_days": 14}


class PolicyTargetForm(StyledForm):
    """One of these: the nearest one that a server has counts."""

    server = ScopedChoiceField(SERVERS, label="Server", required=False)
    tag = forms.CharField(label="Tag of servers", max_length=32, required=False)
    tenant = ScopedChoiceField(TENANTS, label="Tenant", required=False)
    region = forms.ModelChoiceField(Region.objects.order_by("code"), label="Region", required=False)

    def __init__(self, *args: Any, person: Person, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["server"].offer(Server.objects.for_user(person).select_related("tenant"))
        self.fields["tenant"].offer(Tenant.objects.for_user(person))

    def target(self) -> dict[str, Any]:
        return {name: value for name, value in self.cleaned_data.items() if value}


def initial_of(policy: Policy) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in POLICY_FIELDS} | initial_limits(policy.agent_limits)
