"""Lists as CSV: streamed, the same rows as the list, and no cell that a spreadsheet takes for a formula."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from django.conf import settings
from django.http import StreamingHttpResponse
from rest_framework.renderers import BaseRenderer

MEDIA_TYPE = "text/csv"
ROWS_AT_ONCE = 200
# How formulas begin. A tab or carriage return before them is dropped by some programs.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
# Wide forms of the same signs, which some programs take for them.
_WIDE_FORMULA = ("＝", "＋", "－", "＠")


class CsvRenderer(BaseRenderer):
    """Lets `Accept: text/csv` and `format=csv` be asked for; the rows themselves are streamed by `csv_response`."""

    media_type = MEDIA_TYPE
    format = "csv"
    charset = "utf-8"

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> bytes:
        raise NotImplementedError("A list is streamed, and an error is a problem in JSON.")


def csv_response(queryset: Any, serializer: Any, *, name: str) -> StreamingHttpResponse:
    """The queryset as `<name>.csv`, at most API_EXPORT_ROWS rows; a last line that begins with # says if it was cut."""
    limit: int = settings.API_EXPORT_ROWS
    lines = _lines(queryset, serializer, limit=limit)
    response = StreamingHttpResponse(lines, content_type=f"{MEDIA_TYPE}; charset=utf-8; header=present")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    response.headers["Row-Limit"] = str(limit)
    return response


def safe_cell(value: Any) -> Any:
    """The value as a cell that is shown and never run: text that begins like a formula gets an apostrophe before it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = text.replace("\0", "")
    begins = text.lstrip(" \u00a0\ufeff")
    return f"'{text}" if text.startswith(_FORMULA) or begins.startswith((*_FORMULA, *_WIDE_FORMULA)) else text


def _lines(queryset: Any, serializer: Any, *, limit: int) -> Iterator[bytes]:
    names = list(serializer.fields)
    yield _written([names])
    for rows, is_cut in _batches(queryset, limit=limit):
        shown = [serializer.to_representation(row) for row in rows]
        yield _written([[safe_cell(row[name]) for name in names] for row in shown])
        if is_cut:
            yield f"# Only the first {limit} rows. Narrow the filters for the others.\r\n".encode()


def _batches(queryset: Any, *, limit: int) -> Iterator[tuple[list[Any], bool]]:
    """Rows in small lots, and with the last lot whether there were more than the limit.

    First the keys of all, by the index that the list walks, then the rows of each lot by theirs: asked for thousands of
    rows with all that belongs to them, a database reads whole tables before the first row.
    """
    keys = list(queryset.values_list("pk", flat=True)[: limit + 1])
    is_cut, kept = len(keys) > limit, keys[:limit]
    for first in range(0, len(kept), ROWS_AT_ONCE):
        lot = kept[first : first + ROWS_AT_ONCE]
        found = {row.pk: row for row in queryset.filter(pk__in=lot).order_by()}
        # What was removed meanwhile is left out.
        yield [found[key] for key in lot if key in found], is_cut and first + ROWS_AT_ONCE >= limit


def _written(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", errors="replace")
