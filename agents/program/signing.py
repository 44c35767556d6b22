"""The signing key of a node or agent: made on the machine, never leaves it."""

from __future__ import annotations

import os
from pathlib import Path

from engine.crypto import WriterKey, generate_writer_key, writer_key_from_private

FILE_NAME = "signing.key"


def load_writer_key(directory: Path) -> WriterKey:
    """The machine's Ed25519 key pair; the private half is made with mode 0600 at the first call. Safe to race."""
    path = directory / FILE_NAME
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_once(path, generate_writer_key().private)
    return writer_key_from_private(path.read_bytes())


def _write_once(path: Path, key: bytes) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(beside, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(beside)
