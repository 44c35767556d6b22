"""What a person types about backups. No rules: the services know them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms

from agents.models import HOST_DRIVER, Disk, Storage
from backups.file_restores import LONGEST_FOLDER, LONGEST_PATH, MOST_PATHS, WHOLE, FileWish
from backups.serving import LONGEST_HOURS
from common.forms import PlainForm
from tenants.models import Person
from tenants.quotas import CAPS, QuotaUse
from vaults.models import Region

USUAL_HOURS = 4
_HOURS = f"A backup is served for 1 to {LONGEST_HOURS} hours."


class NoteForm(PlainForm):
    note = forms.CharField(
        label="Note",
        required=False,
        widget=forms.TextInput(attrs={"class": "form-control", "placeholder": "No note yet"}),
    )


class SourceForm(PlainForm):
    """What its node calls a server; empty where its driver knows no servers."""

    source_name = forms.CharField(
        label="What its node calls it",
        required=False,
        max_length=128,
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off", "spellcheck": "false"}),
    )


class ServerRegionForm(PlainForm):
    """Where a server stands."""

    region = forms.ChoiceField(label="It stands in", widget=forms.Select(attrs={"class": "form-select"}))

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        regions = Region.objects.order_by("code").values_list("code", "title")
        self.fields["region"].choices = [
            (code, f"{code} ({title})" if title not in {"", code} else code) for code, title in regions
        ]


class ServeForm(PlainForm):
    hours = forms.IntegerField(
        label="For so many hours",
        initial=USUAL_HOURS,
        min_value=1,
        max_value=LONGEST_HOURS,
        error_messages=dict.fromkeys(("required", "invalid", "min_value", "max_value"), _HOURS),
        widget=forms.NumberInput(attrs={"class": "form-control"}),
    )


class RestoreForm(PlainForm):
    """The target was chosen on the page before; here its server's name is typed."""

    confirmation = forms.CharField(
        required=False,
        strip=False,
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off", "spellcheck": "false"}),
    )

    def wish(self) -> FileWish:
        return WHOLE


class FileRestoreForm(RestoreForm):
    """Of a backup of files, also which of them and where to."""

    place = forms.ChoiceField(
        choices=[
            ("folder", "Into a new folder: nothing is replaced"),
            ("over", "Over what is there: files of the backup replace those of the same name"),
            ("exact", "As it was: also remove what the backup does not have"),
        ],
        initial="folder",
        widget=forms.RadioSelect(attrs={"class": "form-check-input"}),
    )
    folder = forms.CharField(
        label="Name of the new folder",
        required=False,
        max_length=LONGEST_FOLDER,
        help_text="Inside of the target.",
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off", "spellcheck": "false"}),
    )
    paths = forms.CharField(
        label="Only these files and folders",
        required=False,
        strip=False,
        max_length=MOST_PATHS * LONGEST_PATH,
        help_text="One a line, from the root of the tree on. Empty: everything.",
        widget=forms.Textarea(attrs={"class": "form-control font-monospace", "rows": 3, "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, target: Disk, **options: Any) -> None:
        super().__init__(*args, **options)
        if target.driver == HOST_DRIVER:
            # On a whole server nothing is removed: what is not offered is not refused afterwards.
            self.fields["place"].choices = [one for one in self.fields["place"].choices if one[0] != "exact"]

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        if values.get("place") == "folder" and not values.get("folder", "").strip():
            self.add_error("folder", "Give the new folder a name.")
        return values

    def wish(self) -> FileWish:
        """As it is typed now, or as it stands at first."""
        said = self.cleaned_data if self.is_bound and hasattr(self, "cleaned_data") else {}
        place = said.get("place") or self["place"].value()
        return FileWish(
            paths=tuple(line for line in (said.get("paths") or "").splitlines() if line.strip()),
            folder=(said.get("folder") or "") if place == "folder" else "",
            delete_extra=place == "exact",
        )


class NewTargetForm(PlainForm):
    """Where a restore makes a disk; with a name, a whole server of a SuperAdmin."""

    storage = forms.ModelChoiceField(
        label="On the storage", queryset=Storage.objects.none(), widget=forms.Select(attrs={"class": "form-select"})
    )
    name = forms.CharField(
        label="As a new server of this name",
        required=False,
        max_length=128,
        help_text="It is defined of what the backup kept of the old one, shut off, with all disks of the same run.",
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off"}),
    )

    def __init__(self, *args: Any, person: Person, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["storage"].queryset = (
            Storage.objects.for_user(person).select_related("node").order_by("node__name", "name")
        )
        if not person.is_superuser:
            del self.fields["name"]


class QuotaForm(PlainForm):
    """A soft and a hard limit of each kind; empty is no limit. A cap of a single value has a hard one only."""

    def __init__(self, *args: Any, uses: Iterable[QuotaUse], **options: Any) -> None:
        super().__init__(*args, **options)
        self._uses = list(uses)
        for use in self._uses:
            for level in _levels(use):
                self.fields[f"{use.kind}_{level}"] = forms.IntegerField(
                    label=f"{use.kind.label.capitalize()}, {level} limit",
                    required=False,
                    min_value=0,
                    initial=getattr(use, level),
                    widget=forms.NumberInput(attrs={"class": "form-control"}),
                )

    def limits(self) -> dict[str, dict[str, int | None]]:
        return {
            str(use.kind): {level: self.cleaned_data[f"{use.kind}_{level}"] for level in _levels(use)}
            for use in self._uses
        }


class SuspensionForm(PlainForm):
    reason = forms.CharField(
        label="Reason, shown to the tenant's people",
        required=False,
        max_length=255,
        widget=forms.TextInput(attrs={"class": "form-control", "placeholder": "Reason, shown to the tenant's people"}),
    )


def _levels(use: QuotaUse) -> tuple[str, ...]:
    return ("hard",) if use.kind in CAPS else ("soft", "hard")


class DeletionForm(PlainForm):
    """The tenant's name is typed."""

    confirmation = forms.CharField(
        label="Name of the tenant",
        required=False,
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off", "spellcheck": "false"}),
    )
    reason = forms.CharField(
        label="Reason", required=False, max_length=500, widget=forms.TextInput(attrs={"class": "form-control"})
    )


class VaultRemovalForm(DeletionForm):
    """The vault's name is typed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["confirmation"].label = "Name of the vault"
