"""What a person types about a definition. No rules: the services know them."""

from __future__ import annotations

from typing import Any

from django import forms

from agents.choosing import DISKS
from agents.models import Disk, Storage
from common.forms import PlainForm
from definitions.excludes import LONGEST_EXCLUDES
from definitions.models import Definition
from definitions.rule_fields import RULE_FIELDS
from definitions.services import EDITABLE, Fate
from tenants.access import tenants_for_new
from tenants.choosing import ScopedChoiceField
from tenants.models import Person


class StyledForm(PlainForm):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for field in self.fields.values():
            field.widget.attrs.setdefault("class", _CLASSES.get(type(field.widget), "form-control"))


# What most people never need; the retention rules beyond the count are among it.
ADVANCED = ("compression", "freeze_filesystem", "rpo_hours", "immutable_days", "bandwidth_limit", "excludes")
_CLASSES = {forms.CheckboxInput: "form-check-input", forms.Select: "form-select"}


class RulesForm(StyledForm):
    """The retention rules, of a definition and of a policy."""

    retention_count = forms.IntegerField(
        label="Backups to keep",
        min_value=0,
        initial=14,
        help_text="The oldest ones beyond it are removed. With all rules 0, all are kept.",
    )
    retention_days = forms.IntegerField(
        label="Days of which all are kept", min_value=0, max_value=3650, required=False, initial=0
    )
    keep_hourly = forms.IntegerField(label="Hours of which one is kept", min_value=0, required=False, initial=0)
    keep_daily = forms.IntegerField(label="Days of which one is kept", min_value=0, required=False, initial=0)
    keep_weekly = forms.IntegerField(label="Weeks of which one is kept", min_value=0, required=False, initial=0)
    keep_monthly = forms.IntegerField(label="Months of which one is kept", min_value=0, required=False, initial=0)
    keep_yearly = forms.IntegerField(label="Years of which one is kept", min_value=0, required=False, initial=0)

    def clean(self) -> dict[str, Any]:
        """An empty rule asks for nothing."""
        values: dict[str, Any] = super().clean() or self.cleaned_data
        return values | {name: 0 for name in RULE_FIELDS if values.get(name, 0) is None}

    @property
    def more_rules(self) -> list[forms.BoundField]:
        return [self[name] for name in RULE_FIELDS if name != "retention_count"]

    @property
    def has_more_rules(self) -> bool:
        return any(field.errors or str(field.value() or 0) != "0" for field in self.more_rules)


class DefinitionForm(RulesForm):
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
    rpo_hours = forms.IntegerField(
        label="Oldest that the last good backup may be, in hours",
        min_value=1,
        max_value=87600,
        required=False,
        help_text="Empty: two intervals of the schedule.",
    )
    immutable_days = forms.IntegerField(
        label="Days that nobody can remove a backup",
        required=False,
        help_text="Empty: as the vault says. Longer cannot be taken back for backups that were made meanwhile.",
    )
    bandwidth_limit = forms.IntegerField(
        label="Bytes per second at most", required=False, help_text="Empty: no limit. 10485760 is 10 MiB a second."
    )
    compression = forms.ChoiceField(
        label="Compression of File backups",
        choices=Definition.Compression.choices,
        initial=Definition.Compression.OFF,
        required=False,
        help_text="zstd is the quickest of them. Vault backups compress by themselves: off.",
    )
    freeze_filesystem = forms.BooleanField(
        label="Freeze the file systems",
        required=False,
        help_text="While the moment of the backup is taken, by the QEMU guest agent in the server; always thawed.",
    )
    excludes = forms.CharField(
        label="What is left out of a tree of files",
        required=False,
        strip=False,
        max_length=LONGEST_EXCLUDES,
        help_text="One pattern a line, as in a .gitignore file at its root: cache/ or *.tmp. Of disks nothing can be.",
        widget=forms.Textarea(attrs={"class": "form-control font-monospace", "rows": 4, "spellcheck": "false"}),
    )
    description = forms.CharField(label="Description", max_length=128, required=False)
    active = forms.BooleanField(
        label="Active", required=False, initial=True, help_text="Without it nothing runs by schedule."
    )
    run_at_once = forms.BooleanField(label="Run the first backup at once", required=False)

    @property
    def has_advanced(self) -> bool:
        """Whether something of the advanced part was set or is wrong: then it is open."""
        plain = {"compression": Definition.Compression.OFF}
        fields = [self[name] for name in ADVANCED if name in self.fields]
        return self.has_more_rules or any(
            field.errors or (field.value() or "") not in {"", plain.get(field.name)} for field in fields
        )

    def clean_compression(self) -> str:
        return str(self.cleaned_data["compression"] or Definition.Compression.OFF)

    def clean_excludes(self) -> str:
        """A browser ends lines in its own way."""
        return "\n".join(self.cleaned_data["excludes"].splitlines())

    def changes(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in EDITABLE if name in self.fields}


