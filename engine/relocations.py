"""Relocations (`r/`): where blocks of a pack can be found instead, when that pack is gone or damaged.

    header | flags | plain length | compression | nonce | content id | payload (a record of type `relocation`)

Written by a repack (the same ciphertext in another pack) and by a healing backup (the same content, sealed anew by
its session). Manifests and map pages stay as they are: a restore that cannot use a block's own place looks here, and
takes what it finds only if it opens and its content id is the one in the signed map. So a wrong relocation can cost
a read and no more. Places are followed from pack to pack, for a pack may be repacked again.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from engine.codec import (
    CONTENT_ID_SIZE,
    NONCE_SIZE,
    OBJECT_HEADER,
    OBJECT_SIZE_MAX,
    SALT_SIZE,
    SESSION_ID_SIZE,
    SHA256_SIZE,
    ByteReader,
    check_header,
    pack_header,
)
from engine.compression import Compressor
from engine.crypto import RandomBytes
from engine.errors import EngineError, FormatError
from engine.index import MapEntry, ObjectName, check_location, resolve
from engine.manifest import ObjectEntry, SessionEntry
from engine.sealing import RecordType, SealedRecord, map_sealer
from engine.store.base import ObjectKind

# Together they keep the plaintext (71 bytes a row, up to 2.2 KB for a pack and a session) below the largest record.
ROWS_MAX = 100_000
TABLE_MAX = 4096
# Places that are looked at for one block; a chain of repacks is far shorter.
_PLACES_MAX = 16

_HEAD = struct.Struct(f">IIB{NONCE_SIZE}s{CONTENT_ID_SIZE}s")  # flags, plain length, compression, nonce, content id
# Old pack (number), old offset, new pack (number), new offset, session (number), stored length, plain length,
# compression, nonce, content id.
_ROW = struct.Struct(f">IIIIHIIB{NONCE_SIZE}s{CONTENT_ID_SIZE}s")
ROW_BYTES = _ROW.size
_KEY_SIZE = 8  # old pack and old offset: the start of a row, by which rows are sorted
_KEY = struct.Struct(">II")


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    old_packs: list[bytes]
    packs: list[ObjectEntry]
    sessions: list[SessionEntry]
    rows: bytes


class Place(NamedTuple):
    """Where a block lies: a pack (with what is needed to read it) and the record in it."""

    pack: bytes
    pack_entry: ObjectEntry
    entry: MapEntry


class RelocationWriter:
    """Collects moves and makes one object of them. Not thread-safe."""

    def __init__(
        self, *, tenant: str, domain: str, map_key: bytes, random_bytes: RandomBytes, compressor: Compressor
    ) -> None:
        self._tenant, self._domain = tenant, domain
        self._sealer = map_sealer(RecordType.RELOCATION, tenant=tenant, domain=domain, map_key=map_key)
        self._random_bytes = random_bytes
        self._compressor = compressor
        self._moves: dict[tuple[bytes, int], MapEntry] = {}
        self._named: tuple[set[ObjectName], set[ObjectName], set[ObjectName]] = (set(), set(), set())

    @property
    def is_empty(self) -> bool:
        return not self._moves

    @property
    def is_full(self) -> bool:
        """Whether no other row fits: finish this object and start another one."""
        return len(self._moves) >= ROWS_MAX or max(map(len, self._named)) >= TABLE_MAX

    def add(self, old: MapEntry, new: MapEntry) -> None:
        """`old` can be read as `new`, too. Adding a place again is ignored; FormatError for another content."""
        if not _is_same(old, new):
            raise FormatError("a relocation must not lead to another content")
        check_location(old)
        key = resolve(old.object_name), old.offset
        if key in self._moves:
            return
        if self.is_full:
            raise FormatError("too many rows for one relocation object", code="relocation_full")
        self._moves[key] = new
        for named, name in zip(self._named, (key[0], new.object_name, new.session_id), strict=True):
            named.add(name)

    def finish(self, packs: Mapping[bytes, ObjectEntry], sessions: Sequence[SessionEntry]) -> bytes:
        """The object's bytes. Call once, when all new packs are stored and at least one row was added.

        `packs` and `sessions` must have all that the rows name; the others are left out. Use counts are made anew.
        """
        if self.is_empty:
            raise EngineError("a relocation object needs a row", code="internal")
        body = self._body(packs, {session.session_id: session for session in sessions})
        plain = msgspec.msgpack.encode(body)
        record = self._sealer.seal_verified(
            plain,
            content_id=self._sealer.content_id(plain),
            salt=self._random_bytes(SALT_SIZE),
            compressor=self._compressor,
        )
        head = _HEAD.pack(0, record.plain_length, record.compression, record.nonce, record.content_id)
        return pack_header(ObjectKind.RELOCATION.value) + head + record.payload

    def _body(self, packs: Mapping[bytes, ObjectEntry], sessions: Mapping[bytes, SessionEntry]) -> _Body:
        pack_uses = Counter(resolve(entry.object_name) for entry in self._moves.values())
        session_uses = Counter(entry.session_id for entry in self._moves.values())
        if not (pack_uses.keys() <= packs.keys() and session_uses.keys() <= sessions.keys()):
            raise FormatError("a relocation names a pack or session that was not given")
        old_numbers = {pack: number for number, pack in enumerate(sorted({pack for pack, _ in self._moves}))}
        new_numbers = {pack: number for number, pack in enumerate(pack_uses)}
        session_numbers = {session: number for number, session in enumerate(session_uses)}
        rows = [
            _ROW.pack(
                old_numbers[pack],
                offset,
                new_numbers[resolve(new.object_name)],
                new.offset,
                session_numbers[new.session_id],
                *new[4:],
            )
            for (pack, offset), new in sorted(self._moves.items(), key=lambda move: move[0])
        ]
        return _Body(
            old_packs=list(old_numbers),
            packs=[msgspec.structs.replace(packs[pack], use_count=count) for pack, count in pack_uses.items()],
            sessions=[msgspec.structs.replace(sessions[key], use_count=count) for key, count in session_uses.items()],
            rows=b"".join(rows),
        )


@dataclass(frozen=True, slots=True)
class Relocations:
    """What one relocation object says. The rows stay as they are stored: about 80 bytes of memory each."""

    old_packs: tuple[bytes, ...]
    packs: tuple[ObjectEntry, ...]
    sessions: tuple[SessionEntry, ...]
    _rows: bytes = field(repr=False)
    _old_numbers: Mapping[bytes, int] = field(repr=False)

    def __len__(self) -> int:
        return len(self._rows) // _ROW.size

    def find(self, pack: bytes, offset: int) -> Place | None:
        """Where the record at this offset of this pack can be found instead."""
        number = self._old_numbers.get(pack)
        if number is None:
            return None
        wanted = _KEY.pack(number, offset)
        index = bisect_left(range(len(self)), wanted, key=self._key_at)
        return self._place_at(index) if index < len(self) and self._key_at(index) == wanted else None

    def rows(self) -> Iterator[tuple[bytes, int, Place]]:
        """(old pack, old offset, new place), ascending by old pack and offset."""
        for index in range(len(self)):
            number, offset = _KEY.unpack(self._key_at(index))
            yield self.old_packs[number], offset, self._place_at(index)

    def _key_at(self, index: int) -> bytes:
        return self._rows[index * _ROW.size : index * _ROW.size + _KEY_SIZE]

    def _place_at(self, index: int) -> Place:
        _, _, pack_number, offset, session_number, *facts = _ROW.unpack_from(self._rows, index * _ROW.size)
        pack = self.packs[pack_number]
        name: ObjectName = pack.sha256
        session_id = self.sessions[session_number].session_id
        return Place(pack.sha256, pack, MapEntry(0, name, session_id, offset, *facts))


def parse_relocations(data: bytes, *, tenant: str, domain: str, map_key: bytes) -> Relocations:
    """Open and check a relocation object. Raises FormatError, UnsupportedError, IntegrityError."""
    if len(data) > OBJECT_SIZE_MAX:
        raise FormatError("the relocation object is too large")
    check_header(data, ObjectKind.RELOCATION.value)
    reader = ByteReader(memoryview(data)[OBJECT_HEADER.size :], what="relocation object")
    flags, plain_length, compression, nonce, content_id = _HEAD.unpack(reader.take(_HEAD.size))
    if flags:
        raise FormatError("the relocation object has unknown flags")
    sealer = map_sealer(RecordType.RELOCATION, tenant=tenant, domain=domain, map_key=map_key)
    record = SealedRecord(content_id, nonce, plain_length, compression, reader.take(reader.left))
    body = _decode(sealer.open(record))
    _check_tables(body)
    _check_rows(body)
    return Relocations(
        old_packs=tuple(body.old_packs),
        packs=tuple(body.packs),
        sessions=tuple(body.sessions),
        _rows=body.rows,
        _old_numbers={pack: number for number, pack in enumerate(body.old_packs)},
    )


def moved_places(relocations: Sequence[Relocations], entry: MapEntry) -> Iterator[Place]:
    """Other places of a map entry's block, nearest first: also those of a place that was itself relocated.

    Only places of the same content id and plain length; each is given once, and at most 16 in all.
    """
    seen = {(resolve(entry.object_name), entry.offset)}
    waiting = list(seen)
    while waiting:
        pack, offset = waiting.pop(0)
        for relocation in relocations:
            place = relocation.find(pack, offset)
            if place is None or (place.pack, place.entry.offset) in seen or not _is_same(place.entry, entry):
                continue
            if len(seen) > _PLACES_MAX:
                return
            seen.add((place.pack, place.entry.offset))
            waiting.append((place.pack, place.entry.offset))
            yield place


def _is_same(one: MapEntry, other: MapEntry) -> bool:
    return (one.content_id, one.plain_length) == (other.content_id, other.plain_length)


# As in `engine.manifest`.
_BODIES = msgspec.msgpack.Decoder(_Body)


def _decode(plain: bytes) -> _Body:
    try:
        return _BODIES.decode(plain)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError("the relocation object cannot be decoded") from error


def _check_tables(body: _Body) -> None:
    if max(len(body.old_packs), len(body.packs), len(body.sessions)) > TABLE_MAX:
        raise FormatError("the relocation object lists too much")
    for entry in (*body.packs, *(session.envelope for session in body.sessions)):
        if len(entry.sha256) != SHA256_SIZE or not 0 < entry.size_bytes <= OBJECT_SIZE_MAX:
            raise FormatError("an object entry of the relocation object is out of bounds")
    for session in body.sessions:
        if len(session.session_id) != SESSION_ID_SIZE or len(session.commitment) != SHA256_SIZE:
            raise FormatError("a session entry of the relocation object is out of bounds")
    names = [pack.sha256 for pack in body.packs]
    ids = [session.session_id for session in body.sessions]
    if len(set(names)) != len(names) or len(set(ids)) != len(ids):
        raise FormatError("the relocation object lists a pack or session twice")
    if any(len(pack) != SHA256_SIZE for pack in body.old_packs) or body.old_packs != sorted(set(body.old_packs)):
        raise FormatError("the old packs of the relocation object are out of order or out of bounds")


def _check_rows(body: _Body) -> None:
    count, rest = divmod(len(body.rows), _ROW.size)
    if rest or not 0 < count <= ROWS_MAX:
        raise FormatError("the rows of the relocation object are out of bounds")
    last = (-1, 0)
    pack_uses: Counter[int] = Counter()
    session_uses: Counter[int] = Counter()
    for old, old_offset, new, offset, session, *facts in _ROW.iter_unpack(body.rows):
        if (old, old_offset) <= last or old >= len(body.old_packs):
            raise FormatError("the rows of the relocation object are out of order")
        last = (old, old_offset)
        if new >= len(body.packs) or session >= len(body.sessions):
            raise FormatError("a row of the relocation object names what is not listed")
        entry = MapEntry(0, body.packs[new].sha256, body.sessions[session].session_id, offset, *facts)
        check_location(entry)
        if offset + entry.record_length > body.packs[new].size_bytes or old_offset > OBJECT_SIZE_MAX:
            raise FormatError("a row of the relocation object points outside of its pack")
        pack_uses[new] += 1
        session_uses[session] += 1
    _check_uses([pack.use_count for pack in body.packs], pack_uses)
    _check_uses([session.use_count for session in body.sessions], session_uses)


def _check_uses(told: Sequence[int], counted: Mapping[int, int]) -> None:
    if list(told) != [counted.get(number, 0) for number in range(len(told))] or 0 in told:
        raise FormatError("the relocation object counts its rows wrongly")
