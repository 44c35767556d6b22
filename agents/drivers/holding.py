"""Who may use a disk or a server now: the path of a disk inside of its storage, locks, and a folder for one job."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agents.drivers.base import (
    POINT_PREFIX,
    DiskAddress,
    DiskBusyError,
    DiskMissingError,
    DiskUnreadableError,
    DriverError,
)

_RUN_FOLDER = "/run/backupsite"


class FolderError(DriverError):
    """The node's folder for running jobs cannot be used."""

    code = "node_misconfigured"


class PointNameError(DriverError):
    """A point whose name would not show whose it is."""

    code = "bad_point_name"


def safe_point(name: str) -> str:
    """The name of a point or safety point, when it is one of ours and fit to be part of any other name."""
    if not re.fullmatch(POINT_PREFIX + r"[A-Za-z0-9-]+", name):
        raise PointNameError(f"The name of a point begins with {POINT_PREFIX} and has letters, digits and hyphens.")
    return name


def confined(address: DiskAddress) -> str:
    """The real path of the disk; it must lie inside of its storage, links followed."""
    root = os.path.realpath(address.storage_path)
    path = os.path.realpath(os.path.join(root, address.path))
    if os.path.commonpath([root, path]) != root or path == root:
        raise DiskMissingError(f"The path {address.path} leads out of its storage.")
    return path


@contextmanager
def held_disk(path: str) -> Iterator[int]:
    """The disk's descriptor, open for reading, locked against every other job. DiskMissingError, DiskBusyError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise DiskMissingError(f"The disk image {path} is not there. Was it moved, renamed or removed?") from error
    except OSError as error:
        raise DiskUnreadableError(f"The disk image {path} cannot be opened: {error.strerror}.") from error
    try:
        if not (stat.S_ISREG(os.fstat(descriptor).st_mode) or stat.S_ISBLK(os.fstat(descriptor).st_mode)):
            raise DiskMissingError(f"{path} is neither a file nor a block device.")
        _lock(descriptor, f"The disk image {path} is in use by another job.")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def held_server(uuid: str, folder: str | None = None) -> Iterator[str]:
    """A folder for the one job on this server, still with what an ended job left in it; removed at the end when empty.

    `folder` holds those of all servers. DiskBusyError when another job has the server.
    """
    root = folder or _default_folder()
    _make_private(root)
    job = os.path.join(root, uuid)
    descriptor = _locked_folder(job, f"Another job has the server {uuid} now.")
    try:
        yield job
    finally:
        # Only an empty one goes: what could not be cleaned up is found by its marks in here.
        with suppress(OSError):
            Path(job).rmdir()
        os.close(descriptor)


def standing_for(path: str) -> str:
    """A name for `held_server` for what has only a path; short, because sockets in its folder have 107 bytes in all."""
    return f"at-{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}"


def _locked_folder(path: str, message: str) -> int:
    """A lock on the folder itself, so that nothing stays behind; taken again when it was removed meanwhile."""
    while True:
        # Without root an access list of the folder above lets QEMU in, which a mode without group bits would mask.
        Path(path).mkdir(mode=0o700 if os.geteuid() == 0 else 0o770, exist_ok=True)
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                _lock(descriptor, message)
                if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _default_folder() -> str:
    """Below /run, where root makes it and systemd for anybody else; QEMU passes through it and lists nothing."""
    if os.geteuid() == 0 or os.access(_RUN_FOLDER, os.W_OK):
        return _RUN_FOLDER
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), f"backupsite-{os.geteuid()}")


def _make_private(root: str) -> None:
    """Names inside are known beforehand, so nobody else may be able to make them."""
    try:
        Path(root).mkdir(mode=0o711, exist_ok=True)
        told = os.lstat(root)
    except OSError as error:
        raise FolderError(f"The folder {root} cannot be made: {error.strerror}.") from error
    if not stat.S_ISDIR(told.st_mode) or told.st_uid != os.geteuid() or told.st_mode & 0o022:
        raise FolderError(f"The folder {root} belongs to somebody else, or others may write to it. Remove it.")


def _lock(descriptor: int, message: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DiskBusyError(message) from error


def refuse_attached(path: str) -> None:
    """A file behind a loop device may be mounted; writing under it would destroy both."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            attached = backing.read_text().strip()
        except OSError:
            continue
        if attached == path:
            raise DiskBusyError(f"The disk image {path} is attached to {backing.parts[3]}. Detach it first.")
