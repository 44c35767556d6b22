"""Key envelopes (`k/`): the session's data key and the domain keys, wrapped to the tenant's public key.

HPKE base mode (X25519, HKDF-SHA256, AES-256-GCM) with an info string that binds tenant, domain, session,
commitment and recipient. After unwrapping, the commitment is checked before the key is used for anything.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from engine.codec import (
    KEY_SIZE,
    SESSION_ID_SIZE,
    SHA256_SIZE,
    ByteReader,
    check_header,
    pack_header,
    pack_text,
)
from engine.crypto import (
    DomainKeys,
    SessionKeys,
    check_commitment,
    key_fingerprint,
    tenant_key_from_private,
)
from engine.errors import FormatError, KeyMismatchError, UnsupportedError
from engine.store.base import ObjectKind

ENVELOPE_SIZE_MAX = 4096
_HPKE_X25519_SHA256_AES256 = 1
_HEAD = struct.Struct(">IB")  # flags, wrapping algorithm
_INFO_PREFIX = b"backupsite key envelope v1"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_WRAPPED_SIZE = KEY_SIZE + 3 * KEY_SIZE + 16  # encapsulated key, three keys, tag


@dataclass(frozen=True, slots=True)
class EnvelopeInfo:
    """The clear part of an envelope, readable without any key."""

    tenant: str
    domain: str
    session_id: bytes
    commitment: bytes
    recipient: bytes
    wrapped: bytes = field(repr=False)

    @property
    def info(self) -> bytes:
        names = pack_text(self.tenant) + pack_text(self.domain)
        return _INFO_PREFIX + names + self.session_id + self.commitment + self.recipient


@dataclass(frozen=True, slots=True)
class UnwrappedKeys:
    session: SessionKeys
    domain: DomainKeys


def seal_envelope(
    *, session: SessionKeys, domain_keys: DomainKeys, tenant: str, domain: str, tenant_public_key: bytes
) -> bytes:
    recipient = key_fingerprint(tenant_public_key)
    clear = EnvelopeInfo(tenant, domain, session.session_id, session.commitment, recipient, b"")
    secret = session.data_key + domain_keys.id_key + domain_keys.map_key
    wrapped = _wrap(secret, tenant_public_key, clear.info)
    head = pack_header(ObjectKind.KEY.value) + _HEAD.pack(0, _HPKE_X25519_SHA256_AES256)
    names = pack_text(tenant) + pack_text(domain)
    return head + names + session.session_id + session.commitment + recipient + wrapped


def parse_envelope(data: bytes) -> EnvelopeInfo:
    if len(data) > ENVELOPE_SIZE_MAX:
        raise FormatError("the envelope is too large")
    check_header(data, ObjectKind.KEY.value)
    reader = ByteReader(data, what="key envelope")
    reader.take(8)
    flags, algorithm = _HEAD.unpack(reader.take(_HEAD.size))
    if flags or algorithm != _HPKE_X25519_SHA256_AES256:
        raise UnsupportedError("the envelope asks for something unknown")
    info = EnvelopeInfo(
        tenant=reader.text(),
        domain=reader.text(),
        session_id=reader.take(SESSION_ID_SIZE),
        commitment=reader.take(SHA256_SIZE),
        recipient=reader.take(SHA256_SIZE),
        wrapped=reader.take(_WRAPPED_SIZE),
    )
    reader.expect_end()
    return info


def unwrap_envelope(envelope_bytes: bytes, *, tenant_private_key: bytes, tenant: str, domain: str) -> UnwrappedKeys:
    """Open an envelope of this tenant and domain. KeyMismatchError for another key or commitment."""
    envelope = parse_envelope(envelope_bytes)
    if (envelope.tenant, envelope.domain) != (tenant, domain):
        raise KeyMismatchError("the envelope belongs to another tenant or domain")
    pair = tenant_key_from_private(tenant_private_key)
    if key_fingerprint(pair.public) != envelope.recipient:
        raise KeyMismatchError("the envelope was made for another tenant key")
    secret = _unwrap(envelope.wrapped, pair.private, envelope.info)
    data_key, id_key, map_key = (secret[start : start + KEY_SIZE] for start in (0, KEY_SIZE, 2 * KEY_SIZE))
    check_commitment(data_key, envelope.commitment)
    return UnwrappedKeys(
        session=SessionKeys(session_id=envelope.session_id, data_key=data_key),
        domain=DomainKeys(id_key=id_key, map_key=map_key),
    )


def _wrap(secret: bytes, public: bytes, info: bytes) -> bytes:
    # The ephemeral key comes from the operating system: HPKE takes no random bytes from outside.
    return _SUITE.encrypt(secret, X25519PublicKey.from_public_bytes(public), info)


def _unwrap(wrapped: bytes, private: bytes, info: bytes) -> bytes:
    try:
        secret = _SUITE.decrypt(wrapped, X25519PrivateKey.from_private_bytes(private), info)
    except (InvalidTag, ValueError) as error:
        raise KeyMismatchError("the envelope could not be opened") from error
    if len(secret) != 3 * KEY_SIZE:
        raise FormatError("the envelope does not hold three keys")
    return secret
