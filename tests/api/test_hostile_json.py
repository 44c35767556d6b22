"""Bodies that are meant to hurt: refused with 400, soon, and never with a fault of ours."""

from __future__ import annotations

import contextlib
import io
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.exceptions import ParseError

from common.errors import InvalidInputError
from tenants.api.parsing import GREATEST_INTEGER, LARGEST_BODY, LEAST_INTEGER, StrictJsonParser, parse_json
from tests.worlds import World

DEEP = 10_000
BOMBS = {
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "open lists": b"[" * 500_000,
    "nan": b'{"title": NaN}',
    "infinity": b'{"title": Infinity}',
    "minus infinity": b'{"title": -Infinity}',
    "huge float": b'{"title": 1e999}',
    "2^64": b'{"title": 18446744073709551616}',
    "2^63": b'{"title": 9223372036854775808}',
    "5000 digits": b'{"title": ' + b"9" * 5000 + b"}",
    "a name twice": b'{"title": "a", "title": "b"}',
    "a name twice by escape": b'{"title": "a", "t\\u0069tle": "b"}',
    "nul": b'{"title": "a\\u0000b"}',
    "nul in a name": b'{"\\u0000": 1}',
    "raw nul": b'{"title": "a\x00b"}',
    "lone surrogate": b'{"title": "\\ud800"}',
    "lone low surrogate": b'{"title": "\\udc00x"}',
    "surrogate in utf-8": b'{"title": "\xed\xa0\x80"}',
    "bad utf-8": b'{"title": "\xff"}',
    "utf-16": '{"title": "a"}'.encode("utf-16"),
    "bom": b'\xef\xbb\xbf{"title": "a"}',
    "empty": b"",
    "white": b"   ",
    "two values": b"{} {}",
    "comment": b'{"title": "a"} // no',
    "single quotes": b"{'title': 'a'}",
    "10 MB": b'{"title": "' + b"x" * 10_000_000 + b'"}',
}


@pytest.mark.case("IN-06")
@pytest.mark.parametrize("name", sorted(BOMBS))
def test_it_is_refused_and_soon(world: World, name: str) -> None:
    client = world.client("super")
    client.post("/api/v1/tenants/", data="{", content_type="application/json")
    spent: dict[bytes, list[float]] = {b"{": [], BOMBS[name]: []}
    for body, seconds in [*spent.items()] * 3:
        before = time.process_time()
        answer = client.generic("POST", "/api/v1/tenants/", body, content_type="application/json")
        seconds.append(time.process_time() - before)

        assert answer.status_code == 400, answer.content
        assert answer["Content-Type"] == "application/problem+json"

    # Time of the processor, the best of three, beside what any refusal takes here: the machine may be slow.
    harmless, bomb = (min(seconds) for seconds in spent.values())
    assert bomb <= max(0.05, 4 * harmless)


def test_a_length_that_is_no_number_or_a_lie(world: World) -> None:
    client = world.client("super")

    for length in ("-1", "1e3", "99999999999999999999"):
        answer = client.generic(
            "POST", "/api/v1/tenants/", b"{}", content_type="application/json", CONTENT_LENGTH=length
        )
        assert answer.status_code == 400, length


@pytest.mark.case("IN-06")
def test_what_is_too_large_is_not_read(world: World) -> None:
    class Endless(io.RawIOBase):
        META = {"CONTENT_LENGTH": "0"}
        taken = 0

        def read(self, size: int = -1) -> bytes:
            assert 0 <= size <= LARGEST_BODY + 1
            self.taken += size
            return b"[" * size

    with pytest.raises(InvalidInputError) as caught:
        StrictJsonParser().parse(Endless())

    assert caught.value.code == "body_too_large"


def test_emoji_and_escapes_are_text_like_any_other(world: World) -> None:
    answer = world.client("super").generic(
        "POST", "/api/v1/tenants/", b'{"title": "\\ud83d\\ude00 \\\\u0000 \xc3\xbc"}', content_type="application/json"
    )

    assert answer.status_code == 201
    assert answer.json()["title"] == "\U0001f600 \\u0000 ü"


_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(LEAST_INTEGER, GREATEST_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
)
_VALUES: Any = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner)
    ),
)


@given(_VALUES, st.booleans())
def test_whatever_is_sound_is_read_as_it_is(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=200))
def test_whatever_is_not_is_refused_and_nothing_else(raw: bytes) -> None:
    with contextlib.suppress(ParseError):
        parse_json(raw)


@pytest.mark.parametrize(
    "query",
    ["search=%00", "cursor=%00", "status=%00", "server=%00", "search=%ED%A0%80", "%00=1", "limit=%00", "ordering=%00"],
)
def test_query_strings(world: World, query: str) -> None:
    assert world.client("super").get(f"/api/v1/backups/?{query}").status_code in {200, 400}
