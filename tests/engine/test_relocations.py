"""Relocation objects: strict to parse, and a restore follows them to the same bytes or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.codec import pack_header
from engine.compression import Compressor
from engine.errors import EngineError, FormatError, IntegrityError, UnsupportedError
from engine.hashing import sha256_hex
from engine.index import MapEntry, PendingObject
from engine.manifest import ObjectEntry, SessionEntry
from engine.relocations import ROWS_MAX, TABLE_MAX, Relocations, RelocationWriter, moved_places, parse_relocations
from engine.sealing import RecordType, map_sealer
from engine.store.base import ObjectKind, object_key
from tests.engine.support import DOMAIN, TENANT, noise, seeded_bytes

_MAP_KEY = noise(32, "map")


def _writer(**changes: Any) -> RelocationWriter:
    options: dict[str, Any] = {
        "tenant": TENANT,
        "domain": DOMAIN,
        "map_key": _MAP_KEY,
        "random_bytes": seeded_bytes("relocation"),
        "compressor": Compressor(1),
    }
    return RelocationWriter(**{**options, **changes})


def _parse(data: bytes, **changes: Any) -> Relocations:
    return parse_relocations(data, **{"tenant": TENANT, "domain": DOMAIN, "map_key": _MAP_KEY, **changes})


def _name(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _session(number: int) -> SessionEntry:
    envelope = ObjectEntry(_name(900 + number), 400, f"env-{number}", 1)
    return SessionEntry(number.to_bytes(16, "big"), noise(32, str(number)), envelope, 0)


def _entry(pack: Any, offset: int, *, session: int = 1, content: int = 0, length: int = 100) -> MapEntry:
    name = pack if not isinstance(pack, int) else _name(pack)
    return MapEntry(0, name, session.to_bytes(16, "big"), offset, length, 80, 0, noise(12, "n"), _name(content))


def _pack(number: int, uses: int = 0) -> ObjectEntry:
    return ObjectEntry(_name(number), 1 << 20, f"version-{number}", uses)


# --- the object -------------------------------------------------------------------------------------------

_PLACES = st.tuples(st.integers(1, 6), st.integers(60, 9000))


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(_PLACES, st.tuples(st.integers(10, 14), st.integers(60, 9000), st.integers(1, 3)), min_size=1))
def test_what_was_written_is_found_again(moves: dict[tuple[int, int], tuple[int, int, int]]) -> None:
    writer = _writer()
    for content, ((old, old_offset), (new, offset, session)) in enumerate(moves.items()):
        writer.add(_entry(old, old_offset, content=content), _entry(new, offset, session=session, content=content))

    found = _parse(writer.finish({_name(n): _pack(n) for n in range(20)}, [_session(n) for n in range(5)]))

    assert len(found) == len(moves)
    for content, ((old, old_offset), (new, offset, session)) in enumerate(moves.items()):
        place = found.find(_name(old), old_offset)
        assert place is not None
        assert place.entry == _entry(new, offset, session=session, content=content)
        assert (place.pack_entry.sha256, place.pack_entry.version_id) == (_name(new), f"version-{new}")
    assert found.find(_name(7), 60) is None
    assert found.find(_name(1), 9001) is None
    assert [(old, offset) for old, offset, _ in found.rows()] == sorted((_name(old), at) for old, at in moves)
    assert sum(pack.use_count for pack in found.packs) == sum(s.use_count for s in found.sessions) == len(moves)
    assert {pack.sha256 for pack in found.packs} == {_name(new) for new, _, _ in moves.values()}
    assert {session.session_id[-1] for session in found.sessions} == {session for _, _, session in moves.values()}


def test_the_new_pack_may_be_open_until_the_end() -> None:
    pending = PendingObject()
    writer = _writer()
    writer.add(_entry(1, 60), _entry(pending, 60))
    pending.sha256 = _name(10)

    found = _parse(writer.finish({_name(10): _pack(10)}, [_session(1)]))

    assert [place.pack for _, _, place in found.rows()] == [_name(10)]


def test_a_block_that_several_maps_name_has_one_row() -> None:
    writer = _writer()
    writer.add(_entry(1, 60), _entry(10, 60))
    writer.add(_entry(1, 60), _entry(10, 500))

    found = _parse(writer.finish({_name(10): _pack(10)}, [_session(1)]))

    assert [(at, place.entry.offset) for _, at, place in found.rows()] == [(60, 60)]


def test_a_move_to_another_content_is_refused() -> None:
    with pytest.raises(FormatError):
        _writer().add(_entry(1, 60, content=1), _entry(10, 60, content=2))


@pytest.mark.parametrize(("packs", "sessions"), [([], [1]), ([10], [])])
def test_a_row_needs_its_pack_and_its_session(packs: list[int], sessions: list[int]) -> None:
    writer = _writer()
    writer.add(_entry(1, 60), _entry(10, 60))

    with pytest.raises(FormatError):
        writer.finish({_name(n): _pack(n) for n in packs}, [_session(n) for n in sessions])


def test_one_object_takes_no_more_rows_than_a_reader_does() -> None:
    writer = _writer()
    for number in range(ROWS_MAX):
        assert not writer.is_full
        old, new = _entry(_name(number % 400), 60 + 200 * number // 400), _entry(10, 60)
        writer.add(old._replace(offset=60 + number), new)
    assert writer.is_full

    with pytest.raises(FormatError) as caught:
        writer.add(_entry(1, 9_000_000), _entry(10, 60))
    assert caught.value.code == "relocation_full"

    data = writer.finish({_name(10): _pack(10)}, [_session(1)])
    assert len(_parse(data)) == ROWS_MAX
    assert len(data) < 16 << 20


def test_the_largest_object_can_be_opened() -> None:
    """As many packs, sessions and long version ids as fit."""
    writer = _writer()
    packs = {_name(5000 + n): ObjectEntry(_name(5000 + n), 1 << 20, "v" * 1000, 0) for n in range(TABLE_MAX)}
    sessions = [msgspec.structs.replace(_session(n), envelope=_pack(n)) for n in range(1, TABLE_MAX + 1)]
    sessions = [
        msgspec.structs.replace(s, envelope=msgspec.structs.replace(s.envelope, version_id="v" * 1000))
        for s in sessions
    ]
    for number in range(TABLE_MAX):
        assert not writer.is_full
        writer.add(_entry(number, 60), _entry(5000 + number, 60, session=number + 1))

    assert writer.is_full
    data = writer.finish(packs, sessions)
    assert len(data) + ROWS_MAX * 71 < 16 << 20
    assert len(_parse(data)) == TABLE_MAX


@pytest.mark.parametrize("changes", [{"tenant": "other"}, {"domain": "other"}, {"map_key": noise(32, "other")}])
def test_it_opens_only_in_its_domain(changes: dict[str, Any]) -> None:
    writer = _writer()
    writer.add(_entry(1, 60), _entry(10, 60))
    data = writer.finish({_name(10): _pack(10)}, [_session(1)])

    with pytest.raises(IntegrityError):
        _parse(data, **changes)


def _sealed(body: Any) -> bytes:
    """A relocation object made with the right key around any body."""
    sealer = map_sealer(RecordType.RELOCATION, tenant=TENANT, domain=DOMAIN, map_key=_MAP_KEY)
    plain = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    record = sealer.seal(plain, content_id=sealer.content_id(plain), salt=bytes(16), compressor=Compressor(None))
    head = (0).to_bytes(4, "big") + len(plain).to_bytes(4, "big") + bytes([record.compression])
    return pack_header("r") + head + record.nonce + record.content_id + record.payload


def _row(old: int = 0, at: int = 60, new: int = 0, offset: int = 60, session: int = 0, length: int = 100) -> bytes:
    numbers = b"".join(value.to_bytes(4, "big") for value in (old, at, new, offset))
    lengths = length.to_bytes(4, "big") + (80).to_bytes(4, "big")
    return numbers + session.to_bytes(2, "big") + lengths + bytes(1 + 12 + 32)


def _body(*rows: bytes, **changes: Any) -> dict[str, Any]:
    session = [bytes(16), bytes(32), [_name(9), 400, None, 1], len(rows)]
    body = {"old_packs": [_name(1)], "packs": [[_name(2), 5000, "v", len(rows)]], "sessions": [session]}
    return {**body, "rows": b"".join(rows), **changes}


def test_a_body_made_by_hand_parses() -> None:
    assert len(_parse(_sealed(_body(_row(at=60), _row(at=61))))) == 2


@pytest.mark.parametrize(
    "body",
    [
        _body(),
        _body(_row() + b"x"),
        _body(_row(old=1)),
        _body(_row(new=1)),
        _body(_row(session=1)),
        _body(_row(at=61), _row(at=60)),
        _body(_row(), _row()),
        _body(_row(offset=4950)),
        _body(_row(length=15)),
        _body(_row(length=0xFFFFFFFF)),
        _body(_row(at=0xFFFFFFFF)),
        _body(_row(), packs=[[_name(2), 5000, "v", 2]]),
        _body(_row(), packs=[[_name(2), 5000, "v", 1], [_name(3), 5000, "v", 0]]),
        _body(_row(), packs=[[_name(2), 5000, "v", 1], [_name(2), 5000, "v", 0]]),
        _body(_row(), packs=[[b"short", 5000, "v", 1]]),
        _body(_row(), packs=[[_name(2), 1 << 40, "v", 1]]),
        _body(_row(), old_packs=[_name(1), _name(1)]),
        _body(_row(), old_packs=[_name(2), _name(1)]),
        _body(_row(), old_packs=[b"short"]),
        _body(_row(), old_packs=[_name(number) for number in range(TABLE_MAX + 1)]),
        _body(_row(), sessions=[[b"short", bytes(32), [_name(9), 400, None, 1], 1]]),
        _body(_row(), sessions=[[bytes(16), b"short", [_name(9), 400, None, 1], 1]]),
        _body(_row(), sessions=[[bytes(16), bytes(32), [b"short", 400, None, 1], 1]]),
        _body(_row(), unknown=1),
        b"",
        b"\x81",
        [1, 2],
    ],
)
def test_a_body_with_one_wrong_field_is_refused(body: Any) -> None:
    with pytest.raises(FormatError):
        _parse(_sealed(body))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data[:7] + b"\2" + data[8:], UnsupportedError),
        (lambda data: data[:6] + b"p" + data[7:], FormatError),
        (lambda data: data[:8] + b"\0\0\0\1" + data[12:], FormatError),
        (lambda data: data[:30], FormatError),
        (lambda data: data + b"\0", IntegrityError),
    ],
)
def test_a_wrong_head_is_refused(change: Callable[[bytes], bytes], error: type[EngineError]) -> None:
    data = _sealed(_body(_row()))
    assert _parse(data)

    with pytest.raises(error):
        _parse(change(data))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_garbage_is_refused(garbage: bytes, with_header: bool, is_sealed: bool) -> None:
    data = _sealed(garbage) if is_sealed else (pack_header("r") if with_header else b"") + garbage

    with pytest.raises(EngineError):
        _parse(data)


def test_its_key_has_the_documented_form() -> None:
    assert object_key(tenant="t1", domain="d1", kind=ObjectKind.RELOCATION, sha256="ab" * 32) == "t/t1/d/d1/r/" + (
        "ab" * 32
    )


def test_the_bytes_are_pinned() -> None:
    """Uncompressed, so that no zstd version matters. Another hash here is another format."""
    writer = _writer(compressor=Compressor(None))
    for number in range(5):
        writer.add(_entry(number % 2, 60 + number, content=number), _entry(10 + number % 3, 60, content=number))

    data = writer.finish({_name(n): _pack(n) for n in range(20)}, [_session(1)])

    assert sha256_hex(data) == "f4046f58b3f8681d3a3eec34833e9a2a7ed8e3ecc9c4bf3ccbf3bb6d2c0883d5"


# --- following them ---------------------------------------------------------------------------------------


def _chain(*steps: tuple[int, int]) -> list[Relocations]:
    found = []
    for old, new in steps:
        writer = _writer()
        writer.add(_entry(old, 60), _entry(new, 60))
        found.append(_parse(writer.finish({_name(new): _pack(new)}, [_session(1)])))
    return found


def test_places_are_followed_from_pack_to_pack_in_any_order_of_the_objects() -> None:
    relocations = _chain((3, 4), (1, 2), (2, 3))

    assert [place.pack for place in moved_places(relocations, _entry(1, 60))] == [_name(2), _name(3), _name(4)]


def test_a_circle_ends() -> None:
    relocations = _chain((1, 2), (2, 1), (2, 2))

    assert [place.pack for place in moved_places(relocations, _entry(1, 60))] == [_name(2)]


def test_an_endless_chain_is_given_up() -> None:
    relocations = _chain(*((number, number + 1) for number in range(40)))

    assert len(list(moved_places(relocations, _entry(0, 60)))) == 16


def test_a_place_of_another_content_is_not_followed() -> None:
    writer = _writer()
    writer.add(_entry(1, 60, content=5), _entry(2, 60, content=5))
    relocations = [_parse(writer.finish({_name(2): _pack(2)}, [_session(1)]))]

    assert not list(moved_places(relocations, _entry(1, 60, content=6)))
    assert len(list(moved_places(relocations, _entry(1, 60, content=5)))) == 1
