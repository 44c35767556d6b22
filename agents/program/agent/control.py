"""Client of the control plane, `/agent/v1/`: every request is signed, and no answer is read before its signature."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

import msgspec

from agents import agent_messages as messages
from agents.agent_messages import LARGEST_MESSAGE_BYTES, PATH_PREFIX, Refused
from agents.answer_signing import HEADER, fingerprint, is_answer_signed, refused_name
from agents.program.agent.errors import NotTrustedError, RefusedError, UnreachableError
from agents.program.agent.identity import Identity, Token
from agents.program.agent.memory import ControlClock
from agents.program.agent.tls import Endpoint, connect, read_url
from agents.program.connections import Call, KeptConnections
from agents.signing import NONCE_BYTES, name_of, sign_request
from engine.crypto import WriterKey

CLOCK_SKEW = "clock_skew"
_SUCCESS = frozenset({200, 201, 202})
_NOT_FOUND = 404
_NO_CONTROL_PLANE = (
    "There is no control plane for agents at this address. The portal shows the right one beside the token; it may be "
    "another than the portal's own. Nothing was enrolled."
)
_BUSY = frozenset({429, 500, 502, 503, 504})
_PIECE_BYTES = 64 * 1024
_Answer = TypeVar("_Answer")


class Nothing(msgspec.Struct, frozen=True):
    """A request that says nothing but its name."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    signature: str
    body: bytes


class Way(Protocol):
    """One request and its answer; tests put a control plane in memory here. Raises OSError, HTTPException."""

    def __call__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply: ...


class ControlClient:
    """Speaks for one enrolled agent. `clock` learns the time from signed answers."""

    def __init__(self, identity: Identity, key: WriterKey, clock: ControlClock, *, way: Way) -> None:
        self._identity = identity
        self._key = key
        self._clock = clock
        self._way = way

    def poll(self, request: messages.PollRequest) -> messages.PollAnswer:
        answer = self._call("poll/", request, messages.PollAnswer)
        self._clock.learn(answer.time)
        return answer

    def claim(self, job: str, *, count: int) -> messages.ClaimAnswer:
        return self._call("claim/", messages.ClaimRequest(job, count), messages.ClaimAnswer)

    def start(self) -> messages.JobOffer:
        return self._call("start/", messages.StartRequest(), messages.JobOffer)

    def backups(self, *, after: str = "") -> messages.BackupsAnswer:
        query = f"?{urlencode({'after': after})}" if after else ""
        return self._call(f"backups/{query}", None, messages.BackupsAnswer)

    def ask_restore(self, request: messages.RestoreRequest) -> messages.RestoreAsked:
        return self._call("restores/", request, messages.RestoreAsked)

    def restore_asked(self, request_id: str) -> messages.RestoreAsked:
        return self._call(f"restores/{quote(request_id, safe='')}/", None, messages.RestoreAsked)

    def rotate(self, public_key: bytes) -> None:
        self._is_about_us(self._call("rotate/", messages.RotateRequest(public_key), messages.Me))

    def unenrol(self) -> None:
        self._is_about_us(self._call("unenrol/", Nothing(), messages.Me))

    def _is_about_us(self, me: messages.Me) -> None:
        """A key is thrown away for this answer: it has to say of whom it is."""
        if me.id != str(self._identity.agent_id):
            raise NotTrustedError("The control plane answered about another agent. Nothing was changed here.")

    def _call(self, path: str, message: msgspec.Struct | None, kind: type[_Answer]) -> _Answer:
        try:
            return self._once(path, message, kind)
        except RefusedError as error:
            # The answer was signed and had the time: the second try goes by it.
            if error.code != CLOCK_SKEW:
                raise
            return self._once(path, message, kind)

    def _once(self, path: str, message: msgspec.Struct | None, kind: type[_Answer]) -> _Answer:
        method, body = ("GET", b"") if message is None else ("POST", msgspec.json.encode(message))
        nonce = os.urandom(NONCE_BYTES)
        header = sign_request(
            private_key=self._key.private,
            agent_id=self._identity.agent_id,
            method=method,
            path=PATH_PREFIX + path,
            body=body,
            time_seconds=max(1, int(self._clock.seconds())),
            nonce=nonce,
        )
        reply = _asked(self._way, method, PATH_PREFIX + path, {"Authorization": header}, body)
        shown = base64.urlsafe_b64encode(nonce).rstrip(b"=").decode()
        name = name_of(self._identity.agent_id, shown)
        # Without a key that is known there nobody can prove who he is; such an answer can only refuse.
        names = (name,) if reply.status in _SUCCESS else (name, refused_name(name))
        _check(reply, control_key=self._identity.control_key, names=names)
        if reply.status not in _SUCCESS:
            refused = _refused_of(reply)
            if refused.time is not None:
                self._clock.learn(refused.time)
            raise RefusedError(
                refused.detail or f"The control plane answered {reply.status}.",
                code=refused.code,
                retry_after_seconds=refused.retry_after_seconds,
            )
        return _decoded(reply.body, kind)


