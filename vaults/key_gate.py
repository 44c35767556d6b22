"""The signer's face for the portal: what needs the master key while a person waits. Served only by the signer process.

The portal's process holds no master key. It asks here with a note signed with a key that only these two have, good for
a minute; the person's right is looked up again. The recovery key travels sealed to a key of the portal's for this one
answer, so that nothing between the two, and no log, ever holds it in clear.
"""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Callable
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from common.errors import BackupsiteError, InvalidInputError, NotSignedInError
from tenants.access import get_for_user
from tenants.models import Person
from tenants.origin import PERSON, Origin, acting_as
from tenants.roles import Action
from vaults.models import TenantKey
from vaults.recovery_keys import show_recovery_key
from vaults.rotation import rotate_managed_key

PATH_PREFIX = "/keys/v1/"
NOTE_SECONDS = 60
_SALT = "backupsite.keys"
_INFO = b"backupsite recovery key hand-over v1"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Note(msgspec.Struct, frozen=True):
    """Who asks for what. `receiver`: the portal's one-time public key (X25519), base64."""

    verb: str
    person: str
    key: str
    receiver: str = ""
    # Where the person's own request came from, for the audit: this call comes from the portal's process.
    address: str = ""
    token_id: str = ""
    request_id: str = ""


class Answer(msgspec.Struct, frozen=True):
    code: str = "done"
    message: str = ""
    key: str = ""
    sealed: str = ""


def sign_note(note: Note) -> bytes:
    return signing.dumps(msgspec.to_builtins(note), key=_note_key(), salt=_SALT).encode()


def _note_key() -> str:
    return str(settings.CONFIG.portal_signer_secret)


def open_sealed(answer: Answer, private: X25519PrivateKey) -> str:
    """What was sealed to the portal's key. Raises InvalidTag or ValueError."""
    return _SUITE.decrypt(base64.b64decode(answer.sealed), private, _INFO).decode()


Endpoint = Callable[[Note, Person, TenantKey], Answer]


def _endpoint(verb: str) -> Callable[[Endpoint], Callable[[HttpRequest], HttpResponse]]:
    def decorate(function: Endpoint) -> Callable[[HttpRequest], HttpResponse]:
        @csrf_exempt
        @require_POST
        @functools.wraps(function)
        def view(request: HttpRequest) -> HttpResponse:
            try:
                note, person, key = _asked(request, verb)
                with acting_as(_origin_of(note, person)):
                    return _json(function(note, person, key), status=200)
            except BackupsiteError as error:
                return _json(Answer(code=error.code, message=error.message), status=error.http_status)

        return view

    return decorate


def _asked(request: HttpRequest, verb: str) -> tuple[Note, Person, TenantKey]:
    try:
        told: Any = signing.loads(request.body.decode("ascii"), key=_note_key(), salt=_SALT, max_age=NOTE_SECONDS)
        note = msgspec.convert(told, Note)
    except (signing.BadSignature, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise NotSignedInError("This request was not made by the portal, or is too old.") from error
    person = Person.objects.filter(pk=note.person, is_active=True).first()
    if note.verb != verb or person is None:
        raise NotSignedInError("This request was not made by the portal, or is too old.")
    keys = TenantKey.objects.select_related("tenant")
    return note, person, get_for_user(keys, person=person, action=Action.EDIT, pk=note.key)


def _origin_of(note: Note, person: Person) -> Origin:
    return Origin(
        PERSON,
        str(person.pk),
        str(person),
        address=note.address,
        token_id=note.token_id,
        request_id=note.request_id,
    )


def _json(answer: Answer, *, status: int) -> HttpResponse:
    response = HttpResponse(msgspec.json.encode(answer), status=status, content_type="application/json")
    response["Cache-Control"] = "no-store"
    return response


@_endpoint("show")
def show_view(note: Note, person: Person, key: TenantKey) -> Answer:
    receiver = _receiver(note.receiver)
    text = show_recovery_key(key, actor=person, now=timezone.now())
    return Answer(key=str(key.pk), sealed=base64.b64encode(_SUITE.encrypt(text.encode(), receiver, _INFO)).decode())


def _receiver(text: str) -> X25519PublicKey:
    """Looked at before the key counts as shown: nobody could read the answer otherwise."""
    try:
        receiver = X25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
        _SUITE.encrypt(b"", receiver, _INFO)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError("The portal's key for the answer is not sound.", code="bad_receiver") from error
    return receiver


@_endpoint("rotate")
def rotate_view(note: Note, person: Person, key: TenantKey) -> Answer:
    new = rotate_managed_key(key.tenant, replaced=key.pk, actor=person, now=timezone.now())
    return Answer(key=str(new.pk))
