"""Query parameters of lists: filters, search and ordering. What a viewset does not declare is refused by name.

A parameter names a column only through a declaration, so nothing can be asked across relations. A foreign id, a
missing one and one that nothing carries are all the same: the list is empty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from django.db.models import Q
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.filters import BaseFilterBackend
from rest_framework.request import Request

from tenants.serializers import UtcDateTimeField

Field = serializers.Field[Any, Any, Any, Any]

LONGEST_SEARCH = 100
LONGEST_LIST = 50
# So few are listed by their keys.
MOST_KEYS = 1_000
LARGEST_NUMBER = 2**63 - 1
# What every list understands besides its own: which columns of the answer are there is not for the caller to choose.
_ALWAYS = frozenset({"format"})
_NONE = "none"


@dataclass(frozen=True, slots=True)
class Filter:
    """One query parameter: how its text is read, and what column it is compared with.

    `many`: several values with commas between them, of which one must fit. `none`: the word means "has none".
    """

    field: Field
    column: str
    lookup: str = "exact"
    many: bool = False
    none: bool = False
    # What the words stand for in the column, where they are not the values themselves.
    meanings: Mapping[str, Any] | None = None

    def condition(self, name: str, text: str) -> Q:
        return reduce(or_, [self._one(name, part) for part in self._parts(name, text)])

    def _parts(self, name: str, text: str) -> list[str]:
        parts = text.split(",") if self.many else [text]
        if len(parts) > LONGEST_LIST:
            raise ValidationError({name: [f"At most {LONGEST_LIST} values."]}, code="too_many")
        return parts

    def _one(self, name: str, text: str) -> Q:
        if self.none and text == _NONE:
            return Q(**{f"{self.column}__isnull": True})
        value = checked(name, self.field, text)
        return Q(**{f"{self.column}__{self.lookup}": self.meanings[value] if self.meanings else value})

    def schema(self) -> dict[str, Any]:
        one = _schema_of(self.field)
        if self.none:
            one = {"anyOf": [one, {"type": "string", "enum": [_NONE]}]}
        return {"type": "array", "items": one, "minItems": 1, "maxItems": LONGEST_LIST} if self.many else one


class QueryBooleanField(serializers.Field[Any, Any, Any, Any]):
    """`true` or `false`, and nothing that only looks like it. `inverted` gives the opposite of what was said."""

    def __init__(self, *, inverted: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._inverted = inverted

    def to_internal_value(self, data: Any) -> bool:
        if data not in {"true", "false"}:
            raise ValidationError("Say true or false.", code="invalid")
        return bool(data == "true") is not self._inverted

    def to_representation(self, value: Any) -> Any:
        return value


def by_id(column: str, *, none: bool = False) -> Filter:
    """`server=<uuid>`, several with commas; with `none` also `server=none`."""
    return Filter(serializers.UUIDField(), column, many=True, none=none)


def by_choice(column: str, choices: Iterable[str] | Mapping[str, Any]) -> Filter:
    """`status=ok,lost`: one of the choices, or several with commas. A mapping says what each word stands for."""
    meanings = choices if isinstance(choices, Mapping) else None
    return Filter(serializers.ChoiceField(choices=list(choices)), column, many=True, meanings=meanings)


def by_boolean(column: str) -> Filter:
    return Filter(QueryBooleanField(), column)


def by_presence(column: str) -> Filter:
    """`true`: the column holds something; `false`: it is null."""
    return Filter(QueryBooleanField(inverted=True), column, lookup="isnull")


def by_text(column: str, *, longest: int = LONGEST_SEARCH) -> Filter:
    """Exactly this text."""
    return Filter(serializers.CharField(max_length=longest, trim_whitespace=False), column)


def by_number(column: str) -> Filter:
    return Filter(serializers.IntegerField(min_value=0, max_value=LARGEST_NUMBER), column)


def times(name: str, column: str) -> dict[str, Filter]:
    """`<name>_after` (from then on) and `<name>_before` (not itself), so that ranges meet without a gap."""
    return {
        f"{name}_after": Filter(UtcDateTimeField(), column, lookup="gte"),
        f"{name}_before": Filter(UtcDateTimeField(), column, lookup="lt"),
    }


def numbers(name: str, column: str) -> dict[str, Filter]:
    """`<name>_min` and `<name>_max`, both included."""
    field = serializers.IntegerField(min_value=0, max_value=LARGEST_NUMBER)
    return {f"{name}_min": Filter(field, column, lookup="gte"), f"{name}_max": Filter(field, column, lookup="lte")}


class DeclaredFilters(BaseFilterBackend):
    """Applies what the viewset declares in `filters`, `search_fields` and `ordering_fields`; refuses all else."""

    def filter_queryset(self, request: Request, queryset: Any, view: Any) -> Any:
        given = request.query_params
        _refuse_unknown(given, known=set(view.filters) | _own_names(view) | view.paginator.parameters | _ALWAYS)
        own = {}
        for name, declared in view.filters.items():
            if name not in given:
                continue
            if isinstance(declared, Filter):
                queryset = queryset.filter(declared.condition(name, given[name]))
            else:
                own[name] = checked(name, declared, given[name])
        return _ordered(given, _found(given, view.apply_filters(queryset, own), view), view)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        described = [_parameter(name, declared) for name, declared in view.filters.items()]
        if view.search_fields:
            text = {"type": "string", "minLength": 1, "maxLength": LONGEST_SEARCH, "pattern": "^[^\\x00]+$"}
            words = "Part of: " + ", ".join(view.search_fields) + "."
            described.append({"name": "search", "in": "query", "description": words, "schema": text})
        if view.ordering_fields:
            choices = {"type": "string", "enum": sorted(_orderings(view))}
            described.append({"name": "ordering", "in": "query", "schema": choices})
        return described


def checked(name: str, field: Field, text: str) -> Any:
    """The value of a query parameter. Raises ValidationError with the parameter's name."""
    try:
        return field.run_validation(text)
    except ValidationError as error:
        raise ValidationError({name: error.detail}) from error


