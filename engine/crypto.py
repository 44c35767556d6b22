"""Keys: what exists, who holds it, how it is made. Nothing here prints key bytes.

tenant key      X25519; the private half opens envelopes and is never on a protected host
writer key      Ed25519; signs manifests; one per enrolled writer
domain keys     id_key and map_key; a writing host knows both, so that it can find what is unchanged
session keys    a fresh data key per session; a host forgets it when the session ends
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from engine.codec import KEY_SIZE, SESSION_ID_SIZE
from engine.errors import KeyMismatchError, SignatureError
from engine.hashing import derive_key

RandomBytes: TypeAlias = Callable[[int], bytes]


def _check_size(name: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise KeyMismatchError(f"{name} must have {size} bytes")


@dataclass(frozen=True, slots=True)
class TenantKeyPair:
    private: bytes = field(repr=False)
    public: bytes


@dataclass(frozen=True, slots=True)
class WriterKey:
    """Ed25519 key pair of a writer, both halves as raw 32 bytes."""

    private: bytes = field(repr=False)
    public: bytes

    @property
    def fingerprint(self) -> bytes:
        return key_fingerprint(self.public)


@dataclass(frozen=True, slots=True)
class DomainKeys:
    id_key: bytes = field(repr=False)
    map_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_size("id_key", self.id_key, KEY_SIZE)
        _check_size("map_key", self.map_key, KEY_SIZE)


@dataclass(frozen=True, slots=True)
class SessionKeys:
    session_id: bytes
    data_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_size("session_id", self.session_id, SESSION_ID_SIZE)
        _check_size("data_key", self.data_key, KEY_SIZE)

    @property
    def commitment(self) -> bytes:
        return key_commitment(self.data_key)


def generate_tenant_key() -> TenantKeyPair:
    key = X25519PrivateKey.generate()
    return TenantKeyPair(private=key.private_bytes_raw(), public=key.public_key().public_bytes_raw())


def tenant_key_from_private(private: bytes) -> TenantKeyPair:
    _check_size("tenant private key", private, KEY_SIZE)
    public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return TenantKeyPair(private=private, public=public)


def generate_writer_key() -> WriterKey:
    return writer_key_from_private(Ed25519PrivateKey.generate().private_bytes_raw())


def writer_key_from_private(private: bytes) -> WriterKey:
    _check_size("writer private key", private, KEY_SIZE)
    public = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return WriterKey(private=private, public=public)


def generate_domain_keys(random_bytes: RandomBytes) -> DomainKeys:
    return DomainKeys(id_key=random_bytes(KEY_SIZE), map_key=random_bytes(KEY_SIZE))


def generate_session_keys(random_bytes: RandomBytes) -> SessionKeys:
    return SessionKeys(session_id=random_bytes(SESSION_ID_SIZE), data_key=random_bytes(KEY_SIZE))


def key_fingerprint(public: bytes) -> bytes:
    return hashlib.sha256(public).digest()


def key_commitment(secret: bytes) -> bytes:
    """A public value that fits only this key: AES-GCM alone lets two keys open one ciphertext."""
    return derive_key("key commitment", secret)


def check_commitment(secret: bytes, commitment: bytes) -> None:
    if not hmac.compare_digest(key_commitment(secret), commitment):
        raise KeyMismatchError("the key does not match its commitment")


def sign(key: WriterKey, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(key.private).sign(message)


def verify_signature(
    *, message: bytes | memoryview, signature: bytes, fingerprint: bytes, trusted: Collection[bytes]
) -> bytes:
    """Return the public key (one of `trusted`) that made the signature; SignatureError otherwise."""
    for public in trusted:
        if hmac.compare_digest(key_fingerprint(public), fingerprint):
            _verify_with(public, message, signature)
            return public
    raise SignatureError("the signer is not trusted", code="untrusted_writer")


def _verify_with(public: bytes, message: bytes | memoryview, signature: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, bytes(message))
    except (InvalidSignature, ValueError) as error:
        raise SignatureError("the signature does not match") from error
