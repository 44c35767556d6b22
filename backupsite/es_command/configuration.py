"""Settings from the environment and a file, and the token of a sign-in. What holds a secret is for its owner alone."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backupsite.es_command.errors import UsageError

LONGEST_TIMEOUT_SECONDS = 3600
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_KEYS = {"url": str, "api_key": str, "ca_file": str, "token_file": str, "timeout_seconds": int, "csv_delimiter": str}


@dataclass(frozen=True, slots=True)
class Configuration:
    """`url` has no slash at its end. Times in seconds."""

    url: str
    token_file: Path
    ca_file: str | None = None
    timeout_seconds: int = 60
    csv_delimiter: str = ";"
    api_key: str | None = field(default=None, repr=False)


def load(environment: Mapping[str, str]) -> Configuration:
    """Raises UsageError, which names what is wrong."""
    home = Path(environment.get("HOME") or Path.home())
    path = Path(environment.get("ES_CONFIG") or _folder(environment, "XDG_CONFIG_HOME", home / ".config") / "es.toml")
    told = _of_file(path, needed="ES_CONFIG" in environment)
    names = {"url": "ES_API_URL", "api_key": "ES_API_KEY", "ca_file": "ES_CA_FILE", "token_file": "ES_TOKEN_FILE"}
    told |= {key: environment[name] for key, name in names.items() if environment.get(name)}
    usual = _folder(environment, "XDG_STATE_HOME", home / ".local" / "state") / "session.json"
    values = {key: told[key] for key in ("ca_file", "api_key", "timeout_seconds", "csv_delimiter") if key in told}
    if len(values.get("csv_delimiter", ";")) != 1:
        raise UsageError("csv_delimiter is one sign.")
    if not 1 <= values.get("timeout_seconds", 60) <= LONGEST_TIMEOUT_SECONDS:
        raise UsageError(f"timeout_seconds is 1 to {LONGEST_TIMEOUT_SECONDS}.")
    url = _checked_url(told.get("url", "http://127.0.0.1:8000/api"))
    return Configuration(url=url, token_file=Path(told.get("token_file", usual)), **values)


def refuse_in_clear(url: str) -> None:
    """A key or password goes over the network encrypted, or not at all."""
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise UsageError(f"{url} is not encrypted: use https, or say --insecure.")


def read_token(configuration: Configuration) -> str | None:
    """The token of the last sign-in at this very server; None when there is none. Raises UsageError."""
    try:
        _refuse_readable(configuration.token_file)
        told = json.loads(configuration.token_file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{configuration.token_file} cannot be read ({error}). Remove it, then: es login") from error
    return told.get("token") if isinstance(told, dict) and told.get("url") == configuration.url else None


def write_token(configuration: Configuration, token: str) -> None:
    folder = configuration.token_file.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # A new file of ours, 0600, that takes the place: no link of somebody else's is followed.
    handle, name = tempfile.mkstemp(dir=folder, prefix=".session-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"url": configuration.url, "token": token}, file)
        Path(name).replace(configuration.token_file)
    except OSError:
        with suppress(OSError):
            os.unlink(name)
        raise


def remove_token(configuration: Configuration) -> None:
    configuration.token_file.unlink(missing_ok=True)


def _folder(environment: Mapping[str, str], name: str, usual: Path) -> Path:
    return Path(environment.get(name) or usual) / "es"


def _of_file(path: Path, *, needed: bool) -> dict[str, Any]:
    try:
        told = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if needed:
            raise UsageError(f"{path} is not there, and ES_CONFIG names it.") from None
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    for key, value in told.items():
        if key not in _KEYS or type(value) is not _KEYS[key]:
            raise UsageError(f"{path}: {key} is not known, or of the wrong kind. Known: {', '.join(_KEYS)}.")
    if "api_key" in told:
        _refuse_readable(path)
    return told


def _refuse_readable(path: Path) -> None:
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"{path} holds a secret and others may read it. Do: chmod 600 {path}")


def _checked_url(url: str) -> str:
    if not _is_address(url):
        raise UsageError(f"{url!r} is no address of the API. Such as https://backup.example.com/api")
    return url.rstrip("/")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # Reading the port raises, where it is none.
        more = (parts.username, parts.password, parts.query, parts.fragment, parts.port == 0)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not any(more) and url.isascii()
