"""Blocks that earlier attempts stored, found by content id, in bounded memory.

Packs of an attempt follow the order of the image, and so does the new run. A window over the packs moves along:
on when blocks are found in its later half, and on when so many blocks were not found that they would have filled half
of it. What the window has left behind is sent again, which costs time and space but never correctness.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine.codec import NONCE_SIZE
from engine.index import MapEntry
from engine.manifest import ObjectEntry, SessionEntry
from engine.resume import LoadedPack

WINDOW_ENTRIES_MAX = 200_000
# Blocks found out of order (equal blocks lie where they came first) must not move the window.
_HITS_AHEAD = 32
# Number of the pack, offset, record length, plain length, compression, nonce: 29 bytes instead of a tuple's 350.
_PLACE = struct.Struct(f">IIIIB{NONCE_SIZE}s")


@dataclass(frozen=True, slots=True)
class _WindowPack:
    number: int
    entry: ObjectEntry
    session: SessionEntry
    content_ids: tuple[bytes, ...]


@dataclass(slots=True)
class _Claim:
    entry: MapEntry
    number: int
    count: int


class ResumedBlocks:
    """`in` may be asked by any thread and keeps what it found until `take`; all else is for the owner."""

    def __init__(self, packs: Iterable[LoadedPack], *, entries_max: int = WINDOW_ENTRIES_MAX) -> None:
        self._source: Iterator[LoadedPack] = iter(packs)
        self._entries_max = entries_max
        self._lock = threading.Lock()
        self._places: dict[bytes, bytes] = {}
        self._packs: deque[_WindowPack] = deque()
        self._by_number: dict[int, _WindowPack] = {}
        self._claims: dict[bytes, _Claim] = {}
        self._next_number = 0
        self._misses = self._hits_ahead = 0
        # Of the packs and sessions that were referred to; what the manifest has to list.
        self.packs: dict[bytes, ObjectEntry] = {}
        self.sessions: dict[bytes, SessionEntry] = {}
        self._waiting: LoadedPack | None = next(self._source, None)
        self._fill()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, content_id: object) -> bool:
        """Whether the block is known. A block that was found stays known until it is taken or forgotten."""
        if content_id not in self._places and content_id not in self._claims:
            return False
        with self._lock:
            return isinstance(content_id, bytes) and self._claim(content_id)

    def take(self, content_id: bytes) -> MapEntry | None:
        """Where the block lies (slot 0), or None. Moves the window."""
        with self._lock:
            claim = self._claims.get(content_id)
            if claim is None and self._claim(content_id):
                claim = self._claims[content_id]
            if claim is None:
                return None
            claim.count -= 1
            if claim.count <= 0:
                del self._claims[content_id]
        self._note_hit(claim.number)
        return claim.entry

    def forget(self, content_id: bytes) -> None:
        """The owner knows the block by itself from now on."""
        with self._lock:
            self._claims.pop(content_id, None)

    def note_miss(self) -> None:
        """A block had to be stored."""
        self._misses += 1
        if self._waiting is not None and self._misses * 2 >= self._entries_max:
            self._move(max(1, len(self._packs) // 2))

    def _claim(self, content_id: bytes) -> bool:
        claim = self._claims.get(content_id)
        if claim is not None:
            claim.count += 1
            return True
        place = self._places.get(content_id)
        if place is None:
            return False
        number, offset, record_length, plain_length, compression, nonce = _PLACE.unpack(place)
        pack = self._by_number[number]
        self.packs[pack.entry.sha256] = pack.entry
        self.sessions[pack.session.session_id] = pack.session
        entry = MapEntry(
            0,
            pack.entry.sha256,
            pack.session.session_id,
            offset,
            record_length,
            plain_length,
            compression,
            nonce,
            content_id,
        )
        self._claims[content_id] = _Claim(entry, number, 1)
        return True

    def _note_hit(self, number: int) -> None:
        self._misses = 0
        if self._waiting is None:
            return
        ahead = number - self._packs[0].number - len(self._packs) // 2
        self._hits_ahead = self._hits_ahead + 1 if ahead > 0 else 0
        if self._hits_ahead >= _HITS_AHEAD:
            self._move(ahead)

    def _move(self, pack_count: int) -> None:
        """Leave the oldest packs behind and take in as many entries as there is room for."""
        self._misses = self._hits_ahead = 0
        for _ in range(pack_count):
            self._drop(self._packs.popleft())
        self._fill()

    def _drop(self, pack: _WindowPack) -> None:
        with self._lock:
            del self._by_number[pack.number]
            for content_id in pack.content_ids:
                del self._places[content_id]

    def _fill(self) -> None:
        while self._waiting is not None:
            room = self._entries_max - len(self._places)
            if len(self._waiting.records) > room and self._packs:
                return
            self._add(self._waiting, room)
            self._waiting = next(self._source, None)

    def _add(self, pack: LoadedPack, room: int) -> None:
        number = self._next_number
        self._next_number += 1
        with self._lock:
            # Only ids that this pack brings: dropping the pack drops exactly those.
            fresh = {record.content_id: record for record in pack.records if record.content_id not in self._places}
            added = _WindowPack(number, pack.entry, pack.session, tuple(fresh)[:room])
            self._by_number[number] = added
            for content_id in added.content_ids:
                record = fresh[content_id]
                self._places[content_id] = _PLACE.pack(
                    number,
                    record.offset,
                    record.record_length,
                    record.plain_length,
                    record.compression,
                    record.nonce,
                )
        self._packs.append(added)
