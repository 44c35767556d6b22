"""Pages of chunk streams and file trees: nodes of a tree whose borders follow from the content (a prolly tree).

A page ends after an entry whose boundary hash says so, hence the entries behind an insertion fall into the same
pages as before and those pages are kept as they are. A leaf (level 0) of a chunk stream says for each chunk how
many zero bytes come before it and where it lies; a leaf of a file tree has one entry per name; a branch (level 1
and up) says for each child where it lies and how many bytes and leaf entries are below it, so that any offset is
found by one page per level. Objects and sessions are named in tables inside the page: an untouched page is valid,
byte for byte, in every later manifest. All pages are sealed under the map key as records of type `tree`.

Byte tables are in docs/format.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeAlias

from engine.codec import CONTENT_ID_SIZE, NONCE_SIZE, SESSION_ID_SIZE, SHA256_SIZE, ByteReader
from engine.errors import FormatError
from engine.hashing import derive_key, keyed_hash
from engine.index import LEVEL_MAX, NO_SESSION, MapEntry, ObjectName, check_location, resolve

# kind, level, flags, rows, objects, sessions
_HEAD = struct.Struct(">BBHIHH")
_CHUNK = struct.Struct(f">QHHIIIB{NONCE_SIZE}s{CONTENT_ID_SIZE}s")  # zero bytes before, location
_BRANCH = struct.Struct(f">QQHHHIIIB{NONCE_SIZE}s{CONTENT_ID_SIZE}s")  # bytes, leaf entries, key length, location
# In the table of objects: the segment in which this page itself lies, whose hash is not known yet.
_OWN_SEGMENT = bytes(SHA256_SIZE)

ROWS_MIN = 64
ROWS_MAX = 1024
# A page ends when it has grown to this, whatever the hash says; one entry may be larger on its own.
PAGE_BYTES_MAX = 128 * 1024
# What a reader accepts: a full page plus one entry of the largest size.
PAGE_PLAIN_MAX = 2 * 1024 * 1024
KEY_SIZE_MAX = 65535
SIZE_MAX = 1 << 62


# Object number, session number, offset, stored length, plain length, compression, nonce, content id.
Location: TypeAlias = tuple[int, int, int, int, int, int, bytes, bytes]


class PageKind(IntEnum):
    CHUNKS = 1
    FILES = 2


class NameTables:
    """Numbers objects and sessions in the order of their first use, while the rows of one page are encoded."""

    def __init__(self) -> None:
        self.objects: dict[ObjectName, int] = {}
        self.sessions: dict[bytes, int] = {}

    def numbers(self, entry: MapEntry) -> tuple[int, int]:
        number = self.objects.setdefault(entry.object_name, len(self.objects))
        return number, self.sessions.setdefault(entry.session_id, len(self.sessions))


class Row(Protocol):
    """One entry of a page: of a leaf, or a branch's."""

    @property
    def key(self) -> bytes:
        """Place in the order of a file tree; empty in a chunk stream."""
        ...

    @property
    def identity(self) -> bytes:
        """By which an earlier page that begins with the same entry is found."""
        ...

    @property
    def anchor(self) -> bytes:
        """What decides whether a page ends here; it does not depend on where anything is stored."""
        ...

    @property
    def total_bytes(self) -> int: ...

    @property
    def leaf_count(self) -> int: ...

    def encode(self, names: NameTables, before: bytes) -> bytes:
        """The row's bytes; `before` is the key of the row before it in the page (empty for the first)."""
        ...


class ChunkRow(NamedTuple):
    """`hole` zero bytes, then the chunk."""

    hole: int
    entry: MapEntry

    @property
    def key(self) -> bytes:
        return b""

    @property
    def identity(self) -> bytes:
        return self.entry.content_id

    @property
    def anchor(self) -> bytes:
        return self.entry.content_id

    @property
    def total_bytes(self) -> int:
        return self.hole + self.entry.plain_length

    @property
    def leaf_count(self) -> int:
        return 1

    def encode(self, names: NameTables, before: bytes) -> bytes:
        return _CHUNK.pack(self.hole, *names.numbers(self.entry), *self.entry[3:])


class Branch(NamedTuple):
    """A child page. `anchor` is that of its last leaf entry; it is needed (and known) only while writing."""

    ref: MapEntry
    total_bytes: int
    leaf_count: int
    key: bytes = b""
    anchor: bytes = b""

    @property
    def identity(self) -> bytes:
        return self.ref.content_id

    def encode(self, names: NameTables, before: bytes) -> bytes:
        numbers = names.numbers(self.ref)
        return _BRANCH.pack(self.total_bytes, self.leaf_count, len(self.key), *numbers, *self.ref[3:]) + self.key


class Boundary:
    """Decides, for all writers of a domain alike, after which entries a page ends."""

    def __init__(self, map_key: bytes) -> None:
        self._key = derive_key("page boundary", map_key)

    def is_after(self, level: int, anchor: bytes) -> bool:
        """True for one of 256 entries. Each level asks anew, so borders of different levels are independent."""
        return keyed_hash(self._key, bytes([level]) + anchor)[0] == 0


