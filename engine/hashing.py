"""Keyed and derived BLAKE3, and the SHA-256 that names stored objects."""

from __future__ import annotations

import hashlib

from blake3 import blake3

_CONTEXT_PREFIX = "backupsite 2026-11 format v1 "


def derive_key(purpose: str, secret: bytes) -> bytes:
    """A 32-byte subkey; `purpose` is part of the format and must never be used for two things."""
    return blake3(secret, derive_key_context=_CONTEXT_PREFIX + purpose).digest()


def keyed_hash(key: bytes, data: bytes | memoryview) -> bytes:
    return blake3(data, key=key).digest()


def nonce_hash(key: bytes, salt: bytes, payload: bytes | memoryview) -> bytes:
    """First 12 bytes of the keyed hash of salt || payload."""
    return blake3(salt, key=key).update(payload).digest(12)


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
