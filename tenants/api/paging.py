"""Pages of lists: by offset for small sets, by cursor for whatever grows.

A cursor names the last row seen by the values that the list is ordered by, so a page far down costs as much as the
first. It is signed: one that was altered is refused, and none can be made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import attrgetter, or_
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.core.exceptions import ValidationError as ModelValidationError
from django.core.signing import BadSignature, dumps, loads
from django.db import models
from django.db.models import Q
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import BasePagination, LimitOffsetPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 500
LARGEST_OFFSET = 100_000
# A count stops here: what is larger is told as "at least".
COUNT_CAP = 10_000
LONGEST_CURSOR = 2_000
_SALT = "tenants.api.paging"


class Paging(LimitOffsetPagination):
    """`limit` and `offset`, with the total. For sets that stay small."""

    default_limit = DEFAULT_LIMIT
    max_limit = LARGEST_LIMIT
    parameters = frozenset({"limit", "offset"})

    def get_limit(self, request: Request) -> int:
        return _number(request, "limit", least=1, most=LARGEST_LIMIT, default=DEFAULT_LIMIT)

    def get_offset(self, request: Request) -> int:
        return _number(request, "offset", least=0, most=LARGEST_OFFSET, default=0)

    def check(self, request: Request) -> None:
        """Refuse what cannot be, also where pages are not asked for."""
        self.get_limit(request)
        self.get_offset(request)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        return [_limit_parameter(), _integer_parameter("offset", "Rows to leave out.", least=0, most=LARGEST_OFFSET)]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the order, with its direction."""

    path: str
    descending: bool

    def beyond(self, value: Any, *, reverse: bool) -> Q:
        return Q(**{f"{self.path}__{'lt' if self.descending != reverse else 'gt'}": value})

    def not_before(self, value: Any, *, reverse: bool) -> Q:
        return Q(**{f"{self.path}__{'lte' if self.descending != reverse else 'gte'}": value})

    def name(self, *, reverse: bool = False) -> str:
        return ("-" if self.descending != reverse else "") + self.path


@dataclass(frozen=True, slots=True)
class Position:
    """Beside which row the page begins; `reverse` reads towards the beginning of the list."""

    values: tuple[Any, ...]
    reverse: bool


@dataclass(frozen=True, slots=True)
class KeysetPage:
    """Some rows of a list; `next` and `previous` are cursors, None at the ends."""

    rows: list[Any]
    next: str | None
    previous: str | None


def read_page(queryset: Any, *, cursor: str | None, limit: int) -> KeysetPage:
    """At most `limit` rows from the cursor on, in the queryset's own order; in one statement.

    Raises ValidationError for a cursor that is not one of this list in this order.
    """
    columns = columns_of(queryset)
    position = _decoded(cursor, columns, queryset)
    rows = list(_from(queryset, columns, position)[: limit + 1])
    more, rows = len(rows) > limit, rows[:limit]
    reverse = position is not None and position.reverse
    if reverse:
        rows.reverse()
    has_next = bool(rows) and (more or reverse)
    has_previous = bool(rows) and (more if reverse else position is not None)
    return KeysetPage(
        rows=rows,
        next=_encoded(rows[-1], columns, reverse=False) if has_next else None,
        previous=_encoded(rows[0], columns, reverse=True) if has_previous else None,
    )


class KeysetPaging(BasePagination):
    """`cursor` and `limit`; the total only with `count=true`, and only up to COUNT_CAP.

    The order's columns must not be null, and the key is always the last of them.
    """

    parameters = frozenset({"limit", "cursor", "count"})

    def check(self, request: Request) -> None:
        """Refuse what cannot be, also where pages are not asked for."""
        _number(request, "limit", least=1, most=LARGEST_LIMIT, default=DEFAULT_LIMIT)
        _wants_count(request)

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        self._address = request.build_absolute_uri()
        limit = _number(request, "limit", least=1, most=LARGEST_LIMIT, default=DEFAULT_LIMIT)
        self._count = _count(queryset) if _wants_count(request) else None
        page = read_page(queryset, cursor=request.query_params.get("cursor"), limit=limit)
        self._next, self._previous = page.next, page.previous
        return page.rows

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"next": self._link(self._next), "previous": self._link(self._previous)} | self._total(data))

    def _total(self, data: Any) -> dict[str, Any]:
        if self._count is None:
            return {"count": None, "count_is_exact": None, "results": data}
        shown = min(self._count, COUNT_CAP)
        return {"count": shown, "count_is_exact": shown == self._count, "results": data}

    def _link(self, cursor: Any) -> str | None:
        return replace_query_param(remove_query_param(self._address, "count"), "cursor", cursor) if cursor else None

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": ["string", "null"], "format": "uri"}
        properties = {
            "next": link,
            "previous": link,
            "count": {"type": ["integer", "null"], "description": f"With count=true; at most {COUNT_CAP}."},
            "count_is_exact": {"type": ["boolean", "null"]},
            "results": schema,
        }
        return {"type": "object", "required": list(properties), "properties": properties}

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        words = "Taken from `next` or `previous` of an earlier answer."
        cursor = {"name": "cursor", "in": "query", "description": words, "schema": {"type": "string"}}
        count = {"name": "count", "in": "query", "schema": {"type": "boolean", "default": False}}
        return [_limit_parameter(), cursor, count]


