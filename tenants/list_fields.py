"""Fields of the filters of lists: days in the person's zone, sizes as people write them, parts of names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils import timezone

_FIRST_DAY, _LAST_DAY = date(1990, 1, 1), date(2999, 12, 31)
_LARGEST = 2**63 - 1
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,6})?) ?(?:([kmgtp])(i?)b?|b|bytes?)?", re.ASCII | re.IGNORECASE)
LONGEST_NAME = 128


class DayField(forms.DateField):
    """A day. Which moments it means depends on the zone of who asks: see `within_days`."""

    def __init__(self, label: str) -> None:
        widget = forms.DateInput(attrs={"class": "form-control", "type": "date"}, format="%Y-%m-%d")
        words = "A day between 1990 and 2999."
        bounds = [MinValueValidator(_FIRST_DAY, words), MaxValueValidator(_LAST_DAY, words)]
        super().__init__(
            label=label, required=False, widget=widget, validators=bounds, input_formats=["%Y-%m-%d"],
            error_messages={"invalid": "Write a day as 2026-03-31."},
        )  # fmt: skip


class MomentField(forms.CharField):
    """A moment that a link from elsewhere narrows the list to, as ISO 8601 with its offset."""

    def __init__(self) -> None:
        super().__init__(required=False, max_length=40, widget=forms.HiddenInput())

    def clean(self, value: Any) -> datetime | None:
        text = super().clean(value)
        if not text:
            return None
        try:
            # A plus sign that was not written as %2B.
            found = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        except ValueError as error:
            raise ValidationError("Write a moment as 2026-03-31T12:00:00Z.", code="invalid") from error
        if not _FIRST_DAY.year <= found.year <= _LAST_DAY.year:
            raise ValidationError("A moment between 1990 and 2999.", code="invalid")
        return found if found.tzinfo is not None else timezone.make_aware(found)


class SizeField(forms.CharField):
    """`5 GiB`, `1.5 t`, `300 MB` or a number of bytes; gives bytes. Only a plain B makes powers of 1000."""

    def __init__(self, label: str) -> None:
        attributes = {"class": "form-control", "placeholder": "5 GiB", "autocomplete": "off"}
        super().__init__(label=label, required=False, max_length=32, widget=forms.TextInput(attrs=attributes))

    def clean(self, value: Any) -> int | None:
        text = super().clean(value)
        if not text:
            return None
        found = _SIZE.fullmatch(text)
        if found is None:
            raise ValidationError("Write a size as 5 GiB, 300 MB or a number of bytes.", code="invalid")
        amount, unit, binary = found[1], (found[2] or "").lower(), found[3]
        base = 1000 if unit and not binary and text.lower().endswith("b") else 1024
        size = int(float(amount) * base ** _POWERS[unit]) if "." in amount else int(amount) * base ** _POWERS[unit]
        if size > _LARGEST:
            raise ValidationError("That is more than can be stored anywhere.", code="too_large")
        return size


class NamePartField(forms.CharField):
    """A part of a name, or in quotes the whole of it."""

    def __init__(self, label: str) -> None:
        attributes = {"class": "form-control", "type": "search", "placeholder": label, "autocomplete": "off"}
        words = "A part of the name; the whole of it in quotes."
        super().__init__(
            label=label, required=False, max_length=LONGEST_NAME + 2, widget=forms.TextInput(attrs=attributes)
        )
        self.widget.attrs["title"] = words


def choice_field(label: str, choices: Iterable[tuple[str, str]], *, every: str) -> forms.ChoiceField:
    """One of the choices, or none, which is called `every`."""
    widget = forms.Select(attrs={"class": "form-select"})
    return forms.ChoiceField(label=label, required=False, choices=[("", every), *choices], widget=widget)


class PresenceInput(forms.CheckboxInput):
    """Checked where the address names it, as `?unused` does, unless it says false."""

    def value_from_datadict(self, data: Any, files: Any, name: str) -> bool:
        return name in data and str(data[name]).lower() not in {"false", "off", "0"}


def check_field(label: str) -> forms.BooleanField:
    return forms.BooleanField(label=label, required=False, widget=PresenceInput(attrs={"class": "form-check-input"}))


def named(rows: Any, column: str, typed: str) -> Any:
    """Those whose name holds what was typed; is it, where that is in quotes."""
    exact = len(typed) > 2 and typed.startswith('"') and typed.endswith('"')
    return rows.filter(**{column: typed[1:-1]} if exact else {f"{column}__icontains": typed})


def within_days(rows: Any, column: str, wanted: Mapping[str, Any]) -> Any:
    """From the day `since` to the day `until`, both whole, in the zone of who asks (with `utc`: of UTC); and from the
    moment `created_after` on, before `created_before`.
    """
    zone = UTC if wanted.get("utc") else None
    for name, lookup in (("created_after", "gte"), ("created_before", "lt")):
        if name in wanted:
            rows = rows.filter(**{f"{column}__{lookup}": wanted[name]})
    if since := wanted.get("since"):
        rows = rows.filter(**{f"{column}__gte": midnight(since, zone)})
    if until := wanted.get("until"):
        rows = rows.filter(**{f"{column}__lt": midnight(until + timedelta(days=1), zone)})
    return rows


def midnight(day: date, zone: tzinfo | None = None) -> datetime:
    """The beginning of the day in the zone, without one in that of who asks."""
    return timezone.make_aware(datetime(day.year, day.month, day.day), zone)
