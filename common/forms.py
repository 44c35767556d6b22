"""The base of all forms."""

from __future__ import annotations

from typing import Any

from django import forms

from common.text import PlainText, plain_text_of


class PlainForm(forms.Form):
    """Its texts hold only what is seen; passwords may hold anything."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for name, field in self.fields.items():
            if isinstance(field, forms.CharField) and not isinstance(field.widget, forms.PasswordInput):
                lines = isinstance(field.widget, forms.Textarea)
                field.validators.append(PlainText(lines=True) if lines else plain_text_of(name))
