"""The portal's side of the signer's key gate: one short call each, for what needs the master key."""

from __future__ import annotations

import base64
import http.client
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.conf import settings

from common.errors import (
    BackupsiteError,
    ConflictError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    UnavailableError,
)
from tenants.models import Person
from tenants.origin import current_origin
from vaults.key_gate import PATH_PREFIX, Answer, Note, open_sealed, sign_note
from vaults.models import TenantKey

_TIMEOUT_SECONDS = 15.0
_LARGEST_ANSWER_BYTES = 64 * 1024
# Made here: msgspec crashes when two threads read the first message of a type at once.
_ANSWERS = msgspec.json.Decoder(Answer)
_KINDS = {kind.http_status: kind for kind in (InvalidInputError, NotAllowedError, NotFoundError, ConflictError)}


def show_recovery_key(key: TenantKey, *, person: Person) -> str:
    """The text to print. It is in this process for the one answer only; nothing keeps it.

    Raises what the signer refuses, UnavailableError when it does not answer.
    """
    private = X25519PrivateKey.generate()
    receiver = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    answer = _call(_note("show", key, person, receiver=receiver))
    try:
        return open_sealed(answer, private)
    except (InvalidTag, ValueError):
        raise _unavailable() from None


def rotate_key(key: TenantKey, *, person: Person) -> UUID:
    """Replace the managed key that is in use; the id of the new one."""
    return UUID(_call(_note("rotate", key, person)).key)


def _note(verb: str, key: TenantKey, person: Person, *, receiver: str = "") -> Note:
    """With where the person's own request comes from, which the signer cannot see."""
    origin = current_origin()
    return Note(
        verb=verb,
        person=str(person.pk),
        key=str(key.pk),
        receiver=receiver,
        address=origin.address,
        token_id=origin.token_id,
        request_id=origin.request_id,
    )


def _call(note: Note) -> Answer:
    parts = urlsplit(settings.CONFIG.gate_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("POST", PATH_PREFIX + note.verb, body=sign_note(note))
        response = connection.getresponse()
        status, answer = response.status, _ANSWERS.decode(response.read(_LARGEST_ANSWER_BYTES))
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise _unavailable() from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise _refusal(status, answer)
    return answer


def _refusal(status: int, answer: Answer) -> BackupsiteError:
    kind = _KINDS.get(status)
    return kind(answer.message, code=answer.code) if kind is not None else _unavailable()


def _unavailable() -> UnavailableError:
    return UnavailableError(
        "The signer, which holds the keys, does not answer as it should. Is it running? Try again in a minute.",
        code="signer_unavailable",
    )
