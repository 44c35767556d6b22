"""Parsers meet garbage: only EngineError comes out, and nothing large is allocated."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.codec import pack_header
from engine.compression import Compressor, decompress
from engine.envelope import parse_envelope
from engine.errors import EngineError, FormatError, IntegrityError
from engine.index import parse_page
from engine.manifest import build_manifest, parse_manifest
from engine.pack import HEADER_SIZE, TRAILER_SIZE, parse_container
from engine.sealing import RecordType, map_sealer
from engine.store.base import ObjectKind, manifest_key, object_key
from tests.engine.support import DOMAIN, TENANT, Vault, noise

_SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
_MAP_KEY = noise(32, "map")


def _table_sealer():
    return map_sealer(RecordType.TABLE, tenant=TENANT, domain=DOMAIN, map_key=_MAP_KEY)


def _samples() -> dict[str, bytes]:
    vault = Vault()
    result = vault.write(noise(4000))
    refs = [*result.new_objects, result.manifest]
    return {ref.key.split("/")[4]: vault.store.get(ref) for ref in refs}


_SAMPLES = _samples()


def _parse(kind: str, data: bytes) -> Any:
    if kind in "pi":
        return parse_container(data, kind=ObjectKind(kind), table_sealer=_table_sealer())
    if kind == "k":
        return parse_envelope(data)
    return parse_manifest(data, trusted_writers=[Vault().writer_key.public], map_key=_MAP_KEY)


@pytest.mark.parametrize("kind", "pikm")
def test_whole_objects_parse(kind: str) -> None:
    assert _parse(kind, _SAMPLES[kind]) is not None


@pytest.mark.case("IN-05")
@pytest.mark.parametrize("kind", "pikm")
def test_every_truncation_is_refused(kind: str) -> None:
    for length in range(0, len(_SAMPLES[kind]), 7):
        with pytest.raises(EngineError):
            _parse(kind, _SAMPLES[kind][:length])


@pytest.mark.parametrize("kind", "pikm")
def test_bytes_after_the_end_are_refused(kind: str) -> None:
    with pytest.raises(EngineError):
        _parse(kind, _SAMPLES[kind] + b"\0")


@pytest.mark.case("IN-05")
@_SETTINGS
@given(st.sampled_from("pikm"), st.binary(max_size=400), st.booleans())
def test_garbage_is_refused(kind: str, garbage: bytes, with_header: bool) -> None:
    data = (pack_header(kind) if with_header else b"") + garbage

    with pytest.raises(EngineError):
        _parse(kind, data)


@_SETTINGS
@given(st.sampled_from("pikm"), st.data())
def test_a_spliced_object_is_refused(kind: str, data: st.DataObject) -> None:
    sample = _SAMPLES[kind]
    start = data.draw(st.integers(0, len(sample) - 1))
    replacement = data.draw(st.binary(min_size=1, max_size=64))
    spliced = sample[:start] + replacement + sample[start + len(replacement) :]
    if spliced == sample or (kind in "pi" and 8 < start < len(sample) - TRAILER_SIZE):
        return  # records, session id and commitment of a container are vouched for elsewhere
    if kind == "k" and start > 8:
        return  # the clear part of an envelope is checked when it is unwrapped

    with pytest.raises(EngineError):
        _parse(kind, spliced)


@_SETTINGS
@given(st.binary(max_size=600), st.integers(0, 3), st.integers(0, 1 << 40))
@example(struct.pack(">BBQHHH", 0, 0, 0, 65535, 65535, 65535), 0, 0)
def test_garbage_pages_are_refused_or_empty(plain: bytes, level: int, index: int) -> None:
    try:
        entries = parse_page(plain, level=level, index=index, fan_out=1024, own_segment=bytes(32))
    except FormatError:
        return
    assert len(entries) <= 10


def _page(*rows: bytes, objects: int = 1, sessions: int = 1, count: int | None = None) -> bytes:
    head = struct.pack(">BBQHHH", 0, 0, 0, len(rows) if count is None else count, objects, sessions)
    return head + bytes(32 * objects + 16 * sessions) + b"".join(rows)


def _row(slot: int = 0, obj: int = 0, session: int = 0, offset: int = 60, stored: int = 99, plain: int = 64) -> bytes:
    return struct.pack(">HHHIIIB12s32s", slot, obj, session, offset, stored, plain, 0, bytes(12), bytes(32))


@pytest.mark.parametrize(
    "page",
    [
        _page(_row(slot=4)),
        _page(_row(slot=1), _row(slot=1)),
        _page(_row(slot=2), _row(slot=1)),
        _page(_row(obj=1)),
        _page(_row(session=1)),
        _page(_row(offset=0xFFFFFFFF)),
        _page(_row(stored=0xFFFFFFFF)),
        _page(_row(stored=15)),
        _page(_row(plain=0)),
        _page(_row(plain=0xFFFFFFFF)),
        _page(_row(), count=2),
        _page(_row()) + b"\0",
        _page(_row(), objects=5),
    ],
)
def test_a_page_with_one_wrong_field_is_refused(page: bytes) -> None:
    assert parse_page(_page(_row()), level=0, index=0, fan_out=4, own_segment=bytes(32))

    with pytest.raises(FormatError):
        parse_page(page, level=0, index=0, fan_out=4, own_segment=bytes(32))


@pytest.mark.parametrize(("level", "index"), [(1, 0), (0, 1)])
def test_a_page_in_another_place_is_refused(level: int, index: int) -> None:
    with pytest.raises(FormatError):
        parse_page(_page(_row()), level=level, index=index, fan_out=4, own_segment=bytes(32))


def _container(rows: list[tuple[int, int, int]], *, body: int = 200, counted: int | None = None) -> bytes:
    """A container whose table (made with the right key) claims (offset, stored, plain) rows."""
    sealer = _table_sealer()
    packed = [struct.pack(">HIIIB12s32s", 0, o, s, p, 0, bytes(12), bytes(32)) for o, s, p in rows]
    plain = struct.pack(">HI", 1, len(rows)) + bytes(16) + b"".join(packed)
    table = sealer.seal(plain, content_id=sealer.content_id(plain), salt=bytes(16), compressor=Compressor(None))
    trailer = struct.pack(
        ">IIIB12s32sI4s",
        HEADER_SIZE + body,
        len(table.payload),
        len(plain),
        table.compression,
        table.nonce,
        table.content_id,
        len(rows) if counted is None else counted,
        b"BKSE",
    )
    return pack_header("p") + struct.pack(">I16s32s", 0, bytes(16), bytes(32)) + bytes(body) + table.payload + trailer


def test_a_container_with_a_sound_table_parses() -> None:
    data = _container([(HEADER_SIZE, 100, 50), (HEADER_SIZE + 100, 100, 50)])

    assert len(_parse("p", data).records) == 2


@pytest.mark.parametrize(
    "data",
    [
        _container([]),
        _container([(HEADER_SIZE, 100, 50)]),
        _container([(HEADER_SIZE + 1, 199, 50)]),
        _container([(HEADER_SIZE, 150, 50), (HEADER_SIZE + 100, 100, 50)]),
        _container([(HEADER_SIZE, 90, 50), (HEADER_SIZE + 100, 100, 50)]),
        _container([(HEADER_SIZE, 200, 0xFFFFFFFF)]),
        _container([(HEADER_SIZE, 0xFFFFFFFF, 50)]),
        _container([(0, 200, 50)]),
        _container([(HEADER_SIZE, 200, 50)], counted=0xFFFFFFFF),
    ],
)
def test_a_container_whose_table_lies_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        _parse("p", data)


def test_a_bomb_is_not_unpacked() -> None:
    _, bomb = Compressor(19).compress(bytes(100_000_000))
    tracemalloc.start()

    with pytest.raises(IntegrityError):
        decompress(bytes(bomb), compression=1, plain_length=65536)

    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("plain_length", [0, 999, 1001, 1 << 24])
def test_another_length_than_promised_is_refused(plain_length: int) -> None:
    _, packed = Compressor(1).compress(bytes(1000))

    with pytest.raises(IntegrityError):
        decompress(bytes(packed), compression=1, plain_length=plain_length)


def test_two_frames_are_refused() -> None:
    _, packed = Compressor(1).compress(bytes(1000))

    with pytest.raises(IntegrityError):
        decompress(bytes(packed) * 2, compression=1, plain_length=1000)


@_SETTINGS
@given(st.binary(max_size=300), st.integers(0, 5), st.integers(0, 1 << 24))
def test_garbage_does_not_decompress(data: bytes, compression: int, plain_length: int) -> None:
    try:
        plain = decompress(data, compression=compression, plain_length=plain_length)
    except IntegrityError:
        return
    assert len(plain) == plain_length


@pytest.mark.parametrize(
    "changes",
    [
        {"block_size": 0},
        {"block_size": 1000},
        {"block_size": 1 << 40},
        {"fan_out": 1},
        {"fan_out": 1 << 20},
        {"size_bytes": -1},
        {"size_bytes": 1 << 63},
        {"tenant": "../up"},
        {"tenant": ""},
        {"source_id": "a/b"},
        {"content": "other"},
        {"format_version": 2},
    ],
)
def test_a_signed_manifest_with_a_wrong_field_is_refused(changes: dict[str, Any]) -> None:
    import msgspec

    vault = Vault()
    body = vault.open(vault.write(b"").manifest).body
    good_names = msgspec.structs.replace(body, **changes)
    try:
        data = build_manifest(
            good_names,
            root=None,
            source_facts={},
            map_key=_MAP_KEY,
            writer_key=vault.writer_key,
            salt=bytes(16),
            compressor=Compressor(None),
        )
    except FormatError:
        return  # refused while writing already

    with pytest.raises(EngineError):
        parse_manifest(data, trusted_writers=[vault.writer_key.public], map_key=_MAP_KEY)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "ä", "a" * 65, "a\n", "a b"])
def test_names_that_could_leave_their_prefix_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        object_key(tenant=name, domain="d", kind=ObjectKind.PACK, sha256="0" * 64)
    with pytest.raises(FormatError):
        manifest_key(tenant="t", domain="d", source_id=name, sequence=1, sha256="0" * 64)


def test_keys_have_the_documented_form() -> None:
    digest = "ab" * 32

    assert object_key(tenant="t1", domain="d1", kind=ObjectKind.PACK, sha256=digest) == f"t/t1/d/d1/p/{digest}"
    assert (
        manifest_key(tenant="t1", domain="d1", source_id="s1", sequence=42, sha256=digest)
        == f"t/t1/d/d1/m/s1/00000000000000000042-{digest}"
    )
