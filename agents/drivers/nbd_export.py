"""The NBD protocol as a server of one read-only export: what a client may ask, and what it is told. Pure.

Fixed newstyle handshake, simple and structured replies, `base:allocation`. A client is not trusted: what it sends is
bounded before it is read, and what does not follow the protocol ends its connection.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agents.drivers.nbd_wire import (
    ACK,
    BLOCK_STATUS,
    CHUNK,
    CHUNK_DATA,
    CHUNK_ERROR,
    CHUNK_MAGIC,
    CHUNK_STATUS,
    EXTENT,
    FIXED_NEWSTYLE,
    GREETING,
    INFO,
    LAST_CHUNK,
    META_CONTEXT,
    NO_ZEROES,
    OPTION_ERROR,
    OPTION_GO,
    OPTION_MAGIC,
    OPTION_META,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    OPTION_STRUCTURED,
    READ,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_MAGIC,
    WRITE,
    NbdProtocolError,
    Receive,
    Send,
)

ALLOCATION = "base:allocation"
READ_MAX = 32 * 1024 * 1024
_CONTEXT_ID = 1
_HOLE = 0x3
_EXTENTS_MAX = 4096
# Has flags, read-only, and the same for every connection.
_EXPORT_FLAGS = 0x1 | 0x2 | 0x100
_EXPORT_NAME, _ABORT, _LIST, _INFO_ONLY, _LIST_META = 1, 2, 3, 6, 9
_SERVER, _BLOCK_SIZES = 2, 3
_UNSUPPORTED, _INVALID = 1, 3
_OPTION_MAX, _OPTIONS_MAX = 65536, 64
_ONE_EXTENT = 0x8
_PREFERRED_BLOCK = 65536


@dataclass(frozen=True, slots=True)
class Terms:
    """What a client settled with the server."""

    structured: bool = False
    tells_allocation: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    kind: int
    flags: int
    cookie: int
    offset: int
    length: int


def welcome(receive: Receive, send: Send, *, size_bytes: int) -> Terms | None:
    """Until the client has chosen the export, whatever it calls it; None when it leaves before."""
    send(GREETING.pack(b"NBDMAGIC", OPTION_MAGIC, FIXED_NEWSTYLE | NO_ZEROES))
    (flags,) = struct.unpack(">I", receive(4))
    if flags & ~(FIXED_NEWSTYLE | NO_ZEROES) or not flags & FIXED_NEWSTYLE:
        raise NbdProtocolError("The client does not speak the fixed newstyle.")
    structured = allocation = False
    for _ in range(_OPTIONS_MAX):
        option, payload = _option(receive)
        if option == _EXPORT_NAME:
            send(struct.pack(">QH", size_bytes, _EXPORT_FLAGS) + (b"" if flags & NO_ZEROES else bytes(124)))
            return Terms(structured, allocation)
        kinds = _answers(option, payload, size_bytes)
        for kind, body in kinds:
            send(OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(body)) + body)
        if option == _ABORT:
            return None
        is_taken = kinds[-1][0] == ACK
        structured = structured or (option == OPTION_STRUCTURED and is_taken)
        if option == OPTION_META and is_taken:
            allocation = len(kinds) > 1
        if option == OPTION_GO and is_taken:
            return Terms(structured, structured and allocation)
    raise NbdProtocolError("The client sent too many options.")


def receive_request(receive: Receive) -> Request:
    """The next request; what a client would write is received and dropped."""
    magic, flags, kind, cookie, offset, length = REQUEST.unpack(receive(REQUEST.size))
    if magic != REQUEST_MAGIC:
        raise NbdProtocolError("The client sent something that is no request.")
    if kind == WRITE:
        if length > READ_MAX:
            raise NbdProtocolError("The client sent more than a request may carry.")
        receive(length)
    return Request(kind, flags, cookie, offset, length)


def refusal(request: Request, *, size_bytes: int, terms: Terms) -> int:
    """The error that the request gets whatever the image holds; 0 when it may be answered."""
    if request.kind == BLOCK_STATUS and not terms.tells_allocation:
        return errno.EINVAL
    if request.kind not in (READ, BLOCK_STATUS):
        return errno.EPERM
    if request.length == 0 or request.offset + request.length > size_bytes:
        return errno.EINVAL
    return errno.EINVAL if request.kind == READ and request.length > READ_MAX else 0


def data_reply(request: Request, data: bytes, terms: Terms) -> Sequence[bytes]:
    if not terms.structured:
        return [struct.pack(">IIQ", SIMPLE_MAGIC, 0, request.cookie), data]
    return [_chunk(request, CHUNK_DATA, 8 + len(data)) + struct.pack(">Q", request.offset), data]


def status_reply(request: Request, extents: Iterable[tuple[int, bool]]) -> Sequence[bytes]:
    """Of (bytes, whether a hole); of as many as one reply holds, neighbours that are alike joined."""
    told: list[tuple[int, int]] = []
    for length, is_hole in extents:
        flags = _HOLE if is_hole else 0
        if told and told[-1][1] == flags:
            told[-1] = told[-1][0] + length, flags
        elif len(told) == (1 if request.flags & _ONE_EXTENT else _EXTENTS_MAX):
            break
        else:
            told.append((length, flags))
    payload = struct.pack(">I", _CONTEXT_ID) + b"".join(EXTENT.pack(*extent) for extent in told)
    return [_chunk(request, CHUNK_STATUS, len(payload)) + payload]


def error_reply(request: Request, number: int, terms: Terms) -> Sequence[bytes]:
    if not terms.structured:
        return [struct.pack(">IIQ", SIMPLE_MAGIC, number, request.cookie)]
    payload = struct.pack(">IH", number, 0)
    return [_chunk(request, CHUNK_ERROR | 1, len(payload)) + payload]


def _chunk(request: Request, kind: int, length: int) -> bytes:
    return struct.pack(">I", CHUNK_MAGIC) + CHUNK.pack(LAST_CHUNK, kind, request.cookie, length)


def _option(receive: Receive) -> tuple[int, bytes]:
    magic, option, length = struct.unpack(">8sII", receive(16))
    if magic != OPTION_MAGIC or length > _OPTION_MAX:
        raise NbdProtocolError("The client sent something that is no option.")
    return option, bytes(receive(length))


def _answers(option: int, payload: bytes, size_bytes: int) -> list[tuple[int, bytes]]:
    """(kind, body) of each; the last one is the acknowledgement or an error."""
    if option in (_ABORT, OPTION_STRUCTURED):
        return [(ACK, b"")]
    if option == _LIST:
        return [(_SERVER, struct.pack(">I", 0)), (ACK, b"")]
    if option in (_INFO_ONLY, OPTION_GO):
        export = struct.pack(">HQH", 0, size_bytes, _EXPORT_FLAGS)
        blocks = struct.pack(">HIII", _BLOCK_SIZES, 1, _PREFERRED_BLOCK, READ_MAX)
        return [(INFO, export), (INFO, blocks), (ACK, b"")]
    if option in (OPTION_META, _LIST_META):
        try:
            queries = list(_queries(payload))
        except (struct.error, ValueError):
            return [(OPTION_ERROR | _INVALID, b"")]
        wanted = {ALLOCATION, "base:"} if option == _LIST_META else {ALLOCATION}
        is_meant = bool(wanted & set(queries)) or (option == _LIST_META and not queries)
        context = struct.pack(">I", _CONTEXT_ID) + ALLOCATION.encode()
        return [*([(META_CONTEXT, context)] if is_meant else []), (ACK, b"")]
    return [(OPTION_ERROR | _UNSUPPORTED, b"")]


def _queries(payload: bytes) -> Iterator[str]:
    (length,) = struct.unpack_from(">I", payload, 0)
    at = 4 + length
    (count,) = struct.unpack_from(">I", payload, at)
    at += 4
    for _ in range(count):
        (length,) = struct.unpack_from(">I", payload, at)
        text = payload[at + 4 : at + 4 + length]
        if len(text) != length:
            raise ValueError("cut")
        yield text.decode()
        at += 4 + length
