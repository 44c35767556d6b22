"""The base of all forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from django import forms
from django.db.models import Model

from common.text import PlainText, plain_text_of

_Row = TypeVar("_Row", bound=Model)

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


class RowForm(PlainForm):
    """A small form in the row of a list: the ids of its fields end with the row's, for there are many of them."""

    def __init__(self, *arguments: Any, row: Model, **options: Any) -> None:
        super().__init__(*arguments, auto_id=f"%s-{row.pk}", **options)
        self.row = row


def row_forms(
    rows: Iterable[_Row], make: Callable[[_Row], RowForm], *, refused: RowForm | None = None
) -> list[tuple[_Row, RowForm]]:
    """Each row with its form: the one that was refused as it was sent, the others as they are at first."""
    return [(row, refused if refused is not None and refused.row == row else make(row)) for row in rows]
