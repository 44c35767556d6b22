"""Who this agent is: what its enrolment said, and its two keys. The private ones never leave the server."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from uuid import UUID

import msgspec

from agents.agent_messages import TOKEN_PREFIX
from agents.answer_signing import FINGERPRINT_HEX
from agents.program.agent.errors import NotEnrolledError, UsageError
from agents.program.agent.files import read_if_there, wipe, write_whole
from agents.program.agent.places import Places
from agents.program.signing import FILE_NAME, load_writer_key
from engine.crypto import WriterKey

_TOKEN = re.compile(rf"{TOKEN_PREFIX}\.([A-Za-z0-9_-]{{20,200}})\.([0-9a-f]{{{FINGERPRINT_HEX}}})\Z")
PENDING = "pending"


class Identity(msgspec.Struct, frozen=True):
    """As the control plane gave it, and where it is."""

    url: str
    agent_id: UUID
    server: str
    tenant: str
    status: str
    control_key: bytes
    release_key: bytes = b""
    tls_pins: list[bytes] = []


@dataclass(frozen=True, slots=True)
class Token:
    """A one-time token: what is told to the control plane, and the fingerprint of the key that must answer."""

    secret: str
    fingerprint: str

    def __repr__(self) -> str:
        return f"Token(fingerprint={self.fingerprint!r})"


def read_token(text: str) -> Token:
    """Raises UsageError; the token is not repeated in it."""
    found = _TOKEN.match(text.strip())
    if found is None:
        raise UsageError(
            f"This is no enrolment token. It looks like {TOKEN_PREFIX}.SECRET.FINGERPRINT; copy all of it."
        )
    return Token(found[1], found[2])


def load_identity(places: Places) -> Identity:
    """Raises NotEnrolledError."""
    data = read_if_there(places.identity)
    if data is None:
        raise NotEnrolledError(
            "This server is not enrolled. Ask for a token, then: backupsite-agent enrol TOKEN --url URL"
        )
    try:
        return msgspec.json.decode(data, type=Identity)
    except msgspec.DecodeError as error:
        raise NotEnrolledError(
            f"{places.identity} cannot be read ({error}). Unenrol with --purge, and enrol again."
        ) from error


def save_identity(places: Places, identity: Identity) -> None:
    write_whole(places.identity, msgspec.json.encode(identity))


def request_key(places: Places) -> WriterKey:
    """The key that signs requests; made at the first call."""
    return load_writer_key(places.request_keys)


def writer_key(places: Places) -> WriterKey:
    """The key that signs manifests; made at the first call."""
    return load_writer_key(places.writer_keys)


def forget(places: Places) -> None:
    """Wipe both keys and who this is. What is in the vault stays there, and stays readable for its tenant."""
    for folder in (places.request_keys, places.writer_keys):
        for name in (FILE_NAME, NEXT_KEY):
            wipe(folder / name)
    wipe(places.identity)
    for path in (places.policy, places.memory):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


# A key that the control plane was asked to take; it is there until the answer came.
NEXT_KEY = "next.key"
