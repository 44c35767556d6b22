"""The HTTP store against a small real server that can be told to misbehave."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from engine.errors import CanceledError, EngineError, StoreContractError, StoreError, StoreNotFoundError
from engine.hashing import sha256_hex
from engine.store.base import ObjectRef
from engine.store.http import Grant, GrantedSink, GrantedSource, HttpPolicy, PutSpec
from tests.engine.support import ImageTarget, Vault, noise

KEY = "t/a/d/b/p/object"
SECRET = "X-Amz-Signature=deadbeef"


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.connections = 0
        # Each entry answers one request instead of the normal behaviour.
        self.script: list[Callable[[Handler], None]] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        self.body = self.rfile.read(int(self.headers["content-length"]))
        self._handle(self._put)

    def do_GET(self) -> None:
        self._handle(self._get)

    def _handle(self, normal: Callable[[], None]) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        if self.server.script:
            self.server.script.pop(0)(self)
        else:
            normal()

    def _put(self) -> None:
        name = self.path.split("?")[0]
        if name in self.server.objects:
            self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        self.server.objects[name] = self.body
        self.answer(200, b"", {"x-amz-version-id": "version-1"})

    def _get(self) -> None:
        data = self.server.objects.get(self.path.split("?")[0])
        if data is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        wanted = self.headers.get("range")
        if wanted is None:
            self.answer(200, data)
            return
        first, last = wanted.removeprefix("bytes=").split("-")
        self.answer(206, data[int(first) : int(last) + 1])

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def replies(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(status, body, headers)


def error(status: int, code: str) -> Callable[[Handler], None]:
    return replies(status, f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode())


def hang_up(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


class Grants:
    def __init__(self, server: Server) -> None:
        self._server = server
        self.asked = 0
        self.specs: list[PutSpec] = []

    def grant_puts(self, specs: list[PutSpec]) -> list[Grant]:
        self.specs += specs
        return [self._grant("PUT", spec.key, {"content-md5": spec.md5_base64}) for spec in specs]

    def grant_gets(self, refs: list[ObjectRef]) -> list[Grant]:
        return [self._grant("GET", ref.key, {}) for ref in refs]

    def _grant(self, method: str, key: str, headers: dict[str, str]) -> Grant:
        self.asked += 1
        port = self._server.server_address[1]
        return Grant(method, f"http://127.0.0.1:{port}/{key}?{SECRET}&n={self.asked}", headers)


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.sleeps: list[float] = []

    def clock(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.seconds += seconds


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def grants(server: Server) -> Grants:
    return Grants(server)


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def policy(fake_time: FakeTime) -> HttpPolicy:
    return HttpPolicy(sleep=fake_time.sleep, clock=fake_time.clock, jitter=lambda: 1.0)


@pytest.fixture
def sink(grants: Grants, policy: HttpPolicy) -> GrantedSink:
    return GrantedSink(grants, policy=policy)


@pytest.fixture
def source(grants: Grants, policy: HttpPolicy) -> GrantedSource:
    return GrantedSource(grants, policy=policy)


def put(sink: GrantedSink, data: bytes = b"data") -> ObjectRef:
    return sink.put(key=KEY, data=data, sha256=sha256_hex(data))


def ref_of(server: Server, data: bytes) -> ObjectRef:
    server.objects[f"/{KEY}"] = data
    return ObjectRef(KEY, sha256_hex(data), len(data), "version-1")


def test_a_put_stores_and_tells_the_version(server: Server, grants: Grants, sink: GrantedSink) -> None:
    data = noise(300_000)

    ref = sink.put(key=KEY, data=memoryview(data), sha256=sha256_hex(data))

    assert ref == ObjectRef(KEY, sha256_hex(data), len(data), "version-1")
    assert server.objects[f"/{KEY}"] == data
    md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    assert grants.specs == [PutSpec(KEY, sha256_hex(data), md5, len(data))]
    assert server.requests[0][2]["content-md5"] == md5


def test_one_connection_serves_many_requests(server: Server, sink: GrantedSink) -> None:
    for number in range(5):
        sink.put(key=f"{KEY}{number}", data=b"x", sha256=sha256_hex(b"x"))

    assert server.connections == 1


def test_an_object_that_exists_is_success_without_a_version(server: Server, sink: GrantedSink) -> None:
    put(sink)

    assert put(sink).version_id is None


@pytest.mark.parametrize(
    "trouble",
    [
        error(500, "InternalError"),
        error(503, "SlowDown"),
        error(429, "TooManyRequests"),
        error(400, "RequestTimeout"),
        error(200, "InternalError"),
        hang_up,
    ],
)
def test_passing_trouble_is_retried(
    server: Server, sink: GrantedSink, fake_time: FakeTime, trouble: Callable[[Handler], None]
) -> None:
    server.script = [trouble, trouble]

    assert put(sink).version_id == "version-1"
    assert fake_time.sleeps == [0.2, 0.4]


def test_lasting_trouble_ends_after_the_time_for_retries(
    server: Server, sink: GrantedSink, fake_time: FakeTime
) -> None:
    server.script = [error(503, "SlowDown")] * 100

    with pytest.raises(StoreError) as caught:
        put(sink)

    assert caught.value.transient
    assert 40 < fake_time.seconds < 60


def test_an_expired_grant_is_renewed_once(server: Server, grants: Grants, sink: GrantedSink) -> None:
    server.script = [error(403, "AccessDenied")]

    assert put(sink).version_id == "version-1"
    assert grants.asked == 2
    assert server.requests[0][1] != server.requests[1][1]


def test_a_second_refusal_is_final(server: Server, grants: Grants, sink: GrantedSink) -> None:
    server.script = [error(403, "AccessDenied")] * 2

    with pytest.raises(StoreError) as caught:
        put(sink)

    assert caught.value.code == "store_denied" and caught.value.permanent
    assert grants.asked == 2


@pytest.mark.parametrize("headers", [{}, {"x-amz-version-id": ""}, {"x-amz-version-id": "null"}])
def test_a_store_without_versions_breaks_the_contract(
    server: Server, sink: GrantedSink, headers: dict[str, str]
) -> None:
    server.script = [replies(200, b"", headers)]

    with pytest.raises(StoreContractError):
        put(sink)


def test_a_bad_digest_is_final(server: Server, sink: GrantedSink) -> None:
    server.script = [error(400, "BadDigest")]

    with pytest.raises(StoreError) as caught:
        put(sink)

    assert caught.value.code == "bad_digest" and caught.value.permanent


@pytest.mark.parametrize("status", [204, 301, 307, 400, 405, 411, 501])
def test_other_answers_to_a_put_are_refused(server: Server, sink: GrantedSink, status: int) -> None:
    server.script = [replies(status, b"" if status == 204 else b"\xff\xfe<Code>")]

    with pytest.raises(StoreError):
        put(sink)


def test_an_early_refusal_of_a_large_body_is_understood(server: Server, grants: Grants, sink: GrantedSink) -> None:
    server.script = [error(403, "SignatureDoesNotMatch")] * 2

    with pytest.raises(StoreError) as caught:
        put(sink, noise(1_000_000) * 8)

    assert caught.value.code == "store_denied"


def test_a_get_returns_the_whole_or_a_range(server: Server, grants: Grants, source: GrantedSource) -> None:
    data = noise(100_000)
    ref = ref_of(server, data)

    assert source.get(ref) == data
    assert source.get(ref, offset=5, length=10) == data[5:15]
    assert source.get(ref, offset=99_000) == data[99_000:]
    assert grants.asked == 1


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, 0), (0, 101), (100, None), (99, 2)])
def test_ranges_outside_of_the_object_are_not_asked(
    server: Server, source: GrantedSource, offset: int, length: int | None
) -> None:
    ref = ref_of(server, bytes(100))

    with pytest.raises(StoreError):
        source.get(ref, offset=offset, length=length)

    assert server.requests == []


def test_a_truncated_body_is_retried(server: Server, source: GrantedSource, fake_time: FakeTime) -> None:
    data = noise(100_000)
    ref = ref_of(server, data)

    def truncated(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:500])
        hang_up(handler)

    server.script = [truncated]

    assert source.get(ref) == data
    assert len(fake_time.sleeps) == 1


@pytest.mark.parametrize("length", [99, 101, 0])
def test_a_body_of_another_length_is_never_returned(server: Server, source: GrantedSource, length: int) -> None:
    ref = ref_of(server, bytes(100))
    server.script = [replies(200, bytes(length))] * 100

    with pytest.raises(StoreError):
        source.get(ref)


def test_a_store_that_ignores_ranges_breaks_the_contract(server: Server, source: GrantedSource) -> None:
    ref = ref_of(server, bytes(100))
    server.script = [replies(200, bytes(100))]

    with pytest.raises(StoreContractError):
        source.get(ref, offset=1, length=10)


def test_a_missing_object_is_told_apart(source: GrantedSource) -> None:
    with pytest.raises(StoreNotFoundError):
        source.get(ObjectRef(KEY, "0" * 64, 5, None))


def test_an_expired_read_grant_is_renewed(server: Server, grants: Grants, source: GrantedSource) -> None:
    ref = ref_of(server, b"12345")
    server.script = [error(403, "AccessDenied")]

    assert source.get(ref) == b"12345"
    assert grants.asked == 2


def test_garbage_instead_of_http_is_transient_trouble(server: Server, sink: GrantedSink) -> None:
    def garbage(handler: Handler) -> None:
        handler.wfile.write(b"\x00\x01 not http at all\r\n\r\n")
        hang_up(handler)

    server.script = [garbage]

    assert put(sink).version_id == "version-1"


def test_an_answer_that_ends_within_its_headers_is_none(server: Server, sink: GrantedSink) -> None:
    def cut(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nx-amz-version-id: vers")
        hang_up(handler)

    server.script = [cut]

    assert put(sink).version_id == "version-1"


def test_a_second_answer_to_one_request_is_not_taken_for_that_to_the_next(server: Server, sink: GrantedSink) -> None:
    is_read, is_sent = threading.Event(), threading.Event()

    def twice(handler: Handler) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nx-amz-version-id: of another\r\n\r\n"
        handler.wfile.write(answer)
        is_read.wait(60)
        handler.wfile.write(answer)
        is_sent.set()

    server.script = [twice]
    assert put(sink).version_id == "of another"
    is_read.set()
    assert is_sent.wait(60)

    assert put(sink).version_id == "version-1"


@pytest.mark.parametrize(
    ("offset", "length", "stale"),
    [
        (2, 4, replies(206, b"xxxx", {"Content-Range": "bytes 4-7/10"})),
        (2, 4, replies(206, b"xxxx", {"Content-Range": "bytes 2-5/11"})),
        (2, 4, replies(206, b"xxxx", {"Content-Range": "bytes 2-5/10", "x-amz-version-id": "version-2"})),
        (0, 10, replies(200, b"x" * 10, {"x-amz-version-id": "version-2"})),
    ],
    ids=["other range", "other size", "other version of a range", "other version"],
)
def test_an_answer_to_another_read_is_not_taken(
    server: Server, source: GrantedSource, offset: int, length: int, stale: Callable[[Handler], None]
) -> None:
    ref = replace(ref_of(server, b"0123456789"), version_id="version-1")
    server.script = [stale]

    assert source.get(ref, offset=offset, length=length) == b"0123456789"[offset : offset + length]
    assert server.connections == 2, "the connection that mixed answers up was used again"


def test_an_answer_to_another_put_is_not_taken(server: Server, sink: GrantedSink) -> None:
    server.script = [replies(200, b"", {"x-amz-version-id": "of another", "x-amz-checksum-sha256": "A" * 43 + "="})]

    assert put(sink).version_id == "version-1"
    assert server.connections == 2, "the connection that mixed answers up was used again"


def test_a_cancel_is_honoured_between_attempts(server: Server, grants: Grants, fake_time: FakeTime) -> None:
    policy = HttpPolicy(
        sleep=fake_time.sleep, clock=fake_time.clock, cancel=lambda: fake_time.seconds > 1, jitter=lambda: 1.0
    )
    server.script = [error(503, "SlowDown")] * 100

    with pytest.raises(CanceledError):
        put(GrantedSink(grants, policy=policy))

    assert fake_time.seconds < 5


def test_no_signature_is_in_any_message_or_repr(server: Server, grants: Grants, policy: HttpPolicy) -> None:
    class BrokenGrants(Grants):
        def __init__(self, url: str) -> None:
            self.url = url

        def grant_puts(self, specs: list[PutSpec]) -> list[Grant]:
            return [Grant("PUT", self.url, {})]

    shown = [repr(Grant("PUT", f"http://x/?{SECRET}", {"h": SECRET}))]
    urls = [f"ftp://h/{SECRET}", f"http://h:bad/{SECRET}", f"http://127.0.0.1:1/{SECRET}", f"http://h\n/{SECRET} x"]
    for url in urls:
        with pytest.raises(EngineError) as caught:
            put(GrantedSink(BrokenGrants(url), policy=policy))
        shown.append(repr(caught.value) + str(caught.value.__cause__))
        assert caught.value.__suppress_context__
    server.script = [error(403, "AccessDenied")] * 2
    with pytest.raises(EngineError) as refused:
        put(GrantedSink(grants, policy=policy))
    shown.append(repr(refused.value))

    assert not any("Signature" in text or "127.0.0.1" in text for text in shown)


def test_a_whole_backup_goes_and_comes_back_over_http(sink: GrantedSink, source: GrantedSource) -> None:
    vault = Vault()
    image = noise(100_000)
    result = vault.write(image, sink=sink)
    vault.store = source
    target = ImageTarget(len(image))

    vault.restore(result.manifest, target)

    assert target.data == image
