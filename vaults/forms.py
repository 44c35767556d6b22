"""Forms of the pages of keys and vaults. What a value means is checked by the services."""

from __future__ import annotations

from django import forms

from common.forms import PlainForm, RowForm
from vaults.acceptance import LONGEST_REASON
from vaults.alarms import LONGEST_ACKNOWLEDGEMENT

_INPUT = {"class": "form-control", "autocomplete": "off", "spellcheck": "false"}


class AnswerForm(PlainForm):
    """The challenge travels along, so that a wrong answer does not make it disappear."""

    challenge = forms.CharField(max_length=400, required=False, widget=forms.HiddenInput)
    answer = forms.CharField(
        max_length=100, label="Answer of the stand-alone tool", widget=forms.TextInput(attrs=_INPUT)
    )


class CustomerKeyForm(PlainForm):
    public_key = forms.CharField(
        max_length=100,
        label="Public key",
        help_text="As the stand-alone tool prints it. The recovery key itself never leaves your hands.",
        widget=forms.TextInput(attrs=_INPUT),
    )


class AcceptSettingsForm(PlainForm):
    """The digest travels along, so that nobody accepts what he has not seen."""

    digest = forms.CharField(max_length=64, widget=forms.HiddenInput)
    reason = forms.CharField(
        max_length=LONGEST_REASON,
        label="Why is it meant to be so?",
        help_text="It is kept with your name.",
        widget=forms.TextInput(attrs=_INPUT),
    )


class AcknowledgeForm(RowForm):
    """Beside one alarm of many."""

    note = forms.CharField(
        max_length=LONGEST_ACKNOWLEDGEMENT,
        required=False,
        label="Note",
        widget=forms.TextInput(attrs={**_INPUT, "placeholder": "Note"}),
    )
