"""Lists of the es grammar: all rows at once, names only unless `full`, in the order that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from backupsite.es_api.errors import PreconditionError
from backupsite.es_api.parameters import MOST_ROWS
from common.errors import InvalidInputError

Shape = Callable[[list[Any]], list[dict[str, Any]]]


def rows_of(queryset: Any, given: Mapping[str, Any], *, columns: Mapping[str, str], usual: str) -> Any:
    """The rows of the page that was asked for, or all; `columns` are those to order by, `usual` the order else.

    Raises PreconditionError for an unknown column.
    """
    ordered = queryset.order_by(*ordering(given.get("order_by") or usual, columns), "pk")
    if "page" in given:
        start = (given["page"] - 1) * given["limit"]
        return ordered[start : start + given["limit"]]
    # One more than fits, to be noticed by `listed`.
    return ordered[: given["limit"] if given["limit"] < MOST_ROWS else MOST_ROWS + 1]


def listed(rows: Any, given: Mapping[str, Any], *, name: str, shape: Shape) -> list[Any]:
    """Names, or with `full` or `extended` what `shape` makes of the rows. Raises InvalidInputError for too many."""
    as_objects = given["full"] or given["extended"]
    found = list(rows if as_objects else rows.values_list(name, flat=True))
    if len(found) > MOST_ROWS:
        raise InvalidInputError(
            f"These are more than {MOST_ROWS} rows. Ask for a virtual data center (-dc), or for pages (-page 1).",
            code="too_many_rows",
            field="page",
        )
    return shape(found) if as_objects else found


def ordering(text: str, columns: Mapping[str, str]) -> Iterable[str]:
    """What to order by; PreconditionError for an unknown column."""
    for part in text.split(","):
        # In this grammar a plus turns it round, too; in a query it arrives as a blank.
        name = part.strip().lstrip("+-")
        if name not in columns:
            known = ", ".join(columns)
            raise PreconditionError(f"Nothing is ordered by {name!r}. Choose of {known}.", field="order_by")
        yield f"-{columns[name]}" if part[:1] in {"-", "+", " "} else columns[name]