def refuse_parameters(given: Any, *, known: Collection[str]) -> None:
    """For what is no list: raise ValidationError with the name of a parameter that nothing here looks at.

    A caller who writes `?tenant=` to an action believes that it is bounded by it.
    """
    unknown = sorted(set(given) - set(known) - _ALWAYS)
    if unknown:
        raise ValidationError({name: ["Nothing here looks at it."] for name in unknown}, code="unknown_parameter")
    _refuse_twice(given)


def _refuse_unknown(given: Any, *, known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValidationError({name: ["There is no such filter."] for name in unknown}, code="unknown_filter")
    _refuse_twice(given)


def _refuse_twice(given: Any) -> None:
    if given.get("format", "json") == "":
        raise ValidationError({"format": ["Say json or csv."]}, code="invalid")
    twice = sorted(name for name in given if len(given.getlist(name)) > 1)
    if twice:
        raise ValidationError({name: ["Given more than once."] for name in twice}, code="given_twice")


def _own_names(view: Any) -> set[str]:
    return ({"search"} if view.search_fields else set()) | ({"ordering"} if view.ordering_fields else set())


def _found(given: Mapping[str, str], queryset: Any, view: Any) -> Any:
    if "search" not in given or not view.search_fields:
        return queryset
    field = serializers.CharField(max_length=LONGEST_SEARCH, trim_whitespace=False)
    text = checked("search", field, given["search"])
    found = queryset.filter(reduce(or_, [Q(**{f"{column}__icontains": text}) for column in view.search_fields]))
    # As `sought_first`: for a word that is rare the database would walk the index of the order to its end.
    keys = list(found.order_by().values_list("pk", flat=True)[: MOST_KEYS + 1])
    return queryset.filter(pk__in=keys) if len(keys) <= MOST_KEYS else found


def _ordered(given: Mapping[str, str], queryset: Any, view: Any) -> Any:
    if "ordering" not in given or not view.ordering_fields:
        return queryset
    ordering = given["ordering"]
    if ordering not in _orderings(view):
        message = f"Choose one of {', '.join(view.ordering_fields)}; a minus before it turns it round."
        raise ValidationError({"ordering": [message]}, code="unknown_ordering")
    return queryset.order_by(ordering, "-pk" if ordering.startswith("-") else "pk")


def _orderings(view: Any) -> set[str]:
    return {sign + name for name in view.ordering_fields for sign in ("", "-")}


def _parameter(name: str, declared: Filter | Field) -> dict[str, Any]:
    schema = declared.schema() if isinstance(declared, Filter) else _schema_of(declared)
    described: dict[str, Any] = {"name": name, "in": "query", "required": False, "schema": schema}
    return {**described, "style": "form", "explode": False} if schema.get("type") == "array" else described


def _schema_of(field: Field) -> dict[str, Any]:
    if isinstance(field, serializers.ChoiceField):
        return {"type": "string", "enum": [str(choice) for choice in field.choices]}
    if isinstance(field, serializers.BooleanField | QueryBooleanField):
        return {"type": "boolean"}
    if isinstance(field, serializers.IntegerField):
        return {"type": "integer", "minimum": field.min_value, "maximum": field.max_value}
    if isinstance(field, serializers.DateTimeField):
        return {"type": "string", "format": "date-time"}
    if isinstance(field, serializers.UUIDField):
        return {"type": "string", "format": "uuid"}
    return {"type": "string", "minLength": 1, "pattern": "^[^\\x00]+$"}
