"""Objects over presigned grants with the standard library's HTTP client.

A grant is one signed request: method, URL and all headers. Its URL is a secret for as long as it is valid, so it
is in no repr, exception or log; messages name the object's key only. One keep-alive connection per thread.

What we rely on, and therefore check: a stored object has a version id; 412 means the object is there (the
control plane compares it later); 200 with an error document is a failure; a read has exactly the length asked. An
answer that names another range, version or checksum than what was asked is one to an earlier request: something
between us and the store sent it twice, and the connection is given up with it.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import random
import re
import select
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from engine.errors import (
    CanceledError,
    EngineError,
    IntegrityError,
    StoreContractError,
    StoreDeniedError,
    StoreError,
    StoreNotFoundError,
)
from engine.hashing import sha256_hex
from engine.store.base import Buffer, ObjectRef, Pace

_Result = TypeVar("_Result")

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 30.0
_BACKOFF_FIRST_SECONDS = 0.2
_BACKOFF_MAX_SECONDS = 10.0
_REPLY_BYTES_MAX = 64 * 1024
_SLICE_BYTES = 64 * 1024
_VERSION_ID_MAX = 1024
_GRANTS_KEPT = 1024
_ERROR_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_TRANSIENT_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_TRANSIENT_CODES = frozenset({"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable"})


@dataclass(frozen=True, slots=True)
class Grant:
    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class PutSpec:
    key: str
    sha256: str
    md5_base64: str
    size_bytes: int


class GrantSource(Protocol):
    """Thread-safe. Answers with one grant per item, in order."""

    def grant_puts(self, specs: Sequence[PutSpec]) -> list[Grant]: ...

    def grant_gets(self, refs: Sequence[ObjectRef]) -> list[Grant]: ...


@dataclass(frozen=True, slots=True)
class HttpPolicy:
    """How long to try, and the outside world that tests replace."""

    retry_seconds: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    cancel: Callable[[], bool] = lambda: False
    tls: ssl.SSLContext | None = field(default=None, repr=False)


class _ExpiredGrantError(StoreDeniedError):
    """Refused; a fresh grant may help once."""


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


class GrantedSink:
    """PacedSink. Thread-safe."""

    def __init__(self, grants: GrantSource, *, policy: HttpPolicy | None = None) -> None:
        self._grants = grants
        self._policy = policy or HttpPolicy()
        self._client = _Client(self._policy)

    def put(self, *, key: str, data: Buffer, sha256: str) -> ObjectRef:
        return self.put_paced(key=key, data=data, sha256=sha256, pace=_full_speed)

    def put_paced(self, *, key: str, data: Buffer, sha256: str, pace: Pace) -> ObjectRef:
        spec = PutSpec(key=key, sha256=sha256, md5_base64=_md5_base64(data), size_bytes=len(data))
        if sha256_hex(data) != sha256:
            # After the MD5, which would otherwise vouch for bytes that changed in memory: some stores check only it.
            raise IntegrityError(
                f"{key} changed in memory after it was hashed; check this machine's memory", code="memory_fault"
            )

        def fresh_grant() -> Grant:
            return _only(self._grants.grant_puts([spec]), key)

        echoed = {"x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode("ascii")}

        def attempt(grant: Grant) -> ObjectRef:
            reply = self._client.request(grant, key=key, body=data, pace=pace, size_max=_REPLY_BYTES_MAX, echoed=echoed)
            return ObjectRef(key, sha256, len(data), _check_put(reply, key))

        return _with_retries(self._policy, key=key, grant=fresh_grant(), fresh_grant=fresh_grant, attempt=attempt)


class GrantedSource:
    """ObjectSource. Thread-safe; keeps the grants of recent objects for further ranges."""

    def __init__(self, grants: GrantSource, *, policy: HttpPolicy | None = None) -> None:
        self._grants = grants
        self._policy = policy or HttpPolicy()
        self._client = _Client(self._policy)
        self._kept: OrderedDict[tuple[str, str | None], Grant] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        expected = ref.size_bytes - offset if length is None else length
        if expected <= 0 or offset < 0 or offset + expected > ref.size_bytes:
            raise StoreError(f"a range outside of {ref.key} was asked for", code="bad_range")
        is_whole = expected == ref.size_bytes
        headers = {} if is_whole else {"Range": f"bytes={offset}-{offset + expected - 1}"}
        echoed = {} if is_whole else {"content-range": f"bytes {offset}-{offset + expected - 1}/{ref.size_bytes}"}
        if ref.version_id is not None:
            echoed["x-amz-version-id"] = ref.version_id

        def fresh_grant() -> Grant:
            return self._keep(ref, _only(self._grants.grant_gets([ref]), ref.key))

        def attempt(grant: Grant) -> bytes:
            reply = self._client.request(grant, key=ref.key, headers=headers, size_max=expected, echoed=echoed)
            return _check_get(reply, key=ref.key, status=200 if is_whole else 206, expected=expected)

        grant = self._recall(ref) or fresh_grant()
        return _with_retries(self._policy, key=ref.key, grant=grant, fresh_grant=fresh_grant, attempt=attempt)

    def _recall(self, ref: ObjectRef) -> Grant | None:
        with self._lock:
            return self._kept.get((ref.key, ref.version_id))

    def _keep(self, ref: ObjectRef, grant: Grant) -> Grant:
        with self._lock:
            self._kept[ref.key, ref.version_id] = grant
            self._kept.move_to_end((ref.key, ref.version_id))
            while len(self._kept) > _GRANTS_KEPT:
                self._kept.popitem(last=False)
        return grant


def _with_retries(
    policy: HttpPolicy,
    *,
    key: str,
    grant: Grant,
    fresh_grant: Callable[[], Grant],
    attempt: Callable[[Grant], _Result],
) -> _Result:
    """Repeat transient failures with full-jitter back-off until `retry_seconds` have passed.

    A refusal (403) is answered with one fresh grant, because a grant may simply have expired while waiting.
    """
    deadline = policy.clock() + policy.retry_seconds
    backoff_seconds = _BACKOFF_FIRST_SECONDS
    may_renew = True
    while True:
        if policy.cancel():
            raise CanceledError("canceled on request")
        try:
            return attempt(grant)
        except _ExpiredGrantError as error:
            if not may_renew:
                raise StoreDeniedError(error.message) from None
            may_renew = False
            grant = fresh_grant()
        except StoreError as error:
            delay_seconds = policy.jitter() * backoff_seconds
            if not error.transient or policy.clock() + delay_seconds >= deadline:
                raise
            policy.sleep(delay_seconds)
            backoff_seconds = min(backoff_seconds * 2, _BACKOFF_MAX_SECONDS)


class _WholeLines(io.BufferedReader):
    """http.client takes headers that end with the connection for whole ones: a version id could lack its end."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(line)
        return line


