"""A store that breaks one promise: a proxy in front of the real server that changes some of its answers.

The Host header is passed on, so signatures stay what they were. A lie sees the request and the true answer.
"""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

_HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str:
        return self.path.lstrip("/").partition("/")[2]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def without(self, *names: str) -> Answer:
        return replace(self, headers={name: value for name, value in self.headers.items() if name not in names})

    def having(self, **headers: str) -> Answer:
        return replace(self, headers={**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}})


class Silence(Exception):
    """The store never answers this request."""


Lie = Callable[[Request, Answer], Answer]
OBEYED = Answer(200, {}, b"")
DELETED = Answer(204, {}, b"")
STORED = Answer(200, {"x-amz-version-id": "made-up", "etag": '"00"'}, b"")


class LyingStore:
    """A context manager; `url` is the endpoint, `lie` what it does now (a new URL would need new clients)."""

    def __init__(self, true_url: str) -> None:
        self._true = urlsplit(true_url)
        self.lie: Lie = lambda request, true: true
        self._closing = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: Request, target: str) -> Answer:
        try:
            return self.lie(request, self._ask(request, target))
        except Silence:
            self._closing.wait(30)
            raise

    def _ask(self, request: Request, target: str) -> Answer:
        connection = http.client.HTTPConnection(self._true.hostname or "", self._true.port, timeout=20)
        try:
            connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.endheaders(request.body or None)
            told = connection.getresponse()
            headers = {name.lower(): value for name, value in told.getheaders() if name.lower() not in _HOP}
            return Answer(told.status, headers, told.read())
        finally:
            connection.close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self._body()
                parts = urlsplit(self.path)
                headers = {
                    name.lower(): value for name, value in self.headers.items() if name.lower() not in {*_HOP, "expect"}
                }
                query = parse_qs(parts.query, keep_blank_values=True)
                request = Request(self.command, parts.path, query, headers, body)
                try:
                    answer = store.answer(request, self.path)
                except Silence:
                    self.close_connection = True
                    return
                self._send(answer)

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _send(self, answer: Answer) -> None:
                self.send_response_only(answer.status)
                length = answer.headers.get("content-length", "0") if self.command == "HEAD" else str(len(answer.body))
                for name, value in {**answer.headers, "content-length": length}.items():
                    if not (answer.status == 204 and name == "content-length"):
                        self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            def log_message(self, *parts: Any) -> None:
                pass

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

        return Handler
