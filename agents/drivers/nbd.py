"""A client for one export of an NBD server on a unix socket: reading, block status, writing. Standard library only.

Several requests are in flight inside of one call; a reply finds its request by the cookie. One call uses the
connection at a time, other threads wait. After a broken reply nothing is read from the connection any more.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from agents.drivers.base import DiskFullError, DiskUnreadableError
from agents.drivers.nbd_wire import (
    BLOCK_STATUS,
    DISCONNECT,
    FLAG_CAN_FLUSH,
    FLAG_CAN_ZERO,
    FLUSH,
    READ,
    WRITE,
    WRITE_ZEROES,
    NbdProtocolError,
    Reply,
    handshake,
    receive_reply,
    request,
)

_IN_FLIGHT = 8
_READ_STEP = 256 * 1024
_WRITE_STEP = 1024 * 1024
# A request has 32 bits for its length; a status of a full disk is one extent a request.
_LONG_STEP = 1 << 30
# A read can come in as many parts as it has sectors.
_REPLIES_MAX = _READ_STEP // 512 + 1
_SILENCE_SECONDS = 60.0

_Piece = tuple[int, int]
_TakeReply = Callable[[_Piece, Reply], None]


class NbdClient:
    """Connected when made. Every method raises DiskUnreadableError, the writing ones DiskFullError too."""

    def __init__(
        self, connection: socket.socket, *, export: str, contexts: Sequence[str] = (), name: str = "the disk"
    ) -> None:
        connection.settimeout(_SILENCE_SECONDS)
        self._socket = connection
        self._name = name
        self._lock = threading.Lock()
        self._broken = False
        self._cookie = 0
        facts = handshake(self._receive, self._send, export=export, contexts=contexts)
        self.size_bytes = facts.size_bytes
        self._flags = facts.flags
        self._contexts = {context: number for number, context in facts.contexts.items()}

    @classmethod
    def connect(cls, path: str, *, export: str, contexts: Sequence[str] = (), name: str = "the disk") -> NbdClient:
        """`path` is that of a unix socket; NbdProtocolError when there is no such export."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_SILENCE_SECONDS)
            connection.connect(path)
            return cls(connection, export=export, contexts=contexts, name=name)
        except OSError as error:
            connection.close()
            raise DiskUnreadableError(f"The NBD server of {name} cannot be reached: {error}.") from error
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Also while another thread waits for a reply: it gets an error."""
        if self._lock.acquire(blocking=False):
            with suppress(DiskUnreadableError, OSError):
                if not self._broken:
                    self._send(request(DISCONNECT, 0, 0, 0))
            self._lock.release()
        self._broken = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def answers(self) -> bool:
        """Whether the server is still there."""
        try:
            self.read(0, min(512, self.size_bytes))
        except DiskUnreadableError:
            return False
        return True

    def has_context(self, context: str) -> bool:
        return context in self._contexts

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        found = bytearray(length)
        covered: dict[int, list[tuple[int, int]]] = {}

        def take(piece: _Piece, reply: Reply) -> None:
            if reply.data is not None:
                start, end = reply.data[0], reply.data[0] + len(reply.data[1])
            elif reply.hole is not None:
                start, end = reply.hole[0], sum(reply.hole)
            elif reply.last:
                start = end = piece[0]
            else:
                raise NbdProtocolError(f"The NBD server of {self._name} answered a read with something else.")
            if not piece[0] <= start <= end <= sum(piece) or (start == end and not reply.last):
                raise NbdProtocolError(f"The NBD server of {self._name} sent data that was not asked for.")
            if reply.data is not None:
                found[start - offset : end - offset] = reply.data[1]
            parts = covered.setdefault(piece[0], [])
            parts.append((start, end))
            if reply.last and not _is_whole(piece, parts):
                raise NbdProtocolError(f"The NBD server of {self._name} did not send all that was asked for.")

        self._run(READ, _pieces(offset, length, _READ_STEP), take)
        return bytes(found)

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)

        def payload(piece: _Piece) -> memoryview:
            return view[piece[0] - offset : sum(piece) - offset]

        self._run(WRITE, _pieces(offset, len(data), _WRITE_STEP), self._take_nothing, payload=payload)

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros; the server may free its space."""
        if self._flags & FLAG_CAN_ZERO:
            self._run(WRITE_ZEROES, _pieces(offset, length, _LONG_STEP), self._take_nothing)
            return
        for start, step in _pieces(offset, length, _WRITE_STEP):
            self.write(start, bytes(step))

    def flush(self) -> None:
        if self._flags & FLAG_CAN_FLUSH:
            self._run(FLUSH, [(0, 0)], self._take_nothing)

    def statuses(self, context: str, offset: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int]]:
        """(offset, length, flags) of the context, ascending without gaps, neighbours with equal flags joined."""
        end = self.size_bytes if end is None else end
        last: tuple[int, int, int] | None = None
        while offset < end:
            for length, flags in self._status(context, offset, min(_LONG_STEP, end - offset)):
                if last is not None and last[2] == flags:
                    last = (last[0], last[1] + length, flags)
                else:
                    if last is not None:
                        yield last
                    last = (offset, length, flags)
                offset += length
        if last is not None:
            yield last

    def _status(self, context: str, offset: int, length: int) -> list[tuple[int, int]]:
        """The next extents from `offset`, cut to `length`; a server may tell of less than was asked."""
        number = self._contexts.get(context)
        if number is None:
            raise DiskUnreadableError(f"The NBD server of {self._name} does not offer {context}.")
        told: list[tuple[int, int]] = []

        def take(_: _Piece, reply: Reply) -> None:
            if reply.status is not None and reply.status[0] == number:
                told.extend(reply.status[1])
            elif reply.status is None and not reply.last:
                raise NbdProtocolError(f"The NBD server of {self._name} answered a status with something else.")

        self._run(BLOCK_STATUS, [(offset, length)], take)
        found, left = [], length
        for step, flags in told:
            if step == 0 or left == 0:
                raise NbdProtocolError(f"The NBD server of {self._name} told of extents that cannot be.")
            found.append((min(step, left), flags))
            left -= min(step, left)
        if not found:
            raise NbdProtocolError(f"The NBD server of {self._name} told of no extents.")
        return found

    def _run(
        self,
        kind: int,
        pieces: Iterable[_Piece],
        take: _TakeReply,
        *,
        payload: Callable[[_Piece], memoryview] | None = None,
    ) -> None:
        """Send requests for the pieces, a few ahead, and take their replies until each had its last."""
        with self._lock:
            try:
                failed = self._exchange(kind, iter(pieces), take, payload)
            except OSError as error:
                self._broken = True
                raise DiskUnreadableError(f"The NBD server of {self._name} is gone: {error}.") from error
            except BaseException:
                # Whatever it was: what comes next on the connection belongs to nobody.
                self._broken = True
                raise
        if failed is not None:
            raise _server_error(self._name, failed)

    def _exchange(
        self,
        kind: int,
        pieces: Iterator[_Piece],
        take: _TakeReply,
        payload: Callable[[_Piece], memoryview] | None,
    ) -> Reply | None:
        """The first error of the server, if there was one."""
        waiting: dict[int, _Piece] = {}
        failed: Reply | None = None
        replies_left = 0
        while True:
            # After an error what is in flight is still taken, so that the next call finds the connection in order.
            for piece in islice(pieces, _IN_FLIGHT - len(waiting) if failed is None else 0):
                self._cookie += 1
                waiting[self._cookie] = piece
                replies_left += _REPLIES_MAX
                self._send(request(kind, self._cookie, *piece))
                if payload is not None:
                    self._send(payload(piece))
            if not waiting:
                break
            reply = receive_reply(self._receive, data_max=_READ_STEP)
            replies_left -= 1
            if reply.cookie not in waiting or replies_left < 0:
                raise NbdProtocolError(f"The NBD server of {self._name} answered what was not asked.")
            if reply.errno:
                failed = failed or reply
            elif failed is None:
                take(waiting[reply.cookie], reply)
            if reply.last:
                del waiting[reply.cookie]
        return failed

    def _take_nothing(self, piece: _Piece, reply: Reply) -> None:
        if reply.data is not None or reply.hole is not None or reply.status is not None:
            raise NbdProtocolError(f"The NBD server of {self._name} answered a write with data.")

    def _receive(self, length: int) -> bytearray:
        if self._broken:
            raise DiskUnreadableError(f"The connection to the NBD server of {self._name} is closed.")
        buffer = bytearray(length)
        view, reached = memoryview(buffer), 0
        while reached < length:
            received = self._socket.recv_into(view[reached:])
            if not received:
                raise NbdProtocolError(f"The NBD server of {self._name} ended the connection.")
            reached += received
        return buffer

    def _send(self, data: bytes | memoryview) -> None:
        if self._broken:
            raise DiskUnreadableError(f"The connection to the NBD server of {self._name} is closed.")
        self._socket.sendall(data)


def _pieces(offset: int, length: int, step: int) -> Iterator[_Piece]:
    end = offset + length
    return ((start, min(step, end - start)) for start in range(offset, end, step))


def _is_whole(piece: _Piece, parts: list[tuple[int, int]]) -> bool:
    """Whether the parts cover the piece without overlapping."""
    reached = piece[0]
    for start, end in sorted(parts):
        if start != reached:
            return False
        reached = end
    return reached == sum(piece)


def _server_error(name: str, reply: Reply) -> DiskUnreadableError | DiskFullError:
    reason = reply.message or os.strerror(reply.errno)
    if reply.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"There is no space left where {name} lies: {reason}.")
    return DiskUnreadableError(f"The NBD server of {name} reports: {reason}.")