class _Response(http.client.HTTPResponse):
    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp = _WholeLines(self.fp.detach())


def _has_leftovers(connection: http.client.HTTPConnection) -> bool:
    """Whether something came behind the last answer: a second one, or the end. What is asked next needs a new one."""
    waiting = select.poll()
    waiting.register(connection.sock, select.POLLIN)
    return bool(waiting.poll(0))


class _Client:
    """One keep-alive connection per thread and origin. Foreign errors end here and carry no URL on."""

    def __init__(self, policy: HttpPolicy) -> None:
        self._policy = policy
        self._local = threading.local()

    def request(
        self,
        grant: Grant,
        *,
        key: str,
        body: Buffer | None = None,
        pace: Pace | None = None,
        headers: Mapping[str, str] | None = None,
        size_max: int,
        echoed: Mapping[str, str],
    ) -> _Reply:
        """One attempt. StoreError (transient) for every kind of connection trouble; errors of `pace` pass through.

        `echoed`: headers that a success has as here, if it has them at all; stores differ in which they send.
        """
        all_headers = {**grant.headers, **(headers or {})}
        slices = None
        if body is not None:
            slices = _slices(body, pace or _full_speed)
            # A body that is iterated has no length of its own; without this it would be sent chunked.
            if "content-length" not in {name.lower() for name in all_headers}:
                all_headers["Content-Length"] = str(len(body))
        try:
            reply = self._exchange(grant, slices, all_headers, size_max)
            _check_echoed(reply, key, echoed)
            return reply
        except EngineError:
            self._drop()
            raise
        except (http.client.InvalidURL, ValueError, UnicodeError) as error:
            self._drop()
            kind = type(error).__name__
            raise StoreContractError(f"the grant or the reply for {key} is malformed ({kind})") from None
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            kind = type(error).__name__
            message = f"the vault did not answer for {key} ({kind}); is its storage running? Then start it again"
            raise StoreError(message, code="store_unreachable", transient=True) from None

    def _exchange(
        self, grant: Grant, body: Iterator[memoryview] | None, headers: Mapping[str, str], size_max: int
    ) -> _Reply:
        parts = urlsplit(grant.url)
        connection = self._connect(parts.scheme, parts.hostname or "", parts.port)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        was_cut = False
        try:
            connection.request(grant.method, target, body=body, headers=dict(headers))
        except (BrokenPipeError, ConnectionResetError):
            # A store that refuses early closes its reading side; its answer may still be waiting for us.
            if connection.sock is None:
                raise
            was_cut = True
        response = connection.getresponse()
        limit = size_max if response.status in (200, 206) else _REPLY_BYTES_MAX
        data = response.read(limit + 1)
        reply = _Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, data)
        if was_cut or response.will_close or not response.isclosed():
            self._drop()
        return reply

    def _connect(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        origin = (scheme, host, port)
        if getattr(self._local, "origin", None) == origin and not _has_leftovers(self._kept()):
            return self._kept()
        self._drop()
        connection = self._new_connection(scheme, host, port)
        connection.response_class = _Response
        connection.connect()
        if connection.sock is not None:
            connection.sock.settimeout(IDLE_SECONDS)
        self._local.origin = origin
        self._local.connection = connection
        return connection

    def _new_connection(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if scheme == "https":
            context = self._policy.tls or ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=context)
        if scheme != "http":
            raise ValueError("unknown scheme")
        return http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)

    def _kept(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection = self._local.connection
        return connection

    def _drop(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        self._local.origin = self._local.connection = None
        if connection is not None:
            connection.close()


def _full_speed(_: int) -> None:
    pass


def _slices(body: Buffer, pace: Pace) -> Iterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(view), _SLICE_BYTES):
        part = view[start : start + _SLICE_BYTES]
        pace(len(part))
        yield part


def _check_put(reply: _Reply, key: str) -> str | None:
    """The version id; None when the object was there before (412)."""
    if reply.status == 412:
        return None
    _check_status(reply, key, expected=200)
    if b"<Error" in reply.body:
        code = _error_code(reply.body)
        raise StoreError(f"the store failed on {key} ({code})", code="store_failed", transient=True)
    version_id = reply.headers.get("x-amz-version-id", "")
    if not 0 < len(version_id) <= _VERSION_ID_MAX or version_id == "null":
        raise StoreContractError(f"the store gave no version id for {key}", code="no_version_id")
    return version_id


def _check_get(reply: _Reply, *, key: str, status: int, expected: int) -> bytes:
    if reply.status in (200, 206) and reply.status != status:
        raise StoreContractError(f"the store did not answer the range that was asked of {key}")
    _check_status(reply, key, expected=status)
    if len(reply.body) != expected:
        raise StoreError(f"{key} came with another length than expected", code="bad_length", transient=True)
    return reply.body


def _check_echoed(reply: _Reply, key: str, echoed: Mapping[str, str]) -> None:
    if reply.status in (200, 206) and any(reply.headers.get(name, value) != value for name, value in echoed.items()):
        message = f"the answer for {key} is one to another request; a proxy before the storage mixes answers up"
        raise StoreError(message, code="wrong_answer", transient=True)


def _check_status(reply: _Reply, key: str, *, expected: int) -> None:
    if reply.status == expected:
        return
    code = _error_code(reply.body)
    message = f"the store answered {reply.status} {code} for {key}"
    if code in _TRANSIENT_CODES or reply.status in _TRANSIENT_STATUS:
        raise StoreError(message, code="store_busy", transient=True)
    if reply.status in (401, 403):
        raise _ExpiredGrantError(message)
    if code == "BadDigest":
        raise StoreError(message, code="bad_digest")
    if reply.status == 404:
        raise StoreNotFoundError(message)
    raise StoreError(message, code="store_refused")


def _error_code(body: bytes) -> str:
    match = _ERROR_CODE.search(body[:_REPLY_BYTES_MAX])
    return match.group(1).decode("ascii") if match else "-"


def _only(grants: Sequence[Grant], key: str) -> Grant:
    if len(grants) != 1:
        raise StoreContractError(f"expected one grant for {key}, got {len(grants)}")
    return grants[0]


def _md5_base64(data: Buffer) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode("ascii")
