"""The base of all forms."""

from __future__ import annotations

from typing import Any

from django import forms

from common.text import PlainText, plain_text_of

FILL_IN = "It is empty. Fill it in."
CHOOSE = "Nothing is chosen. Choose one."
# Instead of Django's own words, which say what is wrong only.
_REQUIRED = forms.Field.default_error_messages["required"]
_WORDS: tuple[tuple[type[forms.Field], str, object, str], ...] = (
    (forms.ChoiceField, "required", _REQUIRED, CHOOSE),
    (forms.Field, "required", _REQUIRED, FILL_IN),
    (forms.TimeField, "invalid", forms.TimeField.default_error_messages["invalid"], "Write a time as 22:00."),
    (
        forms.DateTimeField,
        "invalid",
        forms.DateTimeField.default_error_messages["invalid"],
        "Write a day and a time as 2030-12-31 22:00.",
    ),
)


def _say_what_to_do(field: forms.Field) -> None:
    """A field that has words of its own keeps them."""
    for kind, code, django_words, words in _WORDS:
        if isinstance(field, kind) and field.error_messages[code] == django_words:
            field.error_messages[code] = words


class PlainForm(forms.Form):
    """Its texts hold only what is seen; passwords may hold anything. What is missing is said with what to do."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for name, field in self.fields.items():
            _say_what_to_do(field)
            if isinstance(field, forms.CharField) and not isinstance(field.widget, forms.PasswordInput):
                lines = isinstance(field.widget, forms.Textarea)
                field.validators.append(PlainText(lines=True) if lines else plain_text_of(name))
