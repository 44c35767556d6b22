"""Serves one image over NBD, read-only, on a unix socket: whoever may open the socket reads any part of the image.

A thread for each client takes its requests; a few threads for all clients answer them, in any order. What cannot be
read is an error for the client (EIO), never zeros.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol

from agents.drivers.nbd_export import (
    Request,
    Terms,
    data_reply,
    error_reply,
    receive_request,
    refusal,
    status_reply,
    welcome,
)
from agents.drivers.nbd_wire import DISCONNECT, READ, NbdProtocolError

logger = logging.getLogger(__name__)

_CLIENTS_MAX = 16
_READERS = 4
_IN_FLIGHT = 8
_GREETING_SECONDS = 10.0
_SEND_SECONDS = 60


class ServedImage(Protocol):
    """Thread-safe. `extents` gives (bytes, whether a hole) of a range without gaps."""

    @property
    def size_bytes(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def extents(self, offset: int, length: int) -> Iterable[tuple[int, bool]]: ...


class NbdServer:
    """Serves while the block lasts. The socket is made with mode 0600; its folder is the caller's.

    `read_bytes` counts what clients were given, holes included; `failed_reads` what they could not be given.
    """

    def __init__(self, image: ServedImage, path: str) -> None:
        self._image = image
        self._path = path
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="nbd-read")
        self._lock = threading.Lock()
        self._clients: set[socket.socket] = set()
        self.read_bytes = self.failed_reads = 0

    def __enter__(self) -> NbdServer:
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        self._listening.bind(self._path)
        Path(self._path).chmod(0o600)
        self._listening.listen(_CLIENTS_MAX)
        threading.Thread(target=self._accept, name="nbd-accept", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        _hang_up(self._listening)
        with self._lock:
            for client in self._clients:
                _hang_up(client)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                is_welcome = len(self._clients) < _CLIENTS_MAX
                if is_welcome:
                    self._clients.add(client)
            if is_welcome:
                threading.Thread(target=self._serve, args=(client,), name="nbd-client", daemon=True).start()
            else:
                client.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            _Client(client, self._image, self._readers, self._count).serve()
        except NbdProtocolError as error:
            logger.info("an NBD client was let go", extra={"reason": error.message})
        except (OSError, RuntimeError):
            pass  # it is gone, or the server is being closed
        finally:
            with self._lock:
                self._clients.discard(client)
            client.close()

    def _count(self, length: int, *, failed: bool) -> None:
        with self._lock:
            self.failed_reads += failed
            self.read_bytes += 0 if failed else length


class _Client:
    def __init__(
        self, connection: socket.socket, image: ServedImage, readers: ThreadPoolExecutor, count: _Count
    ) -> None:
        self._socket, self._image, self._readers, self._count = connection, image, readers, count
        self._sending = threading.Lock()
        self._free = threading.BoundedSemaphore(_IN_FLIGHT)

    def serve(self) -> None:
        self._socket.settimeout(_GREETING_SECONDS)
        terms = welcome(self._receive, self._socket.sendall, size_bytes=self._image.size_bytes)
        # From here on it may be silent as long as it likes, but has to take what it asked for.
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_SECONDS, 0))
        while terms is not None:
            request = receive_request(self._receive)
            if request.kind == DISCONNECT:
                return
            self._free.acquire()
            self._readers.submit(self._answer, request, terms)

    def _answer(self, request: Request, terms: Terms) -> None:
        try:
            reply = self._reply(request, terms)
            with self._sending:
                for part in reply:
                    self._socket.sendall(part)
        except OSError:
            # Its own thread waits for a request that will not come.
            _hang_up(self._socket)
        finally:
            self._free.release()

    def _reply(self, request: Request, terms: Terms) -> Sequence[bytes]:
        if number := refusal(request, size_bytes=self._image.size_bytes, terms=terms):
            return error_reply(request, number, terms)
        try:
            if request.kind != READ:
                return status_reply(request, self._image.extents(request.offset, request.length))
            data = self._image.read(request.offset, request.length)
        except Exception as error:  # whatever it was: the client has to get an answer
            logger.warning("a part of an image cannot be served", extra={"offset": request.offset}, exc_info=error)
            self._count(request.length, failed=True)
            return error_reply(request, errno.EIO, terms)
        self._count(request.length, failed=False)
        return data_reply(request, data, terms)

    def _receive(self, length: int) -> bytearray:
        buffer = bytearray(length)
        view, reached = memoryview(buffer), 0
        while reached < length:
            received = self._socket.recv_into(view[reached:])
            if not received:
                raise ConnectionResetError
            reached += received
        return buffer


class _Count(Protocol):
    def __call__(self, length: int, *, failed: bool) -> None: ...


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    if connection.fileno() >= 0 and connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        connection.close()
