"""What a person types about a pause, or about a time without backups. No rules: the services know them."""

from __future__ import annotations

from typing import Any

from django import forms

from agents.models import Node
from definitions.forms import StyledForm
from definitions.models import Definition
from tenants.choosing import TENANTS, ScopedChoiceField
from tenants.models import Person, Tenant
from tenants.roles import Action

WEEKDAYS = [
    ("1", "Monday"),
    ("2", "Tuesday"),
    ("3", "Wednesday"),
    ("4", "Thursday"),
    ("5", "Friday"),
    ("6", "Saturday"),
    ("7", "Sunday"),
]


class _HoldForm(StyledForm):
    """On whom: everything is said on purpose, the whole fleet too."""

    tenant = ScopedChoiceField(TENANTS, label="Tenant", required=False)
    node = forms.ModelChoiceField(Node.objects.none(), label="Node", required=False)
    fleet = forms.BooleanField(label="The whole fleet: every tenant", required=False)
    reason = forms.CharField(label="Reason", max_length=200, help_text="Others read it to know when it can be ended.")

    def __init__(self, *args: Any, person: Person, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["tenant"].offer(Tenant.objects.for_user(person))
        if person.is_superuser:
            self.fields["node"].queryset = Node.objects.for_user(person).order_by("name")
        else:
            del self.fields["node"], self.fields["fleet"]

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors and len(self._named(values)) != 1:
            raise forms.ValidationError("Say on whom: exactly one of them.", code="one_target")
        return values

    def target(self) -> dict[str, Any]:
        """Nothing for the fleet."""
        return {name: value for name, value in self._named(self.cleaned_data).items() if name != "fleet"}

    def _named(self, values: dict[str, Any]) -> dict[str, Any]:
        return {name: values[name] for name in ("definition", "tenant", "node", "fleet") if values.get(name)}


class PauseForm(_HoldForm):
    """Nothing starts by schedule until it ends."""

    definition = forms.ModelChoiceField(Definition.objects.none(), required=False, widget=forms.HiddenInput)
    until = forms.DateTimeField(
        label="Until",
        required=False,
        help_text="In your time zone. Empty: until somebody ends it.",
        widget=forms.DateTimeInput(attrs={"class": "form-control", "type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )
    field_order = ["definition", "tenant", "node", "fleet", "reason", "until"]

    def __init__(self, *args: Any, person: Person, **options: Any) -> None:
        super().__init__(*args, person=person, **options)
        mine = Definition.objects.for_user(person, Action.EDIT).select_related("disk__server")
        self.fields["definition"].queryset = mine


class BlackoutForm(_HoldForm):
    """A time of day, on some weekdays, in which nothing starts by schedule."""

    start = forms.TimeField(label="From", widget=forms.TimeInput(attrs={"class": "form-control", "type": "time"}))
    end = forms.TimeField(
        label="Until",
        help_text="Not later than the beginning: of the next day.",
        widget=forms.TimeInput(attrs={"class": "form-control", "type": "time"}),
    )
    time_zone = forms.CharField(
        label="Time zone",
        max_length=64,
        widget=forms.TextInput(attrs={"class": "form-control", "list": "time-zones", "autocomplete": "off"}),
    )
    weekdays = forms.MultipleChoiceField(
        label="Weekdays on which it begins",
        choices=WEEKDAYS,
        initial=[number for number, _ in WEEKDAYS],
        widget=forms.CheckboxSelectMultiple(attrs={"class": "form-check-input"}),
    )
    field_order = ["tenant", "node", "fleet", "reason", "start", "end", "time_zone", "weekdays"]

    def values(self) -> dict[str, Any]:
        cleaned = self.cleaned_data
        named = {name: cleaned[name] for name in ("reason", "start", "end", "time_zone")}
        return {**named, "weekdays": "".join(cleaned["weekdays"]), **self.target()}
