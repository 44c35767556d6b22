"""Answers on the screen: as JSON, a table, CSV. What the service tells cannot steer a terminal or a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from backupsite.es_command.client import Answer
from backupsite.es_command.errors import FormatError

# As in the service's own CSV: how formulas begin, also in wide signs, and behind blanks that some programs drop.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
_WIDE_FORMULAS = ("＝", "＋", "－", "＠")
_DROPPED = " \u00a0\ufeff"
_SECRET_HEADERS = frozenset({"set-cookie"})


def check_format(output: str) -> None:
    """Raises FormatError for a style that there is none of, before anything is asked."""
    if output in {"json", "csv"}:
        return
    from tabulate import tabulate_formats  # type: ignore[import-untyped]  # it comes without types

    if output not in tabulate_formats:
        raise FormatError(f"--tabulate-{output} is no style. There are: {', '.join(tabulate_formats)}.")


def shown(answer: Answer, output: str, *, csv_delimiter: str, debug: bool = False) -> str:
    """The text for standard output, without the end of its last line."""
    if answer.method == "OPTIONS" and isinstance(answer.text, dict) and "description" in answer.text:
        return plain(str(answer.text["description"]))
    if output == "json":
        return json.dumps(_envelope(answer, debug=debug), indent=4)
    headers, rows = table_of(answer)
    headers = [plain(name) for name in headers]
    if output == "csv":
        return _csv(headers, rows, csv_delimiter)
    from tabulate import tabulate

    cells = [[plain(_cell(value)) for value in row] for row in rows]
    # As they are written: a server may be called 1e3.
    return str(tabulate(cells, headers=headers, tablefmt=output, disable_numparse=True))


def table_of(answer: Answer) -> tuple[list[str], list[list[Any]]]:
    """Headers, and rows: of a list one each, of an object one for each of its members."""
    found = answer.text
    if isinstance(found, dict) and 200 <= answer.status < 300:
        result = found.get("result", found.get("results"))
        # Without one, as of a task that is not waited for, its id is what there is to know.
        found = found if result is None else result
    if isinstance(found, dict):
        return [], [[name, value] for name, value in found.items()]
    if not isinstance(found, list):
        return [], [[found]]
    if not any(isinstance(row, dict) for row in found):
        return [], [row if isinstance(row, list) else [row] for row in found]
    headers = list(dict.fromkeys(name for row in found if isinstance(row, dict) for name in row))
    return headers, [[row.get(name) for name in headers] for row in found if isinstance(row, dict)]


def _envelope(answer: Answer, *, debug: bool) -> dict[str, Any]:
    shown = {"method": answer.method, "url": answer.url, "status": answer.status, "text": answer.text}
    if debug:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _SECRET_HEADERS}
        shown["headers"] = kept
    return shown


def _csv(headers: list[str], rows: Iterable[list[Any]], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    if headers:
        writer.writerow(headers)
    writer.writerows([_no_formula(value) for value in row] for row in rows)
    return text.getvalue().rstrip("\n")


def _no_formula(value: Any) -> Any:
    """A text that a spreadsheet would work out gets an apostrophe before it; numbers stay numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = _cell(value)
    runs = text.startswith(_FORMULAS) or text.lstrip(_DROPPED).startswith((*_FORMULAS, *_WIDE_FORMULAS))
    return plain(f"'{text}" if runs else text)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}: {_cell(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ",".join(_cell(inner) for inner in value)
    return "" if value is None else str(value)


def plain(text: str) -> str:
    """For a terminal: without signs that are not seen, but for line ends and tabs."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else ascii(sign)[1:-1] for sign in text)
