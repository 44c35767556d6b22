"""Pages of the block map: a tree that says for each block of the image which record holds it.

A leaf (level 0) covers `fan_out` consecutive blocks, an interior page `fan_out` child pages. An absent slot
is a hole. Both kinds have the same entries: a leaf's point at sealed blocks in packs, an interior page's at
sealed pages in index segments. Objects and sessions are named in tables inside the page, so an untouched page
stays valid, byte for byte, in every later manifest. content_id covers a child's plaintext, so the root covers
the whole image.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from engine.codec import (
    BLOCK_SIZE_MAX,
    CONTENT_ID_SIZE,
    FAN_OUT_MAX,
    NONCE_SIZE,
    OBJECT_SIZE_MAX,
    SESSION_ID_SIZE,
    SHA256_SIZE,
    TAG_SIZE,
    ByteReader,
)
from engine.errors import EngineError, FormatError
from engine.sealing import SealedRecord

DEFAULT_FAN_OUT = 1024
# level, flags, page index, entries, objects, sessions
_PAGE_HEAD = struct.Struct(">BBQHHH")
# slot, object index, session index, offset, record length, plain length, compression, nonce, content id
_ENTRY = struct.Struct(f">HHHIIIB{NONCE_SIZE}s{CONTENT_ID_SIZE}s")
# Object index of a child page that lies in the same segment as its parent (whose hash is not known yet).
_OWN_SEGMENT = 0xFFFF
NO_SESSION = bytes(SESSION_ID_SIZE)
LEVEL_MAX = 8


class PendingObject:
    """An object that is still being filled; its hash is known once it is closed."""

    __slots__ = ("sha256",)

    def __init__(self) -> None:
        self.sha256: bytes | None = None


ObjectName: TypeAlias = bytes | PendingObject


def resolve(name: ObjectName) -> bytes:
    if isinstance(name, bytes):
        return name
    if name.sha256 is None:
        raise EngineError("an object is referenced before it is closed", code="internal")
    return name.sha256


def is_resolved(name: ObjectName) -> bool:
    return isinstance(name, bytes) or name.sha256 is not None


class MapEntry(NamedTuple):
    """Where one record lies: a block in a pack, or a page in a segment (then session_id is NO_SESSION)."""

    slot: int
    object_name: ObjectName
    session_id: bytes
    offset: int
    record_length: int
    plain_length: int
    compression: int
    nonce: bytes
    content_id: bytes

    def sealed(self, payload: bytes) -> SealedRecord:
        return SealedRecord(self.content_id, self.nonce, self.plain_length, self.compression, payload)


def entry_for(record: SealedRecord, *, slot: int, object_name: ObjectName, session_id: bytes, offset: int) -> MapEntry:
    return MapEntry(
        slot,
        object_name,
        session_id,
        offset,
        len(record.payload),
        record.plain_length,
        record.compression,
        record.nonce,
        record.content_id,
    )


@dataclass(frozen=True, slots=True)
class PageDraft:
    """A page whose rows are final but whose objects may still be open; compact, because many may wait."""

    level: int
    index: int
    objects: tuple[ObjectName, ...]
    sessions: tuple[bytes, ...]
    rows: bytes

    @property
    def is_ready(self) -> bool:
        return all(is_resolved(name) for name in self.objects)

    @property
    def plain_size(self) -> int:
        tables = len(self.objects) * SHA256_SIZE + len(self.sessions) * SESSION_ID_SIZE
        return _PAGE_HEAD.size + tables + len(self.rows)

    def plaintext(self) -> bytes:
        count = len(self.rows) // _ENTRY.size
        head = _PAGE_HEAD.pack(self.level, 0, self.index, count, len(self.objects), len(self.sessions))
        return b"".join([head, *(resolve(name) for name in self.objects), *self.sessions, self.rows])


def draft_page(
    *, level: int, index: int, entries: Iterable[MapEntry], own_segment: PendingObject | None = None
) -> PageDraft:
    """Rows in slot order; objects and sessions are numbered in the order of their first use."""
    objects: dict[ObjectName, int] = {}
    sessions: dict[bytes, int] = {}
    rows = bytearray()
    for entry in sorted(entries, key=lambda item: item.slot):
        if own_segment is not None and entry.object_name is own_segment:
            object_index = _OWN_SEGMENT
        else:
            name = resolve(entry.object_name) if is_resolved(entry.object_name) else entry.object_name
            object_index = objects.setdefault(name, len(objects))
        session_index = sessions.setdefault(entry.session_id, len(sessions))
        rows += _ENTRY.pack(entry.slot, object_index, session_index, *entry[3:])
    return PageDraft(level, index, tuple(objects), tuple(sessions), bytes(rows))


def parse_page(plain: bytes, *, level: int, index: int, fan_out: int, own_segment: bytes) -> dict[int, MapEntry]:
    """Entries by slot, ascending. FormatError unless it is exactly the page (level, index)."""
    reader = ByteReader(plain, what="map page")
    head = _PAGE_HEAD.unpack(reader.take(_PAGE_HEAD.size))
    found_level, flags, found_index, entry_count, object_count, session_count = head
    if (found_level, found_index, flags) != (level, index, 0):
        raise FormatError("a map page is not the one its parent names")
    if entry_count > fan_out or object_count > fan_out or session_count > fan_out:
        raise FormatError("a map page has more entries than its fan-out")
    objects = [reader.take(SHA256_SIZE) for _ in range(object_count)]
    sessions = [reader.take(SESSION_ID_SIZE) for _ in range(session_count)]
    rows = reader.take(entry_count * _ENTRY.size)
    reader.expect_end()
    return _parse_rows(rows, objects=objects, sessions=sessions, fan_out=fan_out, own_segment=own_segment)


def _parse_rows(
    rows: bytes, *, objects: list[bytes], sessions: list[bytes], fan_out: int, own_segment: bytes
) -> dict[int, MapEntry]:
    entries: dict[int, MapEntry] = {}
    last_slot = -1
    for slot, object_index, session_index, *location in _ENTRY.iter_unpack(rows):
        if not last_slot < slot < fan_out:
            raise FormatError("slots of a map page are not ascending")
        last_slot = slot
        if (object_index != _OWN_SEGMENT and object_index >= len(objects)) or session_index >= len(sessions):
            raise FormatError("a map entry names an object or session that is not listed")
        name = own_segment if object_index == _OWN_SEGMENT else objects[object_index]
        entry = MapEntry(slot, name, sessions[session_index], *location)
        check_location(entry)
        entries[slot] = entry
    return entries


def check_location(entry: MapEntry) -> None:
    if entry.offset + entry.record_length > OBJECT_SIZE_MAX or entry.record_length < TAG_SIZE:
        raise FormatError("a map entry points outside of any object")
    if not 0 < entry.plain_length <= BLOCK_SIZE_MAX:
        raise FormatError("a map entry's plain length is out of bounds")


def ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)


def tree_height(block_count: int, fan_out: int) -> int:
    """Level of the root page: 0 when one leaf covers all blocks."""
    height = 0
    pages = ceil_div(block_count, fan_out)
    while pages > 1:
        pages = ceil_div(pages, fan_out)
        height += 1
    return height


def check_geometry(*, size_bytes: int, block_size: int, fan_out: int) -> None:
    if not 0 <= size_bytes < 1 << 62:
        raise FormatError("the image size is out of bounds")
    if not 512 <= block_size <= BLOCK_SIZE_MAX or block_size & (block_size - 1):
        raise FormatError("the block size must be a power of two from 512 bytes to 16 MiB")
    if not 2 <= fan_out <= FAN_OUT_MAX:
        raise FormatError("the fan-out is out of bounds")
    if tree_height(ceil_div(size_bytes, block_size), fan_out) > LEVEL_MAX:
        raise FormatError("the block map would be too deep")