def columns_of(queryset: Any) -> tuple[Column, ...]:
    """What the queryset is ordered by, ending in its key. Raises ImproperlyConfigured for what can be null.

    Of an annotation nothing can tell that here: who makes one to order by it sees to it.
    """
    names = [str(name) for name in queryset.query.order_by]
    if not names or names[-1].lstrip("-") != "pk":
        names.append("-pk" if names and names[0].startswith("-") else "pk")
    columns = tuple(Column(name.lstrip("-"), name.startswith("-")) for name in names)
    for column in columns:
        if column.path not in queryset.query.annotations and _field_of(queryset, column.path).null:
            raise ImproperlyConfigured(f"{queryset.model.__name__} cannot be paged by {column.path}: it may be null.")
    return columns


def _field_of(queryset: Any, path: str) -> models.Field[Any, Any]:
    if path in queryset.query.annotations:
        annotated: models.Field[Any, Any] = queryset.query.annotations[path].output_field
        return annotated
    return field_at(queryset.model, path)


def field_at(model: Any, path: str) -> models.Field[Any, Any]:
    """The column that the path leads to. Raises ImproperlyConfigured where there is none."""
    *relations, last = path.split("__")
    for name in relations:
        model = model._meta.get_field(name).related_model
    try:
        return model._meta.pk if last == "pk" else model._meta.get_field(last)
    except FieldDoesNotExist as error:
        raise ImproperlyConfigured(f"{path} is no column to page by.") from error


def _from(queryset: Any, columns: tuple[Column, ...], position: Position | None) -> Any:
    """The queryset from the position on, in the direction of reading."""
    reverse = position is not None and position.reverse
    ordered = queryset.order_by(*[column.name(reverse=reverse) for column in columns])
    if position is None:
        return ordered
    pairs = list(zip(columns, position.values, strict=True))
    # The first bound says nothing new, and lets an index be entered in the middle.
    bound = pairs[0][0].not_before(pairs[0][1], reverse=reverse)
    return ordered.filter(bound, reduce(or_, [_step(pairs, at, reverse=reverse) for at in range(len(pairs))]))


def _step(pairs: list[tuple[Column, Any]], at: int, *, reverse: bool) -> Q:
    """Equal in all columns before, beyond in this one."""
    column, value = pairs[at]
    condition = column.beyond(value, reverse=reverse)
    for earlier, same in pairs[:at]:
        condition &= Q(**{earlier.path: same})
    return condition


def _encoded(row: Any, columns: tuple[Column, ...], *, reverse: bool) -> str:
    values = [_plain(attrgetter(column.path.replace("__", "."))(row)) for column in columns]
    return dumps([[column.name() for column in columns], reverse, values], salt=_SALT)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, int | str) else str(value)


def _decoded(cursor: str | None, columns: tuple[Column, ...], queryset: Any) -> Position | None:
    if cursor is None:
        return None
    refusal = {"cursor": ["The cursor is not one of this list in this order. Begin without one."]}
    try:
        if len(cursor) > LONGEST_CURSOR:
            raise BadSignature("too long")
        names, reverse, values = loads(cursor, salt=_SALT)
        if names != [column.name() for column in columns]:
            raise BadSignature("of another order")
        pairs = zip(columns, values, strict=True)
        found = tuple(_field_of(queryset, column.path).to_python(value) for column, value in pairs)
    except (BadSignature, ValueError, TypeError, ModelValidationError) as error:
        raise ValidationError(refusal, code="bad_cursor") from error
    return Position(found, bool(reverse))


def _wants_count(request: Request) -> bool:
    wanted = request.query_params.get("count", "false")
    if wanted not in {"true", "false"}:
        raise ValidationError({"count": ["Say true or false."]}, code="invalid")
    return wanted == "true"


def _count(queryset: Any) -> int:
    """The number of rows, but never more than one above COUNT_CAP."""
    found: int = queryset.order_by()[: COUNT_CAP + 1].count()
    return found


def _number(request: Request, name: str, *, least: int, most: int, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise ValidationError({name: [f"A whole number from {least} to {most}."]}, code="out_of_range")
    return int(text)


def _limit_parameter() -> dict[str, Any]:
    return _integer_parameter("limit", f"Rows in a page; {DEFAULT_LIMIT} if not given.", least=1, most=LARGEST_LIMIT)


def _integer_parameter(name: str, words: str, *, least: int, most: int) -> dict[str, Any]:
    schema: Mapping[str, Any] = {"type": "integer", "minimum": least, "maximum": most}
    return {"name": name, "in": "query", "description": words, "schema": dict(schema)}
