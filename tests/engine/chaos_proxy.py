"""A TCP proxy before a store: each connection gets some answers through, and then comes to one kind of harm."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from types import TracebackType

KINDS = ("cut request", "lost answer", "cut answer", "doubled answer", "slow answer")
_PIECE = 64 * 1024


class ChaosProxy:
    """Use as a context manager. Which connection suffers what follows from the seed, so each kind has its turn."""

    def __init__(self, port: int, *, seed: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._count = 0
        self.done: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> ChaosProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in (self._listener, *self._open):
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open += [client, server]
                harm = _Harm(KINDS[self._count % len(KINDS)], self._random.randrange(1, 4), self.done)
                self._count += 1
                for pump in (harm.requests, harm.answers):
                    threading.Thread(target=pump, args=(client, server), daemon=True).start()


class _Harm:
    """What happens to one connection. After a cut both sides are closed.

    Only whole answers are doubled: a piece sent twice would be other content, which no network makes of what it was
    given, and which a reader may call damage when it meets it each time it reads.
    """

    def __init__(self, kind: str, after: int, done: Counter[str]) -> None:
        self._kind, self._left, self._done = kind, after, done
        self._answer = b""

    def requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(_PIECE):
                if self._kind == "cut request" and self._left <= 0:
                    server.sendall(data[: len(data) // 2])
                    break
                server.sendall(data)
            else:
                _close(server)
                return
            self._done[self._kind] += 1
        _close(client, server)

    def answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(_PIECE):
                self._left -= 1
                if self._kind == "doubled answer":
                    self._double(client, data)
                    continue
                if self._left < 0 and self._kind != "cut request":
                    if not self._pass_on(client, data):
                        break
                    continue
                client.sendall(data)
        _close(client, server)

    def _pass_on(self, client: socket.socket, data: bytes) -> bool:
        """Do the harm; whether the connection goes on."""
        self._done[self._kind] += 1
        if self._kind == "cut answer":
            client.sendall(data[: len(data) // 2])
        elif self._kind == "slow answer":
            for start in range(0, len(data), len(data) // 4 + 1):
                client.sendall(data[start : start + len(data) // 4 + 1])
                time.sleep(0.005)
            self._left = 2
        return self._kind == "slow answer"

    def _double(self, client: socket.socket, data: bytes) -> None:
        """Pass on, and once it is whole send the answer again, while the next request may be on its way already."""
        self._answer += data
        client.sendall(data)
        if _is_whole(self._answer):
            answer, self._answer = self._answer, b""
            if self._left < 0:
                self._left = 4
                self._done[self._kind] += 1
                client.sendall(answer)


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


def _close(*sockets: socket.socket) -> None:
    for found in sockets:
        with suppress(OSError):
            found.shutdown(socket.SHUT_RDWR)
