"""What an operator types about a budget. No rules: the services know them."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from agents.models import Node
from backups.budgeting import EDITABLE, TARGETS
from backups.models import Budget
from definitions.forms import StyledForm
from tenants.choosing import TENANTS, ScopedChoiceField
from tenants.models import Person, Tenant
from vaults.models import Region, Vault


def _clock(label: str, help_text: str = "") -> forms.TimeField:
    widget = forms.TimeInput(attrs={"class": "form-control", "type": "time"}, format="%H:%M")
    return forms.TimeField(label=label, required=False, help_text=help_text, widget=widget)


class BudgetForm(StyledForm):
    """The fields that may change."""

    most_jobs = forms.IntegerField(
        label="Jobs at once", min_value=0, required=False, help_text="Empty: as many as there are. 0: none."
    )
    bytes_per_second = forms.IntegerField(
        label="Bytes per second, all together",
        min_value=65536,
        required=False,
        help_text="Empty: no limit. 104857600 is 100 MiB a second.",
    )
    from_time = _clock("From", "Both empty: always.")
    until_time = _clock("Until")
    time_zone = forms.CharField(
        label="Time zone",
        max_length=64,
        widget=forms.TextInput(attrs={"class": "form-control", "list": "time-zones", "autocomplete": "off"}),
    )

    def changes(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in EDITABLE}


class NewBudgetForm(BudgetForm):
    """Also for what it is, which stays for life. Without a target: for each of its kind that has none of its own."""

    kind = forms.ChoiceField(label="For", choices=Budget.Kind.choices)
    node = forms.ModelChoiceField(Node.objects.none(), label="This node only", required=False)
    vault = forms.CharField(label="This vault only: its id", max_length=36, required=False)
    tenant = ScopedChoiceField(TENANTS, label="This tenant only", required=False)
    region = forms.ModelChoiceField(Region.objects.order_by("code"), label="Link from the region", required=False)
    vault_region = forms.ModelChoiceField(Region.objects.order_by("code"), label="to the region", required=False)
    field_order = ["kind", *TARGETS, *EDITABLE]

    def __init__(self, *args: Any, person: Person, **options: Any) -> None:
        super().__init__(*args, **options)
        self._vaults = Vault.objects.for_user(person)
        self.fields["node"].queryset = Node.objects.for_user(person).order_by("name")
        self.fields["tenant"].offer(Tenant.objects.for_user(person))

    def clean_vault(self) -> Vault | None:
        typed = self.cleaned_data["vault"]
        if not typed:
            return None
        try:
            found = self._vaults.filter(pk=typed).first()
        except (ValueError, ValidationError):
            found = None
        if found is None:
            raise forms.ValidationError("There is no vault with this id. Copy it from the vault's page.")
        return found

    def values(self) -> dict[str, Any]:
        return {**{name: self.cleaned_data[name] for name in TARGETS}, **self.changes()}


def initial_of(budget: Budget) -> dict[str, Any]:
    return {name: getattr(budget, name) for name in EDITABLE}
