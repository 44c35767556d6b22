"""A control plane of one agent in memory, over HTTP: the messages and signatures of the real one, its gate and a vault.

What it decides is not the real one's; what the program under test sends and checks is.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from agents import agent_messages as messages
from agents import protocol
from agents.answer_signing import HEADER, NONCE_HEADER, fingerprint, gate_request, sign_answer, sign_policy
from agents.signing import is_in_time, is_signed_by, read_header
from engine.crypto import WriterKey, generate_writer_key
from engine.store.base import ObjectRef
from tests.engine.support import DOMAIN, TENANT, Vault

SECRET = "s" * 43
AGENT = "/agent/v1/"
SESSION = "/session/v1/"
Refusal = tuple[int, str]


@dataclass
class ControlPlane:
    """Change its fields while it runs; `refuse` answers the next requests of a path with (status, code)."""

    server_name: str = "web-1"
    key: Any = field(default_factory=generate_writer_key)
    release_key: Any = field(default_factory=generate_writer_key)
    policy: messages.AgentPolicy | None = None
    offers: list[messages.JobOffer] = field(default_factory=list)
    canceled: list[str] = field(default_factory=list)
    update: messages.UpdateOffer | None = None
    releases: dict[str, bytes] = field(default_factory=dict)
    poll_seconds: int = 3600
    ahead: timedelta = timedelta()
    status: str = "enrolled"
    waiting: str = ""
    tls_pins: list[bytes] = field(default_factory=list)
    tamper: Callable[[bytes], bytes] | None = None
    # Who sits before the session gate, and what comes of its answers: status, body, signature.
    between: Callable[[int, bytes, str], tuple[int, bytes, str]] | None = None
    refuse: dict[str, list[Refusal]] = field(default_factory=dict)
    down: bool = False

    def __post_init__(self) -> None:
        self.agent_id = uuid.uuid4()
        self.agent_key = b""
        self.writer_key = b""
        self.polls: list[messages.PollRequest] = []
        self.asked: list[str] = []
        self.wishes: list[messages.RestoreRequest] = []
        # How many connections were made, and those that are open.
        self.connections = 0
        self.open: set[socket.socket] = set()
        self.nonces: set[str] = set()
        self.signed_policy: messages.SignedPolicy | None = None
        self.restore = messages.RestoreAsked("r1", "AB-12", "https://portal/x", self.now())
        self.gate = Gate(self)
        self.http: ThreadingHTTPServer | None = None
        self.is_tls = False

    # --- running ------------------------------------------------------------------------------------------------------

    def start(self, *, port: int = 0, tls: ssl.SSLContext | None = None) -> ControlPlane:
        plane = self

        class Handler(_Handler):
            owner = plane

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        if tls is not None:
            self.is_tls = True
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        assert self.http is not None
        self.http.shutdown()
        self.http.server_close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close what is open, as a server does with connections that nobody uses for some seconds."""
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        if self.http is None:
            return "http://127.0.0.1:9"
        return f"{'https' if self.is_tls else 'http'}://127.0.0.1:{self.http.server_address[1]}"

    @property
    def token(self) -> str:
        return f"{messages.TOKEN_PREFIX}.{SECRET}.{fingerprint(self.key.public)}"

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def sign(self, policy: messages.AgentPolicy) -> messages.SignedPolicy:
        data = msgspec.json.encode(policy)
        signature = sign_policy(private_key=self.key.private, agent_id=self.agent_id, policy=data)
        return messages.SignedPolicy(data, signature)

    # --- answers ------------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, header: str, body: bytes) -> tuple[int, bytes, str]:
        name = path.removeprefix(AGENT).split("?")[0]
        self.asked.append(name)
        if name == "enrol/":
            digest = hashlib.sha256(body).hexdigest()
            return self._signed(digest, self._enrol(msgspec.json.decode(body, type=messages.EnrolRequest)))
        proof = read_header(header)
        assert proof is not None, header
        assert is_signed_by(self.agent_key, proof, method=method, path=path, body=body)
        if name.startswith("releases/"):
            return 200, self.releases[name.removeprefix("releases/")], ""
        if self.refuse.get(name):
            return self._signed(proof.name, _refused(*self.refuse[name].pop(0)))
        if not is_in_time(proof, now_seconds=self.now().timestamp()):
            told = {"code": "clock_skew", "detail": "apart", "time": self.now()}
            return self._signed(proof.name, (401, msgspec.json.encode(told)))
        assert proof.nonce not in self.nonces
        self.nonces.add(proof.nonce)
        return self._signed(proof.name, self._told(name, body))

    def _signed(self, request: str, answer: tuple[int, bytes]) -> tuple[int, bytes, str]:
        status, body = answer
        header = sign_answer(private_key=self.key.private, request=request, status=status, body=body)
        return status, self.tamper(body) if self.tamper else body, header

    def _enrol(self, request: messages.EnrolRequest) -> tuple[int, bytes]:
        if request.secret != SECRET:
            return _refused(403, "token_invalid")
        self.agent_key, self.writer_key = request.public_key, request.writer_key
        return _ok(
            messages.EnrolAnswer(
                agent_id=str(self.agent_id),
                server=self.server_name,
                tenant="acme",
                status=self.status,
                control_key=self.key.public,
                time=self.now(),
                release_key=self.release_key.public,
                tls_pins=self.tls_pins,
            )
        )

    def _told(self, name: str, body: bytes) -> tuple[int, bytes]:
        if name == "poll/":
            return _ok(self._poll(msgspec.json.decode(body, type=messages.PollRequest)))
        if name == "claim/":
            job = msgspec.json.decode(body, type=messages.ClaimRequest).job
            offer = next(one for one in self.offers if one.id == job)
            self.offers.remove(offer)
            return _ok(messages.ClaimAnswer(f"session-{job}", self.url, offer.kind, "backup-1"))
        if name == "start/":
            self.offers.append(messages.JobOffer(f"now-{len(self.asked)}", "backup", begins_at_once=True))
            return _ok(self.offers[-1])
        if name == "backups/":
            one = messages.BackupMessage("b1", "nightly-1", self.now(), "ok", "verified", 5 << 20)
            return _ok(messages.BackupsAnswer([one]))
        if name == "rotate/":
            self.agent_key = msgspec.json.decode(body, type=messages.RotateRequest).public_key
        if name in {"rotate/", "unenrol/"}:
            return _ok(messages.Me(str(self.agent_id), self.status, self.server_name, "acme", self.now()))
        if name == "restores/":
            self.wishes.append(msgspec.json.decode(body, type=messages.RestoreRequest))
        if name.startswith("restores/"):
            return _ok(self.restore)
        return 200, b"{}"

    def _poll(self, request: messages.PollRequest) -> messages.PollAnswer:
        signed = self.signed_policy or (self.sign(self.policy) if self.policy is not None else None)
        number = self.policy.number if self.policy is not None else 0
        answer = messages.PollAnswer(
            time=self.now(),
            next_poll_seconds=self.poll_seconds,
            policy=signed if request.policy_number != number or self.signed_policy else None,
            jobs=list(self.offers),
            canceled=[job for job in request.jobs if job in self.canceled],
            update=self.update,
            waiting=self.waiting,
        )
        # Last: whoever sees it here and changes something then knows that only the next one is told of it.
        self.polls.append(request)
        return answer


