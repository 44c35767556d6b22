"""The NBD protocol as bytes: what is sent, and what may come back. Pure; the socket is the caller's.

Fixed newstyle handshake and structured replies, after the protocol text of the NBD project. A server is not trusted:
every length is bounded before anything is read for it, and what does not follow the protocol is NbdProtocolError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from agents.drivers.base import DiskUnreadableError

# Gives exactly so many bytes, or raises.
Receive = Callable[[int], bytes | bytearray]
Send = Callable[[bytes], None]

READ, WRITE, DISCONNECT, FLUSH, WRITE_ZEROES, BLOCK_STATUS = 0, 1, 2, 3, 6, 7
FLAG_READ_ONLY, FLAG_CAN_FLUSH, FLAG_CAN_ZERO = 0x2, 0x4, 0x40

GREETING = struct.Struct(">8s8sH")
OPTION_REPLY = struct.Struct(">QIII")
REQUEST = struct.Struct(">IHHQQI")
CHUNK = struct.Struct(">HHQI")
EXTENT = struct.Struct(">II")
OPTION_MAGIC, OPTION_REPLY_MAGIC = b"IHAVEOPT", 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_MAGIC, CHUNK_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
OPTION_STRUCTURED, OPTION_META, OPTION_GO = 8, 10, 7
ACK, INFO, META_CONTEXT, OPTION_ERROR = 1, 3, 4, 0x80000000
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
CHUNK_NONE, CHUNK_DATA, _CHUNK_HOLE, CHUNK_STATUS, CHUNK_ERROR = 0, 1, 2, 5, 0x8000
LAST_CHUNK = 1
_OPTION_REPLY_MAX, _OPTION_REPLIES_MAX = 65536, 64
_ERROR_MAX, _STATUS_MAX = 8192, 4 + EXTENT.size * 131072


class NbdProtocolError(DiskUnreadableError):
    """The server does not keep to the protocol; the connection cannot be used any more."""


@dataclass(frozen=True, slots=True)
class ExportFacts:
    """What the handshake told. `contexts` maps ids of block status to names."""

    size_bytes: int
    flags: int
    contexts: dict[int, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """One message of the server. `errno` is 0 or the server's error; `statuses` are (context id, [(length, flags)])."""

    cookie: int
    last: bool
    errno: int = 0
    message: str = ""
    data: tuple[int, bytes | bytearray] | None = field(default=None, repr=False)
    hole: tuple[int, int] | None = None
    status: tuple[int, Sequence[tuple[int, int]]] | None = None


def handshake(receive: Receive, send: Send, *, export: str, contexts: Sequence[str]) -> ExportFacts:
    """Choose the export. A context that the server does not have is left out; a missing export is an error."""
    magic, option_magic, flags = GREETING.unpack(receive(GREETING.size))
    if magic != b"NBDMAGIC" or option_magic != OPTION_MAGIC or not flags & FIXED_NEWSTYLE:
        raise NbdProtocolError("This is no NBD server that can be used: it does not speak the fixed newstyle.")
    send(struct.pack(">I", FIXED_NEWSTYLE | (flags & NO_ZEROES)))
    list(_option(receive, send, OPTION_STRUCTURED, b""))
    name = _text(export)
    found: dict[int, str] = {}
    if contexts:
        asked = name + struct.pack(">I", len(contexts)) + b"".join(map(_text, contexts))
        for kind, payload in _option(receive, send, OPTION_META, asked):
            if kind == META_CONTEXT:
                number, context = _context(payload)
                if context not in contexts or number in found:
                    raise NbdProtocolError("The NBD server named a context that was not asked for.")
                found[number] = context
    size_bytes, export_flags = _export_info(_option(receive, send, OPTION_GO, name + struct.pack(">H", 0)))
    return ExportFacts(size_bytes, export_flags, found)


def request(kind: int, cookie: int, offset: int, length: int) -> bytes:
    return REQUEST.pack(REQUEST_MAGIC, 0, kind, cookie, offset, length)


