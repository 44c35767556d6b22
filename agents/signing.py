"""How an agent signs a request to the control plane, and how that is read again. Pure; both sides use it.

    Authorization: Backupsite-Agent agent="<uuid>", time="<seconds>", nonce="<16 bytes>", signature="<64 bytes>"

Seconds count from 1970. Bytes travel in base64 for URLs, without padding. Signed (Ed25519) are these lines, the last
one without an end: name and version, method, path with query, SHA-256 of the body in hexadecimal, time, nonce, agent.
So nothing of a request can be changed, and no signature made for a manifest fits one. TLS keeps it from others.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SCHEME = "Backupsite-Agent"
# How far the clocks of both sides may be apart.
WINDOW_SECONDS = 300
NONCE_BYTES = 16
SIGNATURE_BYTES = 64
LONGEST_HEADER = 400
LONGEST_PATH = 2000
_NAME = b"backupsite agent request v1"
_FORM = re.compile(
    r'agent="([0-9a-f-]{36})", time="([1-9][0-9]{0,11})", '
    r'nonce="([A-Za-z0-9_-]{22})", signature="([A-Za-z0-9_-]{86})"\Z'
)


@dataclass(frozen=True, slots=True)
class Proof:
    """What the header says; nothing of it is proved yet."""

    agent_id: UUID
    time_seconds: int
    nonce: str
    signature: bytes

    @property
    def name(self) -> str:
        return name_of(self.agent_id, self.nonce)


def sign_request(
    *,
    private_key: bytes,
    agent_id: UUID,
    method: str,
    path: str,
    body: bytes,
    time_seconds: int,
    nonce: bytes,
) -> str:
    """The value of the Authorization header. `path` with its query as it is sent; `nonce` fresh for each request.

    Raises ValueError for a nonce of another length, or a path that cannot be one line.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    shown = _text(nonce)
    message = _message(agent_id, method, path, body, time_seconds, shown)
    if message is None:
        raise ValueError("a path is one line of ASCII")
    signature = Ed25519PrivateKey.from_private_bytes(private_key).sign(message)
    return f'{SCHEME} agent="{agent_id}", time="{time_seconds}", nonce="{shown}", signature="{_text(signature)}"'


def name_of(agent_id: UUID, nonce: str) -> str:
    """What an answer is bound to: this request of this agent, so that no other one's answer fits."""
    return f"{agent_id}/{nonce}"


def read_header(value: str) -> Proof | None:
    """The parts of the header; None for what is none of ours. Each header has one form only."""
    scheme, _, rest = value.partition(" ")
    found = _FORM.match(rest) if scheme == SCHEME and len(value) <= LONGEST_HEADER else None
    if found is None:
        return None
    try:
        agent_id, signature = UUID(found[1]), base64.urlsafe_b64decode(found[4] + "==")
    except ValueError:
        return None
    if str(agent_id) != found[1] or _text(signature) != found[4]:
        return None
    return Proof(agent_id=agent_id, time_seconds=int(found[2]), nonce=found[3], signature=signature)


def is_signed_by(public_key: bytes, proof: Proof, *, method: str, path: str, body: bytes) -> bool:
    """Whether the owner of the key signed exactly this request."""
    message = _message(proof.agent_id, method, path, body, proof.time_seconds, proof.nonce)
    if message is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(proof.signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_in_time(proof: Proof, *, now_seconds: float) -> bool:
    return abs(now_seconds - proof.time_seconds) <= WINDOW_SECONDS


def _message(agent_id: UUID, method: str, path: str, body: bytes, time_seconds: int, nonce: str) -> bytes | None:
    if not path.isascii() or not path.isprintable() or " " in path or len(path) > LONGEST_PATH or not method.isalpha():
        return None
    told = (method, path, hashlib.sha256(body).hexdigest(), str(time_seconds), nonce, str(agent_id))
    return b"\n".join([_NAME, *(part.encode("ascii") for part in told)])


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
