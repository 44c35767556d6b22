"""Identifiers: UUIDs that sort by time of birth, short name suffixes, secret tokens."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
import uuid

_SUFFIX_ALPHABET = "0123456789abcdef"


def new_id() -> uuid.UUID:
    """A UUID version 7 (RFC 9562): 48 bits of Unix milliseconds, then random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def new_name_suffix(length: int = 4) -> str:
    """Random hexadecimal ending of a tenant's names, as in `backup-tenant-4f2a`."""
    return "".join(secrets.choice(_SUFFIX_ALPHABET) for _ in range(length))


def new_secret_token() -> str:
    """256 random bits as text that is safe in a header."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """SHA-256 of a token, hexadecimal. Enough for 256-bit random tokens; never for passwords."""
    return hashlib.sha256(token.encode()).hexdigest()