def receive_reply(receive: Receive, *, data_max: int) -> Reply:
    """The next message. `data_max` bounds the data that one message may carry."""
    (magic,) = struct.unpack(">I", receive(4))
    if magic == SIMPLE_MAGIC:
        errno, cookie = struct.unpack(">IQ", receive(12))
        return Reply(cookie, last=True, errno=errno)
    if magic != CHUNK_MAGIC:
        raise NbdProtocolError("The NBD server sent something that is no reply.")
    flags, kind, cookie, length = CHUNK.unpack(receive(CHUNK.size))
    return _chunk(receive, bool(flags & LAST_CHUNK), kind, cookie, length, data_max)


def _chunk(receive: Receive, last: bool, kind: int, cookie: int, length: int, data_max: int) -> Reply:
    if kind == CHUNK_DATA and 8 < length <= 8 + data_max:
        (offset,) = struct.unpack(">Q", receive(8))
        return Reply(cookie, last, data=(offset, receive(length - 8)))
    if kind == _CHUNK_HOLE and length == 12:
        offset, hole_length = struct.unpack(">QI", receive(12))
        return Reply(cookie, last, hole=(offset, hole_length))
    if kind == CHUNK_STATUS and 12 <= length <= _STATUS_MAX and (length - 4) % EXTENT.size == 0:
        payload = receive(length)
        return Reply(cookie, last, status=(int.from_bytes(payload[:4]), list(EXTENT.iter_unpack(payload[4:]))))
    if kind == CHUNK_NONE and length == 0 and last:
        return Reply(cookie, last)
    if kind & CHUNK_ERROR and 6 <= length <= _ERROR_MAX:
        payload = receive(length)
        errno, text_length = struct.unpack(">IH", payload[:6])
        text = payload[6 : 6 + text_length].decode("utf-8", "replace")
        return Reply(cookie, last, errno=errno or 5, message=text)
    raise NbdProtocolError(f"The NBD server sent a reply of kind {kind} with {length} bytes.")


def _option(receive: Receive, send: Send, option: int, payload: bytes) -> Iterator[tuple[int, bytes | bytearray]]:
    """Replies to an option, without the closing acknowledgement."""
    send(OPTION_MAGIC + struct.pack(">II", option, len(payload)) + payload)
    for _ in range(_OPTION_REPLIES_MAX):
        magic, echoed, kind, length = OPTION_REPLY.unpack(receive(OPTION_REPLY.size))
        if magic != OPTION_REPLY_MAGIC or echoed != option or length > _OPTION_REPLY_MAX:
            raise NbdProtocolError("The NBD server sent something that is no reply to an option.")
        body = receive(length)
        if kind & OPTION_ERROR:
            text = body.decode("utf-8", "replace")
            raise NbdProtocolError(f"The NBD server refuses option {option} (code {kind ^ OPTION_ERROR}): {text}")
        if kind == ACK:
            return
        yield kind, body
    raise NbdProtocolError("The NBD server sent too many replies to an option.")


def _export_info(replies: Iterator[tuple[int, bytes | bytearray]]) -> tuple[int, int]:
    found: tuple[int, int] | None = None
    for kind, payload in replies:
        if kind == INFO and payload[:2] == b"\0\0":
            if len(payload) != 12:
                raise NbdProtocolError("The NBD server describes its export in a wrong length.")
            size_bytes, flags = struct.unpack(">QH", payload[2:])
            found = size_bytes, flags
    if found is None or found[0] >= 1 << 63:
        raise NbdProtocolError("The NBD server does not say how large its export is.")
    return found


def _context(payload: bytes | bytearray) -> tuple[int, str]:
    if len(payload) < 4:
        raise NbdProtocolError("The NBD server named a context in a wrong length.")
    return int.from_bytes(payload[:4]), payload[4:].decode("utf-8", "replace")


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">I", len(encoded)) + encoded
