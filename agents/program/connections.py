"""Connections to one HTTP server, kept while they are soon used again. Thread-safe; one call at a time on each.

No call is sent twice that may not be. A kept connection that the server has closed is noticed before anything is sent;
one that breaks under a call is tried anew, once, only where the call may be made twice.
"""

from __future__ import annotations

import http.client
import select
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message

# Less than servers and firewalls wait, so that hardly a call meets a connection that is being closed.
IDLE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Call:
    """`may_repeat`: it does no harm when the server gets it twice."""

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    may_repeat: bool

    def __repr__(self) -> str:
        return f"Call({self.method} {self.path})"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Message
    content: bytes


class KeptConnections:
    """`connect` gives an open connection and has checked whose it is: nothing here connects by itself."""

    def __init__(
        self,
        connect: Callable[[], http.client.HTTPConnection],
        *,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)

    def ask(self, call: Call, *, most_bytes: int) -> Answer:
        """The answer, its content cut at `most_bytes`. Raises OSError, HTTPException, and what `connect` raises."""
        kept = self._take()
        if kept is not None:
            try:
                return self._asked(kept, call, most_bytes)
            except ConnectionError:
                if not call.may_repeat:
                    raise
        connection = self._connect()
        # http.client would connect again unasked, and nobody would look whose key is shown then.
        connection.auto_open = 0
        return self._asked(connection, call, most_bytes)

    def _take(self) -> http.client.HTTPConnection | None:
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if self._clock() - since <= IDLE_SECONDS and _is_open(connection):
                    return connection
                connection.close()
        return None

    def _asked(self, connection: http.client.HTTPConnection, call: Call, most_bytes: int) -> Answer:
        is_kept = False
        try:
            connection.request(call.method, call.path, body=call.body, headers=dict(call.headers))
            answer = connection.getresponse()
            content = answer.read(most_bytes)
            if answer.length and len(content) < most_bytes:
                # Read piece by piece, http.client takes a broken connection for the end of the answer.
                raise http.client.IncompleteRead(content, answer.length)
            is_kept = answer.isclosed() and not answer.will_close
        finally:
            if not is_kept:
                connection.close()
        with self._lock:
            if is_kept:
                self._idle.append((self._clock(), connection))
        return Answer(answer.status, answer.headers, content)


def _is_open(connection: http.client.HTTPConnection) -> bool:
    """Nothing was asked, so whatever can be read is the end of the connection, or nothing of ours."""
    if connection.sock is None:
        return False
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return not poll.poll(0)


def _close_all(idle: list[tuple[float, http.client.HTTPConnection]]) -> None:
    while idle:
        idle.pop()[1].close()