class NewDefinitionForm(DefinitionForm):
    """Also what stays for life. Offers the disks in tenants where the person may create definitions."""

    disk = ScopedChoiceField(DISKS, label="Disk")
    type = forms.ChoiceField(
        label="Type",
        choices=Definition.Type.choices,
        initial=Definition.Type.VAULT,
        required=False,
        help_text="Vault: encrypted and locked, in object storage. File: a full copy on a storage of a backup node.",
    )
    storage = forms.ModelChoiceField(
        label="Storage",
        queryset=Storage.objects.none(),
        required=False,
        empty_label="none",
        help_text="For File and Dataset. It cannot be changed later.",
    )
    name = forms.CharField(
        label="Name", max_length=16, initial="daily", help_text="Backups are named by it; it cannot be changed later."
    )
    field_order = [
        "disk",
        "name",
        "type",
        "storage",
        "compression",
        "freeze_filesystem",
        "cron",
        "time_zone",
        *RULE_FIELDS,
        "rpo_hours",
        "immutable_days",
        "bandwidth_limit",
        "excludes",
        "description",
        "active",
        "run_at_once",
    ]

    def __init__(self, *args: Any, person: Person, **options: Any) -> None:
        super().__init__(*args, **options)
        tenants = tenants_for_new(person, Definition)
        disks = Disk.objects.for_user(person).filter(tenant__in=tenants)
        self.fields["disk"].offer(disks.select_related("server", "tenant"))
        storages = Storage.objects.for_user(person).filter(node__is_backup=True)
        self.fields["storage"].queryset = storages.select_related("node").order_by("node__name", "name")

    def clean_type(self) -> str:
        return str(self.cleaned_data["type"] or Definition.Type.VAULT)


class DeletionForm(PlainForm):
    """What becomes of the backups of a definition that is deleted; said nothing, they stay."""

    backups = forms.ChoiceField(choices=[(fate.value, fate.value) for fate in Fate], required=False)
    days = forms.IntegerField(required=False)
    adopter = forms.ModelChoiceField(queryset=Definition.objects.none(), required=False)
    confirmation = forms.CharField(required=False)

    def __init__(self, *args: Any, adopters: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["adopter"].queryset = adopters

    def fate(self) -> dict[str, Any]:
        chosen = Fate(self.cleaned_data["backups"] or Fate.KEEP)
        named = {Fate.KEEP_UNTIL_AGE: "days", Fate.ADOPT: "adopter", Fate.DELETE: "confirmation"}.get(chosen)
        return {"backups": chosen, **({named: self.cleaned_data[named]} if named else {})}

    @property
    def said(self) -> str:
        return {
            Fate.KEEP: "Its backups stay.",
            Fate.KEEP_UNTIL_AGE: "Its backups stay until they are old enough.",
            Fate.ADOPT: "Its backups are the other definition's now.",
            Fate.DELETE: "Its backups are deleted, too; what is locked stays in the vault until its lock ends.",
        }[self.fate()["backups"]]
