"""The folder of a storage in which copies lie: reached part by part, never through a link, and marked as ours.

<storage>/backups/.storage        says which storage this is: a share that is not mounted has none
<storage>/backups/<tenant>/<server>/<copy>, <copy>.json, <copy>.partial
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from agents.drivers.base import DiskFullError, DriverError

TOP = "backups"
MARK = ".storage"
PARTIAL = ".partial"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class StorageAwayError(DriverError):
    """The storage is not there, or it is another one: most often a share that is not mounted."""

    code = "storage_away"
    permanent = False


class StorageFailedError(DriverError):
    """The operating system gives an error for reads or writes on the storage."""

    code = "storage_failed"
    permanent = False


class CopyMissingError(DriverError):
    """The copy is not where the catalogue says."""

    code = "copy_missing"


class BadPlaceError(DriverError):
    """A place that leads out of the storage."""

    code = "bad_place"


def parts_of(place: str) -> tuple[list[str], str]:
    """The folders below `backups` and the name of the copy. Raises BadPlaceError."""
    parts = place.split("/")
    if any(part in {"", ".", "..", MARK} or "\0" in part for part in parts) or len(parts) < 2 or parts[0] != TOP:
        raise BadPlaceError(f"{place!r} is no place of a copy on a storage.")
    return parts[1:-1], parts[-1]


@contextmanager
def top_folder(storage_path: str, *, storage_id: str, is_new: bool = False) -> Iterator[int]:
    """The descriptor of `<storage>/backups`; made and marked when `is_new` and nothing is there.

    Raises StorageAwayError when it is not there or has the mark of another storage.
    """
    with _opened(storage_path, None) as root:
        if is_new:
            _make_top(root, storage_id)
        with _opened(TOP, root) as top:
            if _mark_of(top) != storage_id:
                raise StorageAwayError(f"{storage_path} is not the storage that it was. Is the right one mounted?")
            yield top


def mark_on(storage_path: str) -> str:
    """Which storage a path is, as its folder of copies says; empty when there is none, or it cannot be read."""
    try:
        with _opened(storage_path, None) as root, _opened(TOP, root) as top:
            return _mark_of(top)
    except StorageAwayError:
        return ""


@contextmanager
def folder_below(top: int, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """The descriptor of a folder below. Raises CopyMissingError when it is not there."""
    descriptor = os.dup(top)
    try:
        for part in parts:
            if create:
                _make_folder(part, descriptor)
            try:
                below = os.open(part, _FOLDER, dir_fd=descriptor)
            except FileNotFoundError as error:
                raise CopyMissingError(f"The folder {'/'.join(parts)} is not on the storage any more.") from error
            except OSError as error:
                raise failed(error, part) from error
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened(path: str, folder: int | None) -> Iterator[int]:
    try:
        descriptor = os.open(path, _FOLDER if folder is not None else _FOLDER & ~os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        raise StorageAwayError(f"The storage's folder {path} cannot be opened: {error.strerror}.") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make_top(root: int, storage_id: str) -> None:
    _make_folder(TOP, root)
    with _opened(TOP, root) as top:
        if _mark_of(top) == "":
            write_small(top, MARK, storage_id.encode())


def _make_folder(name: str, folder: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
        os.fsync(folder)
    except FileExistsError:
        return
    except OSError as error:
        raise failed(error, name) from error


def _mark_of(top: int) -> str:
    return read_small(top, MARK, 200).decode(errors="replace").strip()


def read_small(folder: int, name: str, most: int) -> bytes:
    """At most so many bytes of a file; none when it is not there or no regular file."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return b""
    with open(descriptor, "rb") as file:
        try:
            return file.read(most)
        except OSError:
            return b""


def write_small(folder: int, name: str, data: bytes) -> None:
    """Beside and renamed, on the medium afterwards."""
    beside = f"{name}.{secrets.token_hex(4)}{PARTIAL}"
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except OSError as error:
        remove_file(folder, beside)
        raise failed(error, name) from error


def remove_file(folder: int, name: str) -> bool:
    """Whether it was there. Raises StorageFailedError when it cannot be removed."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise failed(error, name) from error
    return True


@contextmanager
def naming(top: int) -> Iterator[None]:
    """Held while something half written gets its name and its lock, and while such things are removed."""
    with open(os.open(MARK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top), "rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield


def remove_leftovers(top: int, folder: int) -> list[str]:
    """Remove what was being written by programs that are gone: whoever writes holds a lock on it. Names removed."""
    with naming(top):
        left = [name for name in os.listdir(folder) if name.endswith(PARTIAL) and _is_left(folder, name)]
        return [name for name in left if remove_file(folder, name)]


def _is_left(folder: int, name: str) -> bool:
    descriptor = -1
    with suppress(OSError):
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        return True
    if descriptor >= 0:
        os.close(descriptor)
    return False


def failed(error: OSError, name: str) -> DriverError:
    """What an error of the operating system means for a file of the storage."""
    if error.errno in _FULL:
        return DiskFullError("The storage has no space left. Free some, or remove backups, and run the backup again.")
    return StorageFailedError(f"{name} on the storage cannot be read or written: {error.strerror}.")
