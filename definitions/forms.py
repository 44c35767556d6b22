"""What a person types about a definition. No rules: the services know them."""

from __future__ import annotations

from typing import Any

from django import forms

from agents.models import Disk
from definitions.models import Definition
from definitions.services import EDITABLE
from tenants.access import tenants_for_new
from tenants.models import Person


class _StyledForm(forms.Form):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for field in self.fields.values():
            field.widget.attrs.setdefault("class", _CLASSES.get(type(field.widget), "form-control"))


_CLASSES = {forms.CheckboxInput: "form-check-input", forms.Select: "form-select"}


class DefinitionForm(_StyledForm):
    """The fields that may change during a definition's life."""

    cron = forms.CharField(
        label="Schedule",
        max_length=200,
        initial="0 22 * * *",
        help_text="Minute, hour, day of month, month, day of week. 0 22 * * * is every day at 22:00.",
        widget=forms.TextInput(
            attrs={"class": "form-control font-monospace", "autocomplete": "off", "spellcheck": "false"}
        ),
    )
    time_zone = forms.CharField(
        label="Time zone",
        max_length=64,
        help_text="The schedule keeps its local time when clocks change.",
        widget=forms.TextInput(attrs={"class": "form-control", "list": "time-zones", "autocomplete": "off"}),
    )
    retention_count = forms.IntegerField(
        label="Backups to keep",
        min_value=0,
        initial=14,
        help_text="The oldest ones beyond it are removed. 0 keeps all.",
    )
    immutable_days = forms.IntegerField(
        label="Days that nobody can remove a backup",
        required=False,
        help_text="Empty: as the vault says. Longer cannot be taken back for backups that were made meanwhile.",
    )
    bandwidth_limit = forms.IntegerField(
        label="Bytes per second at most", required=False, help_text="Empty: no limit. 10485760 is 10 MiB a second."
    )
    description = forms.CharField(label="Description", max_length=128, required=False)
    active = forms.BooleanField(
        label="Active", required=False, initial=True, help_text="Without it nothing runs by schedule."
    )
    run_at_once = forms.BooleanField(label="Run the first backup at once", required=False)

    def changes(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in EDITABLE}


class NewDefinitionForm(DefinitionForm):
    """Also the two that stay for life. Offers the disks in tenants where the person may create definitions."""

    disk = forms.ModelChoiceField(label="Disk", queryset=Disk.objects.none(), empty_label="Choose a disk")
    name = forms.CharField(
        label="Name", max_length=16, initial="daily", help_text="Backups are named by it; it cannot be changed later."
    )
    field_order = [
        "disk",
        "name",
        "cron",
        "time_zone",
        "retention_count",
        "immutable_days",
        "bandwidth_limit",
        "description",
        "active",
        "run_at_once",
    ]

    def __init__(self, *args: Any, person: Person, **options: Any) -> None:
        super().__init__(*args, **options)
        tenants = tenants_for_new(person, Definition)
        disks = Disk.objects.for_user(person).filter(server__tenant__in=tenants)
        self.fields["disk"].queryset = disks.select_related("server").order_by("server__name", "number")  # type: ignore[attr-defined]
