"""What a manifest names, without asking who signed it. For keeping things only: never for a restore or a catalogue."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.codec import OBJECT_HEADER, OBJECT_SIZE_MAX, SHA256_SIZE, ByteReader, check_header
from engine.errors import FormatError
from engine.manifest import ObjectEntry, SessionEntry
from engine.store.base import ObjectKind


class _Named(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a body that name objects; what else is wrong with it does not matter here."""

    sessions: list[SessionEntry] = []
    packs: list[ObjectEntry] = []
    segments: list[ObjectEntry] = []


# As in `engine.manifest`.
_BODIES = msgspec.msgpack.Decoder(_Named)


def named_objects(data: bytes) -> Iterator[tuple[ObjectKind, bytes]]:
    """(kind, SHA-256) of every object that the manifest names. FormatError for what cannot be decoded as one."""
    if len(data) > OBJECT_SIZE_MAX:
        raise FormatError("the manifest's size is out of bounds")
    check_header(data, ObjectKind.MANIFEST.value)
    reader = ByteReader(memoryview(data)[OBJECT_HEADER.size :], what="manifest")
    try:
        body = _BODIES.decode(reader.take(reader.number(4)))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError("the manifest's body cannot be decoded") from error
    named = [(ObjectKind.PACK, entry) for entry in body.packs] + [(ObjectKind.INDEX, entry) for entry in body.segments]
    named += [(ObjectKind.KEY, session.envelope) for session in body.sessions]
    return iter((kind, entry.sha256) for kind, entry in named if len(entry.sha256) == SHA256_SIZE)
