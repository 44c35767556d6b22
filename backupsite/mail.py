"""How mails leave: by an SMTP server that the environment names, else into files that a person can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TIMEOUT_SECONDS = 10
_PORTS = {"smtp": 587, "smtps": 465, "smtp+plain": 25}
_FORM = "must be like smtp://user:password@mail.example.com:587 (STARTTLS), smtps://... (TLS) or smtp+plain://..."


def mail_settings(url: str | None, *, folder: Path) -> dict[str, Any]:
    """Django's settings for the address of an SMTP server; None: mails become files in the folder.

    `smtp` insists on STARTTLS, `smtps` speaks TLS from the beginning, `smtp+plain` neither. Raises ValueError.
    """
    if url is None:
        return {"EMAIL_BACKEND": "backupsite.mail_files.MailFolder", "EMAIL_FILE_PATH": folder}
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(_FORM)
    try:
        port = parts.port or _PORTS[parts.scheme]
    except ValueError:
        raise ValueError(_FORM) from None
    return {
        "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "EMAIL_HOST": parts.hostname,
        "EMAIL_PORT": port,
        "EMAIL_HOST_USER": unquote(parts.username or ""),
        "EMAIL_HOST_PASSWORD": unquote(parts.password or ""),
        "EMAIL_USE_TLS": parts.scheme == "smtp",
        "EMAIL_USE_SSL": parts.scheme == "smtps",
        "EMAIL_TIMEOUT": TIMEOUT_SECONDS,
    }
