"""A network of its own for a program on this machine: it reaches a few ports of the loopback address through here, and
nothing else. It can be cut, and says what went through.

The program is started with `prefix`. Its sockets' network has only these listeners; whatever arrives is handed on from
the machine's own network.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

LOOPBACK = "127.0.0.1"
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_PART = 256 * 1024


class Network:
    """A context manager; needs root. Thread-safe."""

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = tuple(ports)
        # Bytes that the program sent, by port, and connections that it made.
        self.sent: Counter[int] = Counter()
        self.connections: Counter[int] = Counter()
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._refuses = False
        self._open: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Network:
        made: list[tuple[int, socket.socket]] = []
        self._inside(lambda: made.extend((port, _listener(port)) for port in self._ports))
        threading.Thread(target=self._loop.run_forever, name="network", daemon=True).start()
        self._do(self._serve(made))
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        os.close(self._namespace)

    @property
    def prefix(self) -> list[str]:
        """Before the words of a command."""
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self._namespace}"]

    def cut(self, *, silently: bool) -> None:
        """Connections break and new ones are refused; or nothing gets through any more and nobody is told."""
        self._do(self._cut(silently))

    def mend(self) -> None:
        self._do(self._mended())

    # --- inside -------------------------------------------------------------------------------------------------------

    def _inside(self, make: Callable[[], None]) -> None:
        """In a thread that ends with it: who has left the machine's network does not come back to it."""

        def run() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
            make()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _serve(self, made: list[tuple[int, socket.socket]]) -> None:
        self._flows.set()
        for port, listener in made:
            await asyncio.start_server(lambda *ends, port=port: self._hand_on(port, *ends), sock=listener)

    async def _cut(self, silently: bool) -> None:
        self._flows.clear()
        self._refuses = not silently
        if not silently:
            self._break()

    async def _mended(self) -> None:
        self._refuses = False
        self._flows.set()

    async def _ended(self) -> None:
        self._break()

    def _break(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _hand_on(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections[port] += 1
        if self._refuses:
            writer.transport.abort()
            return
        with suppress(OSError):
            await self._flows.wait()
            there, back = await asyncio.open_connection(LOOPBACK, port)
            self._open |= {writer, back}
            try:
                await asyncio.gather(self._pump(reader, back, port), self._pump(there, writer, None))
            finally:
                self._open -= {writer, back}
                back.transport.abort()
                writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, port: int | None) -> None:
        while part := await source.read(_PART):
            await self._flows.wait()
            if port is not None:
                self.sent[port] += len(part)
            sink.write(part)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()


def _listener(port: int) -> socket.socket:
    listener = socket.create_server((LOOPBACK, port), backlog=100)
    listener.setblocking(False)
    return listener
