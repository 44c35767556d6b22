"""Secrets of webhooks: made by the process that faces people, readable only by the sender.

They are sealed to the sender's public key by HPKE (RFC 9180). The sealed text is bound to its webhook, so that nobody
who can write to the database can make one endpoint's messages be signed with another's secret.
"""

from __future__ import annotations

import base64
import binascii
import os
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from common.errors import ConfigurationError, UnavailableError
from tenants.models import NoticeKey

SECRET_PREFIX = "whsec_"  # noqa: S105  # the prefix of the Standard Webhooks scheme
SECRET_BYTES = 32
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def new_secret() -> str:
    """A secret as its receiver needs it: `whsec_` and 32 bytes in base64."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(SECRET_BYTES)).decode()


def publish_sender_key(private: bytes) -> None:
    """The sender lets its public half be known. May be called at every start."""
    public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    newest = NoticeKey.objects.order_by("-created_at", "-pk").first()
    if newest is None or bytes(newest.public_key) != public:
        NoticeKey.objects.filter(public_key=public).delete()
        NoticeKey.objects.create(public_key=public)


def seal(secret: str, *, webhook_id: UUID) -> str:
    """For the sender only. Raises UnavailableError as long as no sender ever ran."""
    newest = NoticeKey.objects.order_by("-created_at", "-pk").first()
    if newest is None:
        raise UnavailableError(
            "The process that sends webhooks has never run here. Start it, then try again.", code="no_sender"
        )
    public = X25519PublicKey.from_public_bytes(bytes(newest.public_key))
    return base64.b64encode(_SUITE.encrypt(secret.encode(), public, _context(webhook_id))).decode()


def unseal(sealed: str, *, webhook_id: UUID, private: bytes) -> str:
    """Raises ConfigurationError when it was sealed for another key or another webhook."""
    key = X25519PrivateKey.from_private_bytes(private)
    try:
        return _SUITE.decrypt(base64.b64decode(sealed, validate=True), key, _context(webhook_id)).decode()
    except (InvalidTag, ValueError, binascii.Error):
        raise ConfigurationError(
            "The webhook's secret was sealed for another sender's key. Make a new secret for it.", code="secret_sealed"
        ) from None


def _context(webhook_id: UUID) -> bytes:
    return f"backupsite|webhook secret v1|{webhook_id}".encode()
