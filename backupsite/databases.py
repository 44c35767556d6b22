"""The database setting of Django from one URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from common.errors import ConfigurationError

# Measured: with IMMEDIATE transactions and WAL no writer fails with "database is locked"; Django's default does.
_SQLITE_OPTIONS = {
    "timeout": 20,
    "transaction_mode": "IMMEDIATE",
    "init_command": (
        "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA temp_store=MEMORY;PRAGMA cache_size=-16000;"
    ),
}


def database_from_url(url: str | None, *, data: Path) -> dict[str, Any]:
    """Django's database dictionary. Without a URL: SQLite in the data folder.

    SQLite keeps synchronous=FULL: an `ok` backup must survive a power cut.
    Raises ConfigurationError for a scheme that is not supported.
    """
    if not url:
        return _sqlite(str(data.absolute() / "db" / "backupsite.sqlite3"))
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return _sqlite(unquote(parts.path)[1:] if parts.path.startswith("//") else unquote(parts.path))
    if parts.scheme in {"postgres", "postgresql"}:
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": unquote(parts.hostname or ""),
            "PORT": str(parts.port or ""),
            "CONN_MAX_AGE": 60,
            "CONN_HEALTH_CHECKS": True,
        }
    raise ConfigurationError("BACKUPSITE_DATABASE_URL must begin with sqlite:/// or postgresql://")


def _sqlite(path: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": dict(_SQLITE_OPTIONS),
        # Tests use a file as well: threads of a server under test then have connections of their own.
        "TEST": {"NAME": f"{path}.test"},
    }
