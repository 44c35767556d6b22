"""Who may touch a server's disks on this machine: movers beside each other, a sweep of leftovers alone.

Locks of files: the kernel takes them back when a process dies.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Below the node's directory.
LOCKS = "servers"


@contextmanager
def moving(folder: Path, server: str) -> Iterator[None]:
    """While disks of the server are read or written. Waits for a sweep, which takes seconds."""
    with _opened(folder, server) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


@contextmanager
def sweeping(folder: Path, server: str) -> Iterator[bool]:
    """Gives whether nobody moves the server's disks; until the end nobody does."""
    with _opened(folder, server) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def _opened(folder: Path, server: str) -> Iterator[int]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / f"{server}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
