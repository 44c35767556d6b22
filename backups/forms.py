"""What a person types about backups. No rules: the services know them."""

from __future__ import annotations

from django import forms


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