class Gate:
    """The session gate, and the vault that its grants lead to."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.vault = Vault()
        self.objects: dict[str, bytes] = {}
        self.work: protocol.BackupWork | protocol.RestoreWork | None = None
        self.commits: list[protocol.CommitRequest] = []
        self.failures: list[protocol.Failure] = []
        self.restored: list[protocol.RestoreDone] = []
        self.beats: list[protocol.Progress] = []
        self.cancel = False
        self.sequence = 0
        self.puts = 0
        # The name of each object as it arrived.
        self.arrived: list[str] = []
        # Called before each object is stored, such as to slow down or to fail.
        self.before_put: Callable[[int], int] = lambda count: 200

    def back_up(self, **changes: Any) -> None:
        self.sequence += 1
        last = self.commits[-1] if self.commits else None
        work = protocol.BackupWork(
            disk=protocol.DiskMessage("host", "", "/", 0),
            tenant=TENANT,
            domain=DOMAIN,
            source_id="disk-0",
            sequence=self.sequence,
            created_at=self._plane.now(),
            id_key=self.vault.domain_keys.id_key,
            map_key=self.vault.domain_keys.map_key,
            tenant_public_key=self.vault.tenant_key.public,
            block_size_bytes=65536,
            compression_level=1,
            source_facts={},
            trusted_writers=[self._plane.writer_key],
            base=last.manifest if last is not None else None,
            new_point=f"backupsite-{self.sequence}",
        )
        self.work = msgspec.structs.replace(work, **changes)

    def left_behind(self) -> protocol.ResumableMessage:
        """What an attempt stored that became no backup, as the real one tells it to the next: nothing else is there."""
        found = [_message(name, self.objects[name]) for name in self.arrived]
        [envelope] = [one for one in found if "/k/" in one.key]
        return protocol.ResumableMessage("attempt-1", envelope, [one for one in found if "/p/" in one.key])

    def restore(self, **changes: Any) -> None:
        """The last backup, with the keys that it needs, read as after a disaster."""
        manifest = self.commits[-1].manifest
        self.vault.store = self  # type: ignore[assignment]
        self.vault.writer_key = WriterKey(private=b"", public=self._plane.writer_key)
        ref = ObjectRef(manifest.key, manifest.sha256, manifest.size_bytes, manifest.version_id)
        keys = self.vault.keys_for(ref)
        work = protocol.RestoreWork(
            disk=protocol.DiskMessage("host", "", "/", 0),
            tenant=TENANT,
            domain=DOMAIN,
            manifest=manifest,
            id_key=keys.domain.id_key,
            map_key=keys.domain.map_key,
            data_keys={session.hex(): key for session, key in keys.data_keys.items()},
            trusted_writers=[self._plane.writer_key],
            folder="restored",
            create=True,
        )
        self.work = msgspec.structs.replace(work, **changes)

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        data = self.objects[f"/vault/{ref.key}"]
        return data[offset:] if length is None else data[offset : offset + length]

    def answer(self, name: str, body: bytes) -> tuple[int, bytes]:
        if name == "open":
            return _ok(self.work) if self.work is not None else _refused(409, "session_ended")
        if name == "heartbeat":
            self.beats.append(msgspec.json.decode(body, type=protocol.Progress))
            return _ok(protocol.HeartbeatAnswer(cancel=self.cancel))
        if name == "grants/put":
            specs = msgspec.json.decode(body, type=protocol.PutGrantsRequest).specs
            return _ok(protocol.GrantsAnswer([self._grant("PUT", spec.key) for spec in specs]))
        if name == "grants/get":
            objects = msgspec.json.decode(body, type=protocol.GetGrantsRequest).objects
            return _ok(protocol.GrantsAnswer([self._grant("GET", one.key) for one in objects]))
        if name == "commit":
            self.commits.append(msgspec.json.decode(body, type=protocol.CommitRequest))
        elif name == "fail":
            self.failures.append(msgspec.json.decode(body, type=protocol.Failure))
        elif name == "restore-done":
            self.restored.append(msgspec.json.decode(body, type=protocol.RestoreDone))
        return 200, b"{}"

    def _grant(self, method: str, key: str) -> protocol.GrantMessage:
        return protocol.GrantMessage(method, f"{self._plane.url}/vault/{key}?sign=1", {})

    def vault_answer(self, method: str, path: str, body: bytes, wanted: str | None) -> tuple[int, bytes]:
        name = path.split("?")[0]
        if method == "PUT":
            self.puts += 1
            status = self.before_put(self.puts)
            if status == 200:
                self.arrived.append(name)
                self.objects.setdefault(name, body)
            return status, b""
        data = self.objects.get(name)
        if data is None:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>"
        if wanted is None:
            return 200, data
        first, last = wanted.removeprefix("bytes=").split("-")
        return 206, data[int(first) : int(last) + 1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are sent apart: the second would wait for the other side's delayed acknowledgement, 40 ms each.
    disable_nagle_algorithm = True
    owner: ControlPlane

    def setup(self) -> None:
        super().setup()
        self.owner.connections += 1
        self.owner.open.add(self.connection)

    def finish(self) -> None:
        self.owner.open.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            # Whoever sends was ended in the middle of it: nothing has arrived.
            self.close_connection = True
            return
        more = {}
        if self.owner.down:
            self.close_connection = True
            return
        if self.path.startswith(AGENT):
            status, content, signature = self.owner.answer(
                self.command, self.path, self.headers.get("Authorization", ""), body
            )
            more = {HEADER: signature} if signature else {}
        elif self.path.startswith(SESSION):
            status, content = self.owner.gate.answer(self.path.removeprefix(SESSION), body)
            signature = self._gate_signature(status, content, body)
            if self.owner.between is not None:
                status, content, signature = self.owner.between(status, content, signature)
            more = {HEADER: signature} if signature else {}
        else:
            status, content = self.owner.gate.vault_answer(self.command, self.path, body, self.headers.get("Range"))
            more = {"x-amz-version-id": "version-1"}
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _gate_signature(self, status: int, content: bytes, body: bytes) -> str:
        token = self.headers["Authorization"].removeprefix("Bearer ")
        asked = gate_request(token=token, nonce=self.headers[NONCE_HEADER], path=self.path, body=body)
        return sign_answer(private_key=self.owner.key.private, request=asked or "", status=status, body=content)


def _message(name: str, data: bytes) -> protocol.ObjectMessage:
    return protocol.ObjectMessage(
        name.removeprefix("/vault/"), hashlib.sha256(data).hexdigest(), len(data), version_id="version-1"
    )


def _ok(message: msgspec.Struct) -> tuple[int, bytes]:
    return 200, msgspec.json.encode(message)


def _refused(status: int, code: str) -> tuple[int, bytes]:
    return status, msgspec.json.encode({"code": code, "detail": f"refused: {code}"})


def eventually(is_so: Callable[[], object], *, seconds: float = 30.0) -> None:
    """Waits for what another process does; fails when it does not."""
    give_up_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.02)
