"""Parsers of pages meet garbage: only EngineError comes out, and nothing large is allocated."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.errors import EngineError, FormatError
from engine.index import NO_SESSION, MapEntry
from engine.stream_pages import (
    Branch,
    ChunkRow,
    PageKind,
    draft_page,
    parse_branch_rows,
    parse_chunk_rows,
    parse_raw_page,
)
from engine.tree_entries import FileKind, TreeEntry, check_key, key_of, parse_file_rows, path_of
from tests.engine.support import noise

_SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
_PACK, _SEGMENT, _SESSION = noise(32, "pack"), noise(32, "segment"), noise(16, "session")


def _entry(number: int, session: bytes = _SESSION) -> MapEntry:
    return MapEntry(0, _PACK, session, 60 + 100 * number, 100, 84, 0, noise(12, str(number)), noise(32, f"{number}"))


def _parse(plain: bytes, kind: PageKind) -> list[Any]:
    page = parse_raw_page(plain, kind=kind, own_segment=_SEGMENT)
    if page.level:
        return list(parse_branch_rows(page))
    return list(parse_chunk_rows(page) if kind == PageKind.CHUNKS else parse_file_rows(page))


def _page(rows: list[Any], kind: PageKind, level: int = 0) -> bytes:
    return draft_page(kind=kind, level=level, rows=rows).plaintext(own_segment=_SEGMENT)


_CHUNKS = _page([ChunkRow(number, _entry(number)) for number in range(5)], PageKind.CHUNKS)
_ENTRIES = [
    TreeEntry(key=b"", kind=FileKind.DIRECTORY, mode=0o755),
    TreeEntry(key=b"dir", kind=FileKind.DIRECTORY, xattrs=((b"user.a", b"\xff"),)),
    TreeEntry(key=b"dir\0file", kind=FileKind.FILE, size=500, chunks=(ChunkRow(4, _entry(1)), ChunkRow(0, _entry(2)))),
    TreeEntry(key=b"dir\0large", kind=FileKind.FILE, size=1 << 40, chunk_map=Branch(_entry(3, NO_SESSION), 1 << 39, 9)),
    TreeEntry(key=b"link", kind=FileKind.SYMLINK, target=b"/etc", mtime_ns=-1),
    TreeEntry(key=b"null", kind=FileKind.CHARACTER_DEVICE, rdev=(1, 3)),
]
_FILES = _page(_ENTRIES, PageKind.FILES)
_BRANCHES = _page(
    [Branch(_entry(number, NO_SESSION), 1000 * number, number + 1, b"key %d" % number) for number in range(4)],
    PageKind.FILES,
    level=2,
)
_SAMPLES = {
    "chunks": (_CHUNKS, PageKind.CHUNKS),
    "files": (_FILES, PageKind.FILES),
    "branches": (_BRANCHES, PageKind.FILES),
}


def test_pages_read_as_they_were_written() -> None:
    assert _parse(_CHUNKS, PageKind.CHUNKS) == [ChunkRow(number, _entry(number)) for number in range(5)]
    assert _parse(_FILES, PageKind.FILES) == _ENTRIES
    assert [row.key for row in _parse(_BRANCHES, PageKind.FILES)] == [b"key %d" % number for number in range(4)]


def test_a_page_names_its_own_segment_without_knowing_its_hash() -> None:
    row = Branch(_entry(0, NO_SESSION)._replace(object_name=_SEGMENT), 5, 1)
    plain = _page([row], PageKind.CHUNKS, level=1)

    assert _SEGMENT not in plain
    assert _parse(plain, PageKind.CHUNKS) == [row]


@pytest.mark.parametrize("name", list(_SAMPLES))
def test_every_truncation_and_every_addition_is_refused(name: str) -> None:
    plain, kind = _SAMPLES[name]
    for length in range(len(plain)):
        with pytest.raises(EngineError):
            _parse(plain[:length], kind)
    with pytest.raises(EngineError):
        _parse(plain + b"\0", kind)


@pytest.mark.case("IN-05")
@_SETTINGS
@given(st.binary(max_size=500), st.sampled_from(list(PageKind)))
@example(struct.pack(">BBHIHH", 1, 0, 0, 1024, 65535, 65535), PageKind.CHUNKS)
@example(struct.pack(">BBHIHH", 2, 0, 0, 1024, 0, 0), PageKind.FILES)
def test_garbage_raises_engine_errors_only(plain: bytes, kind: PageKind) -> None:
    try:
        rows = _parse(plain, kind)
    except EngineError:
        return
    assert len(rows) <= 1024


@_SETTINGS
@given(st.sampled_from(list(_SAMPLES)), st.data())
def test_a_changed_page_is_refused_or_reads_as_something_bounded(name: str, data: st.DataObject) -> None:
    plain, kind = _SAMPLES[name]
    start = data.draw(st.integers(0, len(plain) - 1))
    replacement = data.draw(st.binary(min_size=1, max_size=16))
    changed = plain[:start] + replacement + plain[start + len(replacement) :]
    tracemalloc.start()
    try:
        rows = _parse(changed, kind)
    except EngineError:
        rows = []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 4 << 20
    for row in rows:
        if isinstance(row, TreeEntry):
            check_key(row.key)


def _file_page(*rows: Any) -> bytes:
    """Rows as MessagePack arrays, whatever is in them."""
    encoded = [msgspec.msgpack.encode(row) if not isinstance(row, bytes) else row for row in rows]
    body = b"".join(len(row).to_bytes(4, "big") + row for row in encoded)
    return struct.pack(">BBHIHH", 2, 0, 0, len(rows), 1, 1) + _PACK + _SESSION + body


def _row(**changes: Any) -> tuple[Any, ...]:
    fields: dict[str, Any] = {
        "shared": 0, "suffix": b"name", "kind": 1, "mode": 0, "uid": 0, "gid": 0, "user": b"", "group": b"",
        "mtime": 0, "ctime": 0, "inode": 0, "device": 0, "size": 100, "target": b"", "rdev": (0, 0), "xattrs": [],
        "marks": 0, "chunks": [], "map": None,
    }  # fmt: skip
    fields.update(changes)
    return tuple(fields.values())


_CHUNK = (0, 0, 0, 60, 100, 84, 0, bytes(12), bytes(32))


@pytest.mark.parametrize(
    "changes",
    [
        {"shared": 1},
        {"shared": -1},
        {"suffix": b".."},
        {"suffix": b"a\0..\0b"},
        {"suffix": b"a/b"},
        {"suffix": b"a\0"},
        {"suffix": b"x" * 1025},
        {"suffix": b"\0".join([b"x" * 1000] * 66)},
        {"kind": 0},
        {"kind": 9},
        {"mode": 0o10000},
        {"uid": 1 << 32},
        {"gid": -1},
        {"size": -1},
        {"size": 1 << 62},
        {"size": 10, "chunks": [_CHUNK]},
        {"chunks": [(-1, *_CHUNK[1:])]},
        {"chunks": [(0, 1, *_CHUNK[2:])]},
        {"chunks": [(0, -1, *_CHUNK[2:])]},
        {"chunks": [(0, 0, 1, *_CHUNK[3:])]},
        {"chunks": [(0, 0, 0, 1 << 26, *_CHUNK[4:])]},
        {"chunks": [(0, 0, 0, -60, *_CHUNK[4:])]},
        {"chunks": [(0, 0, 0, 60, 15, *_CHUNK[5:])]},
        {"chunks": [(0, 0, 0, 60, 100, 0, *_CHUNK[6:])]},
        {"chunks": [(*_CHUNK[:7], bytes(11), bytes(32))]},
        {"chunks": [(*_CHUNK[:7], bytes(12), bytes(31))]},
        {"chunks": [(*_CHUNK[:6], 256, bytes(12), bytes(32))]},
        {"size": 1 << 30, "chunks": [_CHUNK] * 129},
        {"size": 1 << 30, "chunks": [_CHUNK], "map": (1, 1, *_CHUNK[1:])},
        {"map": (0, 1, *_CHUNK[1:])},
        {"map": (101, 1, *_CHUNK[1:])},
        {"kind": 2, "chunks": [_CHUNK]},
        {"kind": 3},
        {"kind": 3, "target": b"a\0b"},
        {"kind": 8},
        {"kind": 8, "target": b"..\0x"},
        {"target": b"for a file"},
        {"rdev": (1 << 32, 0)},
        {"marks": -1},
        {"mtime": "text"},
        {"extra": 1},
    ],
)
def test_entries_that_no_writer_makes_are_refused(changes: dict[str, Any]) -> None:
    assert _parse(_file_page(_row()), PageKind.FILES)

    with pytest.raises(FormatError):
        _parse(_file_page(_row(**changes)), PageKind.FILES)


@pytest.mark.parametrize(("first", "second"), [(b"b", b"a"), (b"a", b"a")])
def test_entries_must_ascend(first: bytes, second: bytes) -> None:
    with pytest.raises(FormatError):
        _parse(_file_page(_row(suffix=first), _row(suffix=second)), PageKind.FILES)


def test_a_row_that_claims_millions_of_elements_allocates_nothing() -> None:
    bombs = [b"\xdd\xff\xff\xff\xff", b"\xdc\x00\x13" + b"\xdd\xff\xff\xff\xff", b"\x93" * 10_000]
    fields = msgspec.msgpack.encode(_row())
    bombs.append(fields[:-2] + b"\xdd\x7f\xff\xff\xff\xc0")
    tracemalloc.start()
    for bomb in bombs:
        with pytest.raises(EngineError):
            _parse(_file_page(bomb), PageKind.FILES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 2 << 20


@_SETTINGS
@given(st.binary(max_size=60))
def test_a_path_becomes_a_plain_key_or_is_refused(path: bytes) -> None:
    try:
        key = key_of(path)
    except FormatError:
        return
    names = key.split(b"\0") if key else []
    assert not [name for name in names if name in (b"", b".", b"..") or b"/" in name]
    assert path_of(key) == path.strip(b"/")
