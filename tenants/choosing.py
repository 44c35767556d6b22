"""Fields in which one names an object, where a select would list every server there is.

One types a name or pastes an id, and a short list comes from the server while typing. What was typed is looked for
among the rows that the form offers, which come through `for_user`: a foreign object and a missing one are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any
from uuid import UUID

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import Model, Q
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_GET

from tenants.models import Person, Tenant
from tenants.querysets import ScopedQuerySet, sought_first
from tenants.views import View, portal_page

MOST_SUGGESTED = 20
LONGEST_TYPED = 300
# Several objects are typed one in each line; who has more of them does it in two steps.
LINES = 5
_DELAY = "input changed delay:200ms, focus once"


@dataclass(frozen=True, slots=True)
class Choices:
    """What people choose from, and how it is named. Words of it go to a person only for rows that he reaches.

    `offered` are the rows for a person, with what `text` needs; `searched` the columns that a part of the name is
    looked for in; `named` conditions under which a row is meant by what was typed, the most exact first.
    """

    label: str
    url_name: str
    offered: Callable[[Person], Any]
    searched: tuple[str, ...]
    order: tuple[str, ...]
    text: Callable[[Any], str]
    named: Callable[[str], Iterable[Q]]
    # Whether the database could walk an index of the order, and be slow by that: see `sought_first`.
    is_order_indexed: bool = False

    def matching(self, person: Person, typed: str) -> Any:
        """At most MOST_SUGGESTED rows whose name holds what was typed."""
        rows = self.offered(person)
        if typed:
            rows = rows.filter(reduce(or_, [Q(**{f"{column}__icontains": typed}) for column in self.searched]))
            rows = sought_first(rows)[0] if self.is_order_indexed else rows
        return rows.order_by(*self.order)[:MOST_SUGGESTED]


def is_id(typed: str) -> bool:
    try:
        return bool(UUID(typed))
    except ValueError:
        return False


def split_text(typed: str) -> tuple[str, str] | None:
    """`name (inside)` as its two parts, None for another text."""
    name, bracket, inside = typed.rpartition(" (")
    return (name, inside[:-1]) if bracket and inside.endswith(")") else None


def _tenant_named(typed: str) -> list[Q]:
    parts = split_text(typed)
    whole = [Q(title=parts[0], name=parts[1])] if parts else []
    return [*whole, Q(name=typed), Q(title=typed)]


def _tenants(person: Person) -> ScopedQuerySet:
    return Tenant.objects.for_user(person)


TENANTS = Choices(
    label="tenant",
    url_name="tenant-choices",
    offered=_tenants,
    searched=("title", "name"),
    order=("title", "name"),
    text=lambda tenant: f"{tenant.title} ({tenant.name})",
    named=_tenant_named,
)


def choices_page(choices: Choices) -> View:
    """The view that answers with the suggestions for what was typed, whatever the field is called."""

    @require_GET
    @portal_page
    def suggestions(request: HttpRequest) -> HttpResponse:
        typed = next(iter(request.GET.values()), "").strip().replace("\0", "")[:LONGEST_TYPED]
        texts = ((choices.text(row),) for row in choices.matching(request.user, typed))
        return HttpResponse(format_html_join("", '<option value="{}"></option>', texts))

    return suggestions


class ScopedChoiceField(forms.CharField):
    """One object, by its name or its id. `offer` says among which rows; until then none is found."""

    def __init__(self, choices: Choices, **options: Any) -> None:
        super().__init__(max_length=LONGEST_TYPED, widget=SuggestingInput(choices.url_name), **options)
        self.choices_of = choices
        self.rows: Any = None

    def offer(self, rows: Any) -> None:
        """These rows may be chosen. Where a person must choose and there is only one, it stands there already."""
        self.rows = rows
        if self.required and self.initial is None:
            few = list(rows.order_by()[:2])
            self.initial = few[0] if len(few) == 1 else None

    def prepare_value(self, value: Any) -> Any:
        """An object, or the id of one, is shown by its name."""
        if isinstance(value, Model):
            return self.choices_of.text(value)
        found = self._by_id(str(value)) if value else None
        return value if found is None else self.choices_of.text(found)

    def clean(self, value: Any) -> Any:
        typed = super().clean(value)
        return self.found(typed) if typed else None

    def found(self, typed: str) -> Any:
        """The one object that is called so. Raises ValidationError for none and for several."""
        given = self._by_id(typed)
        if given is not None:
            return given
        for condition in self.choices_of.named(typed) if self.rows is not None else ():
            few = list(self.rows.filter(condition)[:2])
            if len(few) > 1:
                raise ValidationError(f"Several are called “{typed}”: choose one from the list.", code="ambiguous")
            if few:
                return few[0]
        raise ValidationError(f"There is no such {self.choices_of.label}: “{typed}”.", code="invalid_choice")

    def _by_id(self, text: str) -> Any:
        return self.rows.filter(pk=text).first() if self.rows is not None and is_id(text) else None


class ScopedChoicesField(ScopedChoiceField):
    """Several objects, one in each line; a list of those that were named, each once."""

    def __init__(self, choices: Choices, **options: Any) -> None:
        super().__init__(choices, **options)
        self.widget = SuggestingLines(choices.url_name)

    def prepare_value(self, value: Any) -> Any:
        shown = super().prepare_value
        return [shown(line) for line in value or []]

    def clean(self, value: Any) -> list[Any]:
        one = super().clean
        found = [one(line) for line in value or [""]]
        return list({row.pk: row for row in found if row is not None}.values())


class SuggestingInput(forms.TextInput):
    """A line of text with a list that is asked for while one types; without scripts the line alone."""

    def __init__(self, url_name: str) -> None:
        super().__init__(attrs={"class": "form-control", "autocomplete": "off", "spellcheck": "false"})
        self.url_name = url_name

    def render(self, name: str, value: Any, attrs: Mapping[str, Any] | None = None, renderer: Any = None) -> SafeString:
        identity = str((attrs or {}).get("id") or f"id_{name}")
        line = super().render(name, value, {**(attrs or {}), **self._asking(f"{identity}_list")}, renderer)
        return format_html('{}<datalist id="{}_list"></datalist>', line, identity)

    def _asking(self, list_id: str) -> dict[str, str]:
        return {
            "list": list_id,
            "hx-get": reverse(self.url_name),
            "hx-target": f"#{list_id}",
            "hx-trigger": _DELAY,
            "hx-sync": "this:replace",
        }


class SuggestingLines(SuggestingInput):
    """The same several times, with one list."""

    def value_from_datadict(self, data: Any, files: Any, name: str) -> list[str]:
        return list(data.getlist(name) if hasattr(data, "getlist") else data.get(name) or [])

    def value_omitted_from_data(self, data: Any, files: Any, name: str) -> bool:
        return name not in data

    def render(self, name: str, value: Any, attrs: Mapping[str, Any] | None = None, renderer: Any = None) -> SafeString:
        identity = str((attrs or {}).get("id") or f"id_{name}")
        typed = [*(value or []), *[""] * LINES][: max(LINES, len(value or []))]
        lines = [super().render(name, typed[0], attrs, renderer)]
        for number, text in enumerate(typed[1:], start=2):
            own = {**(attrs or {}), "id": f"{identity}_{number}", **self._asking(f"{identity}_list")}
            label = format_html('<label class="visually-hidden" for="{}">Line {}</label>', own["id"], number)
            lines.append(label + forms.TextInput.render(self, name, text, own, renderer))
        return format_html_join("", "{}", ((line,) for line in lines))
