"""Files that are written as a whole or not at all, and a lock that the kernel takes back from the dead."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agents.program.agent.errors import BusyError


def write_whole(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """The file has either its old content or all of the new one, whenever the power goes."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)  # noqa: PTH105  # the pair of os.open
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def try_writing(folder: Path) -> None:
    """Raises the OSError of a full disk, or of one that cannot be written, before anything depends on it."""
    write_whole(folder / "writable", bytes(4096))
    (folder / "writable").unlink()


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_if_there(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """The one running instance; its process id is in the file. Raises BusyError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"Another instance of the agent works with {path.parent} (process {holder(path) or 'unknown'}). "
                "End it first."
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> int | None:
    """The process that holds the lock; None when nobody does."""
    try:
        # To read is enough, also where nothing can be written any more.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        told = os.pread(descriptor, 20, 0).decode("ascii", "replace")
        return int(told) if told.isdigit() else None
    finally:
        os.close(descriptor)
    return None


def wipe(path: Path) -> None:
    """Overwrite and remove a file of secrets. Old bytes may live on in the medium: keys are revoked too."""
    try:
        with open(path, "r+b", buffering=0) as file:
            file.write(os.urandom(max(path.stat().st_size, 32)))
            os.fsync(file.fileno())
        path.unlink()
    except FileNotFoundError:
        return