def way_to(endpoint: Endpoint, *, pins: Sequence[bytes] = (), ca_file: str = "") -> Way:
    """Calls that follow one another share a connection; a poll a minute later finds none left open, and makes one."""
    connections = KeptConnections(partial(connect, endpoint, pins=pins, ca_file=ca_file))

    def ask(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        sent = {**headers, "Content-Type": "application/json", "Accept": "application/json"}
        # Signed for one use: sent twice it would look like a replay.
        call = Call(method, endpoint.path + path, body, sent, may_repeat=False)
        answer = connections.ask(call, most_bytes=LARGEST_MESSAGE_BYTES + 1)
        if len(answer.content) > LARGEST_MESSAGE_BYTES:
            raise http.client.HTTPException("the answer is too long")
        return Reply(answer.status, answer.headers.get(HEADER, ""), answer.content)

    return ask


def client_of(
    identity: Identity, key: WriterKey, clock: ControlClock, *, ca_file: str = "", pins: Sequence[bytes] = ()
) -> ControlClient:
    way = way_to(read_url(identity.url), pins=pins or identity.tls_pins, ca_file=ca_file)
    return ControlClient(identity, key, clock, way=way)


def enrol(way: Way, request: messages.EnrolRequest, token: Token) -> messages.EnrolAnswer:
    """Raises NotTrustedError when the answer is not by the key whose fingerprint is in the token."""
    body = msgspec.json.encode(request)
    reply = _asked(way, "POST", PATH_PREFIX + "enrol/", {}, body)
    digest = hashlib.sha256(body).hexdigest()
    if reply.status not in _SUCCESS:
        # Nothing of a refusal is acted on: its words are shown, and that is all.
        refused = _refused_of(reply)
        if reply.status == _NOT_FOUND:
            raise RefusedError(_NO_CONTROL_PLANE, code=refused.code)
        raise RefusedError(refused.detail or f"The control plane answered {reply.status}.", code=refused.code)
    # Only the key is taken from what was not checked, and it is checked first.
    key = _decoded(reply.body, messages.EnrolAnswer).control_key
    if fingerprint(key) != token.fingerprint:
        raise NotTrustedError("The answer is not by the control plane that made this token. Nothing was enrolled.")
    _check(reply, control_key=key, names=(digest,))
    answer = _decoded(reply.body, messages.EnrolAnswer)
    try:
        UUID(answer.agent_id)
    except ValueError:
        raise NotTrustedError("The control plane gave no valid identity.") from None
    return answer


def fetch_file(
    endpoint: Endpoint,
    file: str,
    to: Path,
    *,
    size_bytes: int,
    pins: Sequence[bytes],
    ca_file: str = "",
    headers: Callable[[str], dict[str, str]],
) -> str:
    """Download a release; returns its SHA-256 in hexadecimal. It proves nothing yet. Raises UnreachableError."""
    path = f"{PATH_PREFIX}releases/{quote(file, safe='')}"
    digest, got = hashlib.sha256(), 0
    try:
        connection = connect(endpoint, pins=pins, ca_file=ca_file)
        try:
            connection.request("GET", endpoint.path + path, headers=headers(path))
            answer = connection.getresponse()
            if answer.status != 200:
                raise UnreachableError(f"The release {file} cannot be had: the control plane answered {answer.status}.")
            with open(to, "wb") as target:
                while piece := answer.read(_PIECE_BYTES):
                    got += len(piece)
                    if got > size_bytes:
                        break
                    digest.update(piece)
                    target.write(piece)
                target.flush()
                os.fsync(target.fileno())
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"The release {file} cannot be fetched: {error}.") from error
    return digest.hexdigest() if got == size_bytes else ""


def _asked(way: Way, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
    try:
        reply = way(method, path, headers, body)
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreachableError(
            f"The control plane does not answer: {why}. `backupsite-agent doctor` shows how far it gets."
        ) from error
    if not reply.signature and reply.status in _BUSY:
        raise UnreachableError(f"The control plane is not there: something before it answered {reply.status}.")
    return reply


def _check(reply: Reply, *, control_key: bytes, names: Sequence[str]) -> None:
    found = (
        is_answer_signed(control_key, header=reply.signature, request=name, status=reply.status, body=reply.body)
        for name in names
    )
    if not any(found):
        raise NotTrustedError(
            f"The answer ({reply.status}) is not signed by the control plane that this agent belongs to. A proxy, or "
            "somebody else, answered in its place."
        )


def _refused_of(reply: Reply) -> Refused:
    try:
        return msgspec.json.decode(reply.body, type=Refused)
    except msgspec.DecodeError:
        return Refused(code=f"http_{reply.status}")


def _decoded(body: bytes, kind: type[_Answer]) -> _Answer:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise UnreachableError(f"The control plane's answer cannot be read: {error}.", code="bad_answer") from error
