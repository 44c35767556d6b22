"""What a person types about backups. No rules: the services know them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms

from tenants.quotas import CAPS, QuotaUse


class NoteForm(forms.Form):
    note = forms.CharField(
        label="Note",
        required=False,
        widget=forms.TextInput(attrs={"class": "form-control", "placeholder": "No note yet"}),
    )


class RestoreForm(forms.Form):
    """The target was chosen on the page before; here its server's name is typed."""

    confirmation = forms.CharField(
        required=False,
        strip=False,
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off", "spellcheck": "false"}),
    )


class QuotaForm(forms.Form):
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


def _levels(use: QuotaUse) -> tuple[str, ...]:
    return ("hard",) if use.kind in CAPS else ("soft", "hard")


class DeletionForm(forms.Form):
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
