"""How the control plane signs what it tells an agent, and how an agent checks it. Pure; both sides use it.

    Backupsite-Control: signature="<64 bytes in base64 for URLs, without padding>"

Signed (Ed25519) are these lines, the last one without an end: name and version, agent and nonce of the request with a
slash between them (of the enrolment, which has neither: SHA-256 of its body in hexadecimal), status, SHA-256 of the
answer's body in hexadecimal. An answer therefore fits one request of one agent and cannot be kept for another. An
answer to who proved nothing is named `refused/<agent>/<nonce>`: it can refuse, and no success looks like it.

The session gate's answers carry the same header where the mover sent a nonce. In place of the name there is that of
`gate_request`, which says so first. Nodes send none: they stand beside the control plane.
Policies are signed on their own, for one agent, so that they can be checked again when they are read from disk.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HEADER = "Backupsite-Control"
NONCE_HEADER = "Backupsite-Nonce"
_ANSWER = b"backupsite control answer v1"
_GATE = "backupsite gate request v1"
_POLICY = b"backupsite agent policy v1"
_RELEASE = b"backupsite agent release v1"
_NONCE = re.compile(r"[A-Za-z0-9_-]{22}\Z")
_FORM = re.compile(r'signature="([A-Za-z0-9_-]{86})"\Z')
# Of the control key in a token: enough that no second key can be found for it.
FINGERPRINT_HEX = 40


def fingerprint(control_key: bytes) -> str:
    """What an enrolment token says of the control key (32 bytes), in hexadecimal."""
    return hashlib.sha256(control_key).hexdigest()[:FINGERPRINT_HEX]


def refused_name(name: str) -> str:
    """Of an answer to a request that nothing has proved to be the agent's whose name it bears."""
    return f"refused/{name}"


def gate_request(*, token: str, nonce: str, path: str, body: bytes) -> str | None:
    """What an answer of the session gate is bound to: one call of one session, whole. None for what is no nonce."""
    if not _NONCE.match(nonce):
        return None
    hashes = [hashlib.sha256(part).hexdigest() for part in (token.encode(), path.encode(), body)]
    return "/".join((_GATE, *hashes, nonce))


def sign_answer(*, private_key: bytes, request: str, status: int, body: bytes) -> str:
    """The value of the header. `request` is `agents.signing.name_of` it, `refused_name` of that, or `gate_request`."""
    signature = Ed25519PrivateKey.from_private_bytes(private_key).sign(_answer_lines(request, status, body))
    return f'signature="{base64.urlsafe_b64encode(signature).rstrip(b"=").decode()}"'


def is_answer_signed(control_key: bytes, *, header: str, request: str, status: int, body: bytes) -> bool:
    """Whether the answer to the request with this nonce is the control plane's own."""
    found = _FORM.fullmatch(header)
    if found is None:
        return False
    try:
        signature = base64.urlsafe_b64decode(found[1] + "==")
    except binascii.Error:
        return False
    return _is_signed(control_key, signature, _answer_lines(request, status, body))


def sign_policy(*, private_key: bytes, agent_id: UUID, policy: bytes) -> bytes:
    """The signature (64 bytes) over an encoded `AgentPolicy` for this agent."""
    return Ed25519PrivateKey.from_private_bytes(private_key).sign(_policy_lines(agent_id, policy))


def is_policy_signed(control_key: bytes, *, agent_id: UUID, policy: bytes, signature: bytes) -> bool:
    return _is_signed(control_key, signature, _policy_lines(agent_id, policy))


def sign_release(*, private_key: bytes, manifest: bytes) -> bytes:
    """The signature (64 bytes) over an encoded `ReleaseManifest`; made where releases are made."""
    return Ed25519PrivateKey.from_private_bytes(private_key).sign(b"\n".join((_RELEASE, manifest)))


def is_release_signed(release_key: bytes, *, manifest: bytes, signature: bytes) -> bool:
    return _is_signed(release_key, signature, b"\n".join((_RELEASE, manifest)))


def _answer_lines(request: str, status: int, body: bytes) -> bytes:
    return b"\n".join((_ANSWER, request.encode(), str(status).encode(), hashlib.sha256(body).hexdigest().encode()))


def _policy_lines(agent_id: UUID, policy: bytes) -> bytes:
    return b"\n".join((_POLICY, str(agent_id).encode(), policy))


def _is_signed(public_key: bytes, signature: bytes, lines: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, lines)
    except (InvalidSignature, ValueError):
        return False
    return True