@dataclass(frozen=True, slots=True)
class PageDraft:
    """A page whose rows are final but whose objects may still be open."""

    kind: PageKind
    level: int
    rows: bytes
    row_count: int
    objects: tuple[ObjectName, ...]
    sessions: tuple[bytes, ...]
    total_bytes: int
    leaf_count: int
    first_key: bytes
    first_identity: bytes
    last_anchor: bytes

    @property
    def plain_size(self) -> int:
        tables = len(self.objects) * SHA256_SIZE + len(self.sessions) * SESSION_ID_SIZE
        return _HEAD.size + tables + len(self.rows)

    def plaintext(self, *, own_segment: ObjectName) -> bytes:
        """As it reads when it lies in `own_segment`."""
        objects = [
            _OWN_SEGMENT if name is own_segment or name == own_segment else resolve(name) for name in self.objects
        ]
        head = _HEAD.pack(self.kind, self.level, 0, self.row_count, len(objects), len(self.sessions))
        return b"".join([head, *objects, *self.sessions, self.rows])

    def branch(self, ref: MapEntry) -> Branch:
        return Branch(ref, self.total_bytes, self.leaf_count, self.first_key, self.last_anchor)


def draft_page(*, kind: PageKind, level: int, rows: Iterable[Row]) -> PageDraft:
    """`rows` must not be empty."""
    names = NameTables()
    encoded: list[bytes] = []
    listed = list(rows)
    before = b""
    for row in listed:
        encoded.append(row.encode(names, before))
        before = row.key
    return PageDraft(
        kind=kind,
        level=level,
        rows=b"".join(encoded),
        row_count=len(listed),
        objects=tuple(names.objects),
        sessions=tuple(names.sessions),
        total_bytes=sum(row.total_bytes for row in listed),
        leaf_count=sum(row.leaf_count for row in listed),
        first_key=listed[0].key,
        first_identity=listed[0].identity,
        last_anchor=listed[-1].anchor,
    )


@dataclass(frozen=True, slots=True)
class RawPage:
    """A page with its tables read and its rows not yet."""

    kind: PageKind
    level: int
    row_count: int
    objects: tuple[bytes, ...]
    sessions: tuple[bytes, ...]
    rows: bytes

    def entry(self, location: Location) -> MapEntry:
        """A location of this page as a map entry; FormatError when it points outside or no number is possible."""
        object_number, session_number, offset, _, _, compression, nonce, content_id = location
        if not (0 <= object_number < len(self.objects) and 0 <= session_number < len(self.sessions)):
            raise FormatError("a page entry names an object or session that is not listed")
        # Rows of files are not of fixed layout, so the fields may have any size.
        if offset < 0 or not 0 <= compression <= 255 or len(nonce) != NONCE_SIZE or len(content_id) != CONTENT_ID_SIZE:
            raise FormatError("a page entry is out of bounds")
        entry = MapEntry(0, self.objects[object_number], self.sessions[session_number], *location[2:])
        check_location(entry)
        return entry


def parse_raw_page(plain: bytes, *, kind: PageKind, own_segment: bytes) -> RawPage:
    if len(plain) > PAGE_PLAIN_MAX:
        raise FormatError("a page is too large")
    reader = ByteReader(plain, what="page")
    found_kind, level, flags, row_count, object_count, session_count = _HEAD.unpack(reader.take(_HEAD.size))
    if (found_kind, flags) != (kind, 0) or level > LEVEL_MAX:
        raise FormatError("a page is not of the kind that its parent names")
    if not 0 < row_count <= ROWS_MAX:
        raise FormatError("a page has no entries, or too many")
    objects = [reader.take(SHA256_SIZE) for _ in range(object_count)]
    sessions = [reader.take(SESSION_ID_SIZE) for _ in range(session_count)]
    named = tuple(own_segment if name == _OWN_SEGMENT else name for name in objects)
    return RawPage(kind, level, row_count, named, tuple(sessions), reader.take(reader.left))


def parse_chunk_rows(page: RawPage) -> list[ChunkRow]:
    if len(page.rows) != page.row_count * _CHUNK.size:
        raise FormatError("a page of chunks has another length than its entries")
    rows: list[ChunkRow] = []
    for hole, *location in _CHUNK.iter_unpack(page.rows):
        if hole >= SIZE_MAX:
            raise FormatError("a hole is out of bounds")
        rows.append(ChunkRow(hole, page.entry((*location,))))
    return rows


def parse_branch_rows(page: RawPage) -> list[Branch]:
    reader = ByteReader(page.rows, what="branch page")
    rows: list[Branch] = []
    for _ in range(page.row_count):
        total_bytes, leaf_count, key_size, *location = _BRANCH.unpack(reader.take(_BRANCH.size))
        entry = page.entry((*location,))
        if total_bytes >= SIZE_MAX or not 0 < leaf_count < SIZE_MAX or entry.session_id != NO_SESSION:
            raise FormatError("an entry of a branch page is out of bounds")
        if entry.plain_length > PAGE_PLAIN_MAX:
            raise FormatError("a page is too large")
        if page.kind == PageKind.CHUNKS and not total_bytes:
            raise FormatError("a page of chunks holds no bytes")
        rows.append(Branch(entry, total_bytes, leaf_count, reader.take(key_size)))
    reader.expect_end()
    return rows
