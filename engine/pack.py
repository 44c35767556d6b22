"""Containers: packs (`p`, sealed blocks) and index segments (`i`, sealed map pages) share one layout.

    header | record ... record | sealed record table | trailer

Header and trailer are clear and of fixed size; the record table is sealed under the map key. Records carry
no reference to their container, so those of several sessions can lie in one pack (see engine/repack.py).
See docs/format.md for the byte tables.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from engine.codec import (
    BLOCK_SIZE_MAX,
    CONTENT_ID_SIZE,
    NONCE_SIZE,
    OBJECT_HEADER,
    OBJECT_SIZE_MAX,
    SESSION_ID_SIZE,
    SHA256_SIZE,
    TAG_SIZE,
    ByteReader,
    check_header,
    pack_header,
)
from engine.compression import Compressor
from engine.errors import FormatError
from engine.sealing import RecordSealer, SealedRecord
from engine.store.base import ObjectKind

_HEAD = struct.Struct(f">I{SESSION_ID_SIZE}s{SHA256_SIZE}s")  # flags, session id, key commitment
_TABLE_COUNTS = struct.Struct(">HI")  # sessions, records
# session index, offset, stored length, plain length, compression, nonce, content id
_TABLE_ROW = struct.Struct(f">HIIIB{NONCE_SIZE}s{CONTENT_ID_SIZE}s")
# table offset, stored length, plain length, compression, nonce, content id, record count, end mark
_TRAILER = struct.Struct(f">IIIB{NONCE_SIZE}s{CONTENT_ID_SIZE}sI4s")
_END_MARK = b"BKSE"

# In the header of a pack that was put together from records of other packs: no one session wrote it.
NO_WRITER = bytes(SESSION_ID_SIZE)
NO_COMMITMENT = bytes(SHA256_SIZE)
_SESSIONS_MAX = 0xFFFF

HEADER_SIZE = OBJECT_HEADER.size + _HEAD.size
TRAILER_SIZE = _TRAILER.size
DEFAULT_CONTAINER_SIZE = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    session_id: bytes
    offset: int
    record_length: int
    plain_length: int
    compression: int
    nonce: bytes
    content_id: bytes


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    session_id: bytes
    key_commitment: bytes
    records: tuple[ContainerRecord, ...]


class ContainerWriter:
    """Collects sealed records up to a target size. Not thread-safe.

    Made with NO_WRITER and NO_COMMITMENT it takes records of several sessions, each named in `add`.
    """

    def __init__(
        self,
        kind: ObjectKind,
        *,
        session_id: bytes,
        key_commitment: bytes,
        table_sealer: RecordSealer,
        target_size: int,
    ) -> None:
        if not HEADER_SIZE + TRAILER_SIZE < target_size <= OBJECT_SIZE_MAX:
            raise FormatError("the container size is out of bounds")
        self._session_id = session_id
        self._sessions: dict[bytes, int] = {} if session_id == NO_WRITER else {session_id: 0}
        self._table_sealer = table_sealer
        self._target_size = target_size
        header = pack_header(kind.value) + _HEAD.pack(0, session_id, key_commitment)
        self._parts: list[bytes] = [header]
        self._rows: list[bytes] = []
        self._offset = len(header)

    @property
    def is_empty(self) -> bool:
        return not self._rows

    def has_room_for(self, payload_length: int) -> bool:
        """Whether another record keeps the finished object within its size; an empty one takes any record."""
        sessions_size = max(1, len(self._sessions) + (self._session_id == NO_WRITER)) * SESSION_ID_SIZE
        table_size = _TABLE_COUNTS.size + sessions_size + (len(self._rows) + 1) * _TABLE_ROW.size + TAG_SIZE
        total = self._offset + payload_length + table_size + TRAILER_SIZE
        if len(self._sessions) >= _SESSIONS_MAX:
            return False
        return total <= (OBJECT_SIZE_MAX if self.is_empty else self._target_size)

    def add(self, record: SealedRecord, *, session_id: bytes | None = None) -> int:
        """Append and return the record's offset. `session_id`: whose data key seals it, if not the writer's."""
        offset = self._offset
        self._rows.append(
            _TABLE_ROW.pack(
                self._session_number(session_id or self._session_id),
                offset,
                len(record.payload),
                record.plain_length,
                record.compression,
                record.nonce,
                record.content_id,
            )
        )
        self._parts.append(record.payload)
        self._offset += len(record.payload)
        return offset

    def finish(self, *, salt: bytes, compressor: Compressor) -> bytes:
        """The object's bytes. Call once, and only when it holds a record."""
        plain = _TABLE_COUNTS.pack(len(self._sessions), len(self._rows)) + b"".join([*self._sessions, *self._rows])
        table_id = self._table_sealer.content_id(plain)
        table = self._table_sealer.seal_verified(plain, content_id=table_id, salt=salt, compressor=compressor)
        trailer = _TRAILER.pack(
            self._offset,
            len(table.payload),
            table.plain_length,
            table.compression,
            table.nonce,
            table.content_id,
            len(self._rows),
            _END_MARK,
        )
        self._parts += [table.payload, trailer]
        data = b"".join(self._parts)
        self._parts.clear()
        return data

    def _session_number(self, session_id: bytes) -> int:
        if len(session_id) != SESSION_ID_SIZE or session_id == NO_WRITER:
            raise FormatError("a record belongs to no session")
        if self._session_id not in (NO_WRITER, session_id):
            raise FormatError("a container of one session takes no record of another")
        return self._sessions.setdefault(session_id, len(self._sessions))


