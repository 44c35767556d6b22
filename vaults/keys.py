"""Wrapping of key material by the service's master key, for rows of the database.

AES-256-GCM with a random nonce; the purpose and the owner are authenticated, so a wrapped key cannot be moved to
another row. Only the signer and the control worker hold the master key.
"""

from __future__ import annotations

import os
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.errors import ConfigurationError

# What a wrapped key is; with the owner (tenant or domain) part of what is authenticated.
TENANT_KEY_PURPOSE = "tenant private key"
CATALOGUE_KEY_PURPOSE = "catalogue private key"
ID_KEY_PURPOSE = "domain id key"
MAP_KEY_PURPOSE = "domain map key"

_VERSION = b"\x01"
_NONCE_BYTES = 12


def wrap_key(*, master_key: bytes, key: bytes, purpose: str, owner: UUID) -> bytes:
    """Version byte, nonce, ciphertext with tag."""
    nonce = os.urandom(_NONCE_BYTES)
    return _VERSION + nonce + AESGCM(master_key).encrypt(nonce, key, _context(purpose, owner))


def unwrap_key(*, master_key: bytes, wrapped: bytes, purpose: str, owner: UUID) -> bytes:
    """Raises ConfigurationError when the master key is not the one that wrapped it, or the row was altered."""
    wrapped = bytes(wrapped)
    nonce, sealed = wrapped[1 : 1 + _NONCE_BYTES], wrapped[1 + _NONCE_BYTES :]
    try:
        if wrapped[:1] != _VERSION:
            raise InvalidTag
        return AESGCM(master_key).decrypt(nonce, sealed, _context(purpose, owner))
    except (InvalidTag, ValueError):
        raise ConfigurationError(
            f"The {purpose} of {owner} does not open with this master key. Was BACKUPSITE_MASTER_KEY changed?"
        ) from None


def _context(purpose: str, owner: UUID) -> bytes:
    return f"backupsite|wrap|{purpose}|{owner}".encode()
