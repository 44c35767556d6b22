"""What tests of notices share: a clock that only they move, real receivers on loopback, and a sender's tools."""

from __future__ import annotations

import http.server
import socketserver
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from common.guarded_http import post
from common.ssrf import Guard
from tenants.notices.sender import Tools
from tests.factories import NOTICE_KEY, a_moment

LOOPBACK = Guard.of("127.0.0.0/8")


@dataclass
class Clock:
    now: datetime = field(default_factory=lambda: a_moment("2026-03-02 10:00"))

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **parts: float) -> datetime:
        self.now += timedelta(**parts)
        return self.now


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what it gets and answers with its server's `status` and `text`."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server: Any = self.server
        server.seen.append((dict(self.headers), body))
        self.send_response(server.status)
        self.end_headers()
        self.wfile.write(server.text)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def receiver() -> Iterator[Any]:
    """A web server with `seen`, `status`, `text` and `url`."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.seen, server.status, server.text = [], 200, b"thanks"
    server.url = f"http://hook.test:{server.server_port}/in"
    with _serving(server):
        yield server


class MailReceiver(socketserver.StreamRequestHandler):
    """As much SMTP as one mail needs. Its server says how it answers to a receiver."""

    def handle(self) -> None:
        server: Any = self.server
        self._say(b"220 test")
        receivers: list[str] = []
        for line in self.rfile:
            verb = line[:4].upper().strip()
            if verb == b"DATA":
                self._say(b"354 go on")
                server.mails.append((receivers, self._data()))
                self._say(b"250 taken")
            elif verb == b"RCPT":
                receivers.append(line.decode().strip())
                self._say(server.answer_to_receiver)
            elif verb == b"QUIT":
                self._say(b"221 bye")
                return
            else:
                self._say(b"250 ok")

    def _data(self) -> str:
        lines = []
        for line in self.rfile:
            if line == b".\r\n":
                break
            lines.append(line)
        return b"".join(lines).decode()

    def _say(self, line: bytes) -> None:
        self.wfile.write(line + b"\r\n")


@contextmanager
def mail_receiver() -> Iterator[Any]:
    """An SMTP server with `mails` (receivers, text) and `answer_to_receiver`."""
    server: Any = socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailReceiver)
    server.mails, server.answer_to_receiver = [], b"250 ok"
    with _serving(server):
        yield server


@contextmanager
def _serving(server: Any) -> Iterator[None]:
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def on_loopback(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def tools(clock: Clock, **changes: Any) -> Tools:
    """Waits are as long as they can be; every name leads to this machine."""
    values = {"private_key": NOTICE_KEY, "guard": LOOPBACK, "clock": clock, "chance": lambda: 1.0}
    return Tools(**{**values, "poster": partial(post, resolve=on_loopback), **changes})
