"""Client of the session gate: what a mover may ask the control plane during one session.

One client serves all threads of a session, which share its connections. Calls are retried while the gate cannot be
reached; each can be made twice.
"""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from agents import protocol
from agents.program.connections import Answer, Call, KeptConnections
from engine.store.base import ObjectRef
from engine.store.http import Grant, PutSpec

_TIMEOUT_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
T = TypeVar("T")


class GateError(Exception):
    """Root of what the gate can answer other than success."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class GateUnreachableError(GateError):
    """The control plane did not answer within the time for retries."""


class SessionEndedError(GateError):
    """The session is over: its lease was lost, it was taken over, or it was ended by the control plane."""


class GateRefusedError(GateError):
    """The control plane refuses this call for good."""


class SessionClient:
    """Speaks for one session. The token is never shown."""

    def __init__(
        self,
        *,
        gate_url: str,
        token: str,
        retry_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        connect: Callable[[], http.client.HTTPConnection] | None = None,
    ) -> None:
        self._host = urlsplit(gate_url).hostname or ""
        self._folder = urlsplit(gate_url).path.rstrip("/")
        self._connections = KeptConnections(connect or partial(_open, gate_url))
        self._token = token
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"SessionClient(host={self._host!r})"

    def open(self) -> protocol.Work:
        return self._call("open", protocol.OpenRequest(tells_target=True), protocol.Work)  # type: ignore[arg-type]  # a union is no type object

    def heartbeat(self, progress: protocol.Progress) -> protocol.HeartbeatAnswer:
        return self._call("heartbeat", progress, protocol.HeartbeatAnswer)

    def grant_puts(self, specs: Sequence[PutSpec]) -> list[Grant]:
        messages = [protocol.PutSpecMessage(spec.key, spec.sha256, spec.md5_base64, spec.size_bytes) for spec in specs]
        answer = self._call("grants/put", protocol.PutGrantsRequest(messages), protocol.GrantsAnswer)
        return [Grant(method=grant.method, url=grant.url, headers=grant.headers) for grant in answer.grants]

    def grant_gets(self, refs: Sequence[ObjectRef]) -> list[Grant]:
        objects = [to_message(ref) for ref in refs]
        answer = self._call("grants/get", protocol.GetGrantsRequest(objects), protocol.GrantsAnswer)
        return [Grant(method=grant.method, url=grant.url, headers=grant.headers) for grant in answer.grants]

    def commit(self, request: protocol.CommitRequest) -> None:
        self._call("commit", request, protocol.Refusal)

    def target_opened(self, opened: protocol.TargetOpened) -> None:
        self._call("target-opened", opened, protocol.Refusal)

    def copied(self, done: protocol.CopyDone) -> None:
        self._call("copied", done, protocol.Refusal)

    def copy_checked(self, checked: protocol.CopyChecked) -> None:
        self._call("copy-checked", checked, protocol.Refusal)

    def serving(self, opened: protocol.Serving) -> None:
        self._call("serving", opened, protocol.Refusal)

    def serve_done(self, done: protocol.ServeDone) -> None:
        self._call("serve-done", done, protocol.Refusal)

    def restore_written(self) -> protocol.DefineOrder:
        return self._call("restore-written", None, protocol.DefineOrder)

    def restore_done(self, done: protocol.RestoreDone) -> None:
        self._call("restore-done", done, protocol.Refusal)

    def fail(self, failure: protocol.Failure) -> None:
        self._call("fail", failure, protocol.Refusal)

    def _call(self, path: str, message: msgspec.Struct | None, answer_type: type[T]) -> T:
        body = msgspec.json.encode(message) if message is not None else b"{}"
        give_up_at = self._clock() + self._retry_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                status, content = self._post(path, body)
            except (OSError, http.client.HTTPException):
                status, content = 0, b""
            if status in {200, 202}:
                return msgspec.json.decode(content, type=answer_type)
            if status not in {0, 429, 500, 502, 503, 504}:
                raise _refusal(status, content)
            if self._clock() >= give_up_at:
                raise _gave_up(status, content)
            self._sleep(random.uniform(0, pause))  # noqa: S311  # jitter, no secret
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        answer = self._sent(protocol.PATH_PREFIX + path, body, {})
        return answer.status, answer.content

    def _sent(self, address: str, body: bytes, more: Mapping[str, str]) -> Answer:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json", **more}
        call = Call("POST", self._folder + address, body, headers, may_repeat=True)
        return self._connections.ask(call, most_bytes=protocol.LARGEST_MESSAGE_BYTES)


def _open(gate_url: str) -> http.client.HTTPConnection:
    parts = urlsplit(gate_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)
    connection.connect()
    return connection


def _refusal(status: int, content: bytes) -> GateError:
    told = _told(status, content)
    kind = SessionEndedError if told.code in protocol.SESSION_OVER else GateRefusedError
    return kind(told.code, told.message)


def _gave_up(status: int, content: bytes) -> GateError:
    if status == 0:
        return GateUnreachableError("gate_unreachable", "The control plane does not answer.")
    told = _told(status, content)
    return GateRefusedError(told.code, told.message)


def _told(status: int, content: bytes) -> protocol.Refusal:
    try:
        return msgspec.json.decode(content, type=protocol.Refusal)
    except msgspec.DecodeError:
        return protocol.Refusal(code=f"http_{status}", message=f"The control plane answered {status}.")


def to_message(ref: ObjectRef) -> protocol.ObjectMessage:
    return protocol.ObjectMessage(key=ref.key, sha256=ref.sha256, size_bytes=ref.size_bytes, version_id=ref.version_id)


def to_ref(message: protocol.ObjectMessage) -> ObjectRef:
    return ObjectRef(
        key=message.key, sha256=message.sha256, size_bytes=message.size_bytes, version_id=message.version_id
    )
