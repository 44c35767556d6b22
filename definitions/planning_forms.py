"""What a person types about spreading a pile, and about a simulation. No rules: the services know them."""

from __future__ import annotations

from typing import Any

from django import forms

from definitions.forms import RulesForm, StyledForm
from definitions.policy_forms import clock
from definitions.rule_fields import RULE_FIELDS
from definitions.simulator import LONGEST_DAYS


class PileForm(StyledForm):
    """Local times of each definition; those that follow a policy keep to its window."""

    start = clock("Start from")
    end = clock("Start until")


class SimulationForm(RulesForm):
    """A schedule with its rules, and what the disk is like."""

    cron = forms.CharField(
        label="Schedule",
        max_length=200,
        widget=forms.TextInput(
            attrs={"class": "form-control font-monospace", "autocomplete": "off", "spellcheck": "false"}
        ),
    )
    time_zone = forms.CharField(
        label="Time zone",
        max_length=64,
        widget=forms.TextInput(attrs={"class": "form-control", "list": "time-zones", "autocomplete": "off"}),
    )
    lock_days = forms.IntegerField(label="Days that nobody can remove a backup", min_value=0, max_value=3650)
    size_gib = forms.FloatField(label="Size of the disk in GiB", min_value=0.001, max_value=1 << 20)
    change_percent = forms.FloatField(label="Changed between two runs, in percent", min_value=0, max_value=100)
    days = forms.IntegerField(label="Days to look ahead", min_value=1, max_value=LONGEST_DAYS)

    field_order = ["cron", "time_zone", *RULE_FIELDS, "lock_days", "size_gib", "change_percent", "days"]

    def figures(self) -> dict[str, Any]:
        """For `simulate`: sizes in bytes."""
        values = self.cleaned_data
        size_bytes = round(values["size_gib"] * (1 << 30))
        named = {name: values[name] for name in ("cron", "time_zone", "lock_days", "days")}
        change_bytes = round(size_bytes * values["change_percent"] / 100)
        return {**named, "size_bytes": size_bytes, "change_bytes": change_bytes}