def parse_container(data: bytes | memoryview, *, kind: ObjectKind, table_sealer: RecordSealer) -> ContainerInfo:
    """Check header, trailer and record table of a whole container; the records themselves stay sealed.

    Raises FormatError or IntegrityError. Records are ascending, disjoint and fill the space between the
    header and the table exactly, so a flipped length cannot point elsewhere.
    """
    return parse_container_ends(data, data, size_bytes=len(data), kind=kind, table_sealer=table_sealer)


def parse_container_ends(
    head: bytes | memoryview, tail: bytes | memoryview, *, size_bytes: int, kind: ObjectKind, table_sealer: RecordSealer
) -> ContainerInfo:
    """As parse_container, from the first HEADER_SIZE bytes and the last `tail_size` bytes (or more of either)."""
    if not HEADER_SIZE + TRAILER_SIZE <= size_bytes <= OBJECT_SIZE_MAX:
        raise FormatError("the container's size is out of bounds")
    if len(head) < HEADER_SIZE:
        raise FormatError("the container is shorter than its header")
    check_header(head, kind.value)
    flags, session_id, commitment = _HEAD.unpack_from(head, OBJECT_HEADER.size)
    if flags:
        raise FormatError("the container has unknown flags")
    table_offset, record_count, plain = _open_table(memoryview(tail), size_bytes, table_sealer)
    records = _parse_table(plain, record_count=record_count, table_offset=table_offset)
    _check_writer(session_id, commitment, records)
    return ContainerInfo(session_id=session_id, key_commitment=commitment, records=records)


def tail_size(tail: bytes | memoryview, *, size_bytes: int) -> int:
    """How many bytes at the container's end are record table and trailer; `tail` holds at least the trailer."""
    return size_bytes - _trailer_of(memoryview(tail), size_bytes)[0]


def _trailer_of(tail: memoryview, size_bytes: int) -> tuple[int, int, int, int, bytes, bytes, int]:
    if len(tail) < TRAILER_SIZE:
        raise FormatError("the container is shorter than its trailer")
    *fields, end_mark = _TRAILER.unpack_from(tail, len(tail) - TRAILER_SIZE)
    offset, stored_length, plain_length, compression, nonce, content_id, record_count = fields
    if end_mark != _END_MARK:
        raise FormatError("the container has no end mark")
    if offset < HEADER_SIZE or offset + stored_length != size_bytes - TRAILER_SIZE:
        raise FormatError("the record table is not where the trailer says")
    if plain_length > BLOCK_SIZE_MAX:
        raise FormatError("the record table is too large")
    return offset, stored_length, plain_length, compression, nonce, content_id, record_count


def _open_table(tail: memoryview, size_bytes: int, table_sealer: RecordSealer) -> tuple[int, int, bytes]:
    offset, stored_length, plain_length, compression, nonce, content_id, record_count = _trailer_of(tail, size_bytes)
    start = offset - (size_bytes - len(tail))
    if start < 0:
        raise FormatError("the record table is not wholly there")
    payload = bytes(tail[start : start + stored_length])
    record = SealedRecord(content_id, nonce, plain_length, compression, payload)
    return offset, record_count, table_sealer.open(record)


def _parse_table(plain: bytes, *, record_count: int, table_offset: int) -> tuple[ContainerRecord, ...]:
    reader = ByteReader(plain, what="record table")
    session_count, row_count = _TABLE_COUNTS.unpack(reader.take(_TABLE_COUNTS.size))
    if row_count != record_count:
        raise FormatError("the trailer and the record table count differently")
    sessions = [reader.take(SESSION_ID_SIZE) for _ in range(session_count)]
    rows = reader.take(row_count * _TABLE_ROW.size)
    reader.expect_end()
    records = tuple(_parse_row(row, sessions) for row in _TABLE_ROW.iter_unpack(rows))
    _check_records(records, table_offset)
    return records


def _check_writer(session_id: bytes, commitment: bytes, records: tuple[ContainerRecord, ...]) -> None:
    if session_id == NO_WRITER:
        if commitment != NO_COMMITMENT:
            raise FormatError("the container's header names a key but no session")
    elif any(record.session_id != session_id for record in records):
        raise FormatError("the container's header and its record table name different sessions")


def _parse_row(row: tuple[int, int, int, int, int, bytes, bytes], sessions: list[bytes]) -> ContainerRecord:
    session_index, offset, record_length, plain_length, compression, nonce, content_id = row
    if session_index >= len(sessions):
        raise FormatError("a record names a session that is not listed")
    if plain_length > BLOCK_SIZE_MAX or record_length < TAG_SIZE:
        raise FormatError("a record's lengths are out of bounds")
    return ContainerRecord(sessions[session_index], offset, record_length, plain_length, compression, nonce, content_id)


def _check_records(records: tuple[ContainerRecord, ...], table_offset: int) -> None:
    if not records or records[0].offset != HEADER_SIZE:
        raise FormatError("the first record is not behind the header")
    for before, after in pairwise(records):
        if after.offset != before.offset + before.record_length:
            raise FormatError("records overlap or leave a gap")
    if records[-1].offset + records[-1].record_length != table_offset:
        raise FormatError("the last record does not end at the record table")
