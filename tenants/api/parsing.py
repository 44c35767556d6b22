"""Bodies as JSON, read strictly: what two programs could read differently is refused, and nothing costs much."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from common.errors import InvalidInputError

LARGEST_BODY = 1024 * 1024
LEAST_INTEGER, GREATEST_INTEGER = -(2**63), 2**63 - 1
_LONGEST_INTEGER = 20
# Only these escapes can make a NUL or half of a surrogate pair; then each text is looked at.
_SUSPICIOUS = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")


class StrictJsonParser(JSONParser):
    """UTF-8 of at most LARGEST_BODY bytes, no name twice, numbers finite and within 64 bits, no NUL, no lone surrogate.

    Raises ParseError, and InvalidInputError for a body that is too large, before it is read.
    """

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        return parse_json(_read(stream))


def parse_json(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_refuse_constant,
        )
        if _SUSPICIOUS.search(text):
            _check_texts(value)
    except RecursionError as error:
        raise ParseError("The body is nested too deeply.") from error
    except ValueError as error:
        raise ParseError(f"The body is not JSON as it is read here: {_reason(error)}.") from error
    return value


def _read(stream: Any) -> bytes:
    declared = str(getattr(stream, "META", {}).get("CONTENT_LENGTH") or "0")
    if not declared.isdigit() or int(declared) > LARGEST_BODY:
        raise _too_large()
    # A body that was kept for its hash is not read from the connection again.
    raw: bytes = stream.read(LARGEST_BODY + 1)
    if len(raw) > LARGEST_BODY:
        raise _too_large()
    return raw


def _too_large() -> InvalidInputError:
    return InvalidInputError(f"The body may have {LARGEST_BODY} bytes.", code="body_too_large")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _integer(text: str) -> int:
    if len(text) <= _LONGEST_INTEGER and LEAST_INTEGER <= int(text) <= GREATEST_INTEGER:
        return int(text)
    raise ValueError("a number is beyond 64 bits")


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is too large")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _check_texts(value: Any) -> None:
    for text in _texts(value):
        if "\0" in text:
            raise ValueError("a text holds a NUL")
        # Raises UnicodeEncodeError, which is a ValueError.
        text.encode("utf-8")


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting.extend(one.keys())
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return "a text is no Unicode" if isinstance(error, UnicodeError) else str(error)
