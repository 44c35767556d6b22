"""OpenID Connect providers, as the environment names them; the secret may be in a file."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_FORM = (
    'must be a JSON list like [{"id": "corp", "name": "Corp", "issuer": "https://id.example.com", '
    '"client_id": "backupsite", "client_secret_file": "/path"}]'
)
_NEEDED = {"id", "name", "issuer", "client_id"}
_KNOWN = _NEEDED | {"client_secret", "client_secret_file", "believe_mfa"}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Provider:
    """`id` is part of the addresses and of what links accounts: another issuer needs another id."""

    id: str
    name: str
    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    believe_mfa: bool = True


def parse_providers(text: str) -> tuple[Provider, ...]:
    """Raises ValueError, without any value in it."""
    if not text.strip():
        return ()
    try:
        found = json.loads(text)
    except ValueError:
        raise ValueError(_FORM) from None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(_FORM)
    providers = tuple(_provider(entry) for entry in found)
    if len({provider.id for provider in providers}) != len(providers):
        raise ValueError("every provider needs an id of its own")
    return providers


def _provider(entry: dict[str, Any]) -> Provider:
    if (
        not entry.keys() >= _NEEDED
        or entry.keys() - _KNOWN
        or ("client_secret" in entry) == ("client_secret_file" in entry)
    ):
        raise ValueError(_FORM)
    believe_mfa = entry.pop("believe_mfa", True)
    if not all(isinstance(value, str) and value for value in entry.values()) or not isinstance(believe_mfa, bool):
        raise ValueError(_FORM)
    if not re.fullmatch(r"[a-z0-9-]{1,32}", entry["id"]):
        raise ValueError("the id of a provider has 1 to 32 of a-z, 0-9 and -")
    issuer = urlsplit(entry["issuer"])
    if issuer.scheme != "https" and not (issuer.scheme == "http" and issuer.hostname in _LOOPBACK):
        raise ValueError("the issuer of a provider must be an https address")
    return Provider(
        id=entry["id"],
        name=entry["name"],
        issuer=entry["issuer"].rstrip("/"),
        client_id=entry["client_id"],
        client_secret=_secret(entry),
        believe_mfa=believe_mfa,
    )


def _secret(entry: dict[str, Any]) -> str:
    if "client_secret" in entry:
        return str(entry["client_secret"])
    try:
        return Path(entry["client_secret_file"]).read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"the client_secret_file of {entry['id']} cannot be read") from None


def allauth_providers(providers: tuple[Provider, ...]) -> dict[str, Any]:
    """SOCIALACCOUNT_PROVIDERS."""
    apps = [
        {
            "provider_id": provider.id,
            "name": provider.name,
            "client_id": provider.client_id,
            "secret": provider.client_secret,
            "settings": {"server_url": provider.issuer},
        }
        for provider in providers
    ]
    return {"openid_connect": {"OAUTH_PKCE_ENABLED": True, "APPS": apps}}
