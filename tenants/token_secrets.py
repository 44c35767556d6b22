"""The text of a token, and how its secret is kept: `bks_<key>.<secret>`, HMAC-SHA256 under a pepper. Pure.

The key finds the row and may be shown; the secret has 256 random bits. Peppers come from the environment, so a copy of
the database opens nothing, and a row that somebody wrote into it is no token. The first pepper makes new hashes, the
others are for hashes from before.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

PREFIX = "bks_"
LEAST_PEPPER_BYTES = 32
LONGEST_TEXT = 200
_KEY_BYTES = 9
_SECRET_BYTES = 32
_FORM = re.compile(r"bks_([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9_-]{32,86})\Z")
_PEPPER_ID = re.compile(r"[a-z0-9]{1,16}\Z")
_CONTEXT = b"backupsite api token v1\0"
Peppers = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token taken apart."""

    key: str
    secret: str = field(repr=False)

    def reveal(self) -> str:
        """The whole token. Only for the one answer that shows it."""
        return f"{PREFIX}{self.key}.{self.secret}"


@dataclass(frozen=True, slots=True)
class KeptSecret:
    """What the database holds of a secret. `mac` is hexadecimal."""

    pepper_id: str
    mac: str = field(repr=False)


def parse_peppers(text: str) -> dict[str, bytes]:
    """From `id:base64,id:base64`. Raises ValueError, without any value in it."""
    found: dict[str, bytes] = {}
    for part in text.split(","):
        pepper_id, _, encoded = part.strip().partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        if not _PEPPER_ID.match(pepper_id) or pepper_id in found or len(key) < LEAST_PEPPER_BYTES:
            raise ValueError(
                f"must be `id:key`, several with commas; each key at least {LEAST_PEPPER_BYTES} bytes in base64"
            )
        found[pepper_id] = key
    return found


def new_token_text() -> TokenText:
    return TokenText(key=secrets.token_urlsafe(_KEY_BYTES), secret=secrets.token_urlsafe(_SECRET_BYTES))


def parse_token(text: str) -> TokenText | None:
    """None for what cannot be a token."""
    found = _FORM.match(text) if len(text) <= LONGEST_TEXT else None
    return TokenText(key=found[1], secret=found[2]) if found else None


def keep(token: TokenText, peppers: Peppers) -> KeptSecret:
    """For the database, under the pepper in use."""
    pepper_id, pepper = next(iter(peppers.items()))
    return KeptSecret(pepper_id=pepper_id, mac=_mac(token, pepper))


def matches(token: TokenText, kept: KeptSecret, peppers: Peppers) -> bool:
    """Whether the secret is the kept one. Takes as long for a pepper that is not known any more."""
    pepper = peppers.get(kept.pepper_id)
    is_same = hmac.compare_digest(_mac(token, pepper or bytes(LEAST_PEPPER_BYTES)), kept.mac)
    return is_same and pepper is not None


def is_current(kept: KeptSecret, peppers: Peppers) -> bool:
    return kept.pepper_id == next(iter(peppers))


def _mac(token: TokenText, pepper: bytes) -> str:
    """The key is part of it: a hash does not fit another row."""
    return hmac.new(pepper, _CONTEXT + token.key.encode() + b"\0" + token.secret.encode(), hashlib.sha256).hexdigest()
