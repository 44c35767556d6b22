"""Secrets made once and kept in files only their owner can read; never logged, never on a command line.

The master key opens what is in the vaults: when it is lost while other secrets are there, making a new one would hide
the loss until the first restore, so that is refused.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from backupsite.stack.errors import StackError

MASTER_KEY_NAME = "master_key"
S3_IDENTITIES = ("signer", "keeper", "provisioner", "reaper", "copier")


@dataclass(frozen=True, slots=True, repr=False)
class S3Credential:
    access_key: str
    secret_key: str


@dataclass(frozen=True, slots=True, repr=False)
class StackSecrets:
    django_secret_key: str
    master_key: str
    notice_key: str
    mfa_key: str
    portal_signer_key: str
    token_peppers: str
    control_key: str
    s3: dict[str, S3Credential]


def load_or_make(directory: Path) -> StackSecrets:
    """The secrets in the folder; what is missing is made. May be called again and again."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(_readable_names(directory)) and not (directory / MASTER_KEY_NAME).exists():
        raise StackError(
            f"{directory / MASTER_KEY_NAME} is missing; put it back from your copy: a new key opens no existing backup"
        )
    return StackSecrets(
        master_key=_kept(directory / MASTER_KEY_NAME, lambda: base64.b64encode(secrets.token_bytes(32)).decode()),
        django_secret_key=_kept(directory / "django_secret_key", lambda: secrets.token_urlsafe(64)),
        notice_key=_kept(directory / "notice_key", lambda: base64.b64encode(secrets.token_bytes(32)).decode()),
        mfa_key=_kept(directory / "mfa_key", lambda: base64.b64encode(secrets.token_bytes(32)).decode()),
        portal_signer_key=_kept(directory / "portal_signer_key", lambda: secrets.token_urlsafe(64)),
        token_peppers=_kept(
            directory / "token_peppers", lambda: "1:" + base64.b64encode(secrets.token_bytes(32)).decode()
        ),
        control_key=_kept(directory / "control_key", lambda: base64.b64encode(secrets.token_bytes(32)).decode()),
        s3={name: _credential(directory, name) for name in S3_IDENTITIES},
    )


def public_half(control_key: str) -> str:
    """What the portal may know of the key that signs answers to agents; both in base64."""
    private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(control_key))
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def new_credential() -> S3Credential:
    return S3Credential(access_key=secrets.token_hex(10).upper(), secret_key=secrets.token_urlsafe(40))


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _credential(directory: Path, name: str) -> S3Credential:
    made = new_credential()
    return S3Credential(
        access_key=_kept(directory / f"s3_{name}_access_key", lambda: made.access_key),
        secret_key=_kept(directory / f"s3_{name}_secret_key", lambda: made.secret_key),
    )


def _kept(path: Path, make: Callable[[], str]) -> str:
    if not path.exists():
        write_private(path, make())
    path.chmod(0o600)
    value = path.read_text().strip()
    if not value:
        raise StackError(f"the secret {path} is empty; put it back from your copy")
    return value


def _readable_names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir() if not entry.name.startswith(".")]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
