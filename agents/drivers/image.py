"""Driver `image`: raw disk images (and block devices) of servers that are shut off, in a directory of the node.

Only allocated extents are read. A raw file has no snapshot: a source that is written to meanwhile is noticed by its
size and change time, and the backup is refused rather than made of two points in time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from agents.drivers.base import (
    Capability,
    DiskAddress,
    DiskBusyError,
    DiskChangedError,
    DiskFullError,
    DiskMissingError,
    DiskTooSmallError,
    DiskUnreadableError,
    DiskWish,
    OpenedDisk,
    OpenedTarget,
    ReadWish,
    SourceFacts,
    TargetFacts,
    WriteWish,
)
from agents.drivers.holding import confined, refuse_attached
from engine.targets import descriptor_target
from engine.writer import Extent


class ImageSource:
    """A raw image opened for reading. Thread-safe: reads carry their own offset."""

    def __init__(self, *, descriptor: int, path: str, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._descriptor = descriptor
        self._path = path
        self._before = _state_of(descriptor)

    def extents(self) -> Iterable[Extent]:
        """Allocated data, ascending; holes are never touched."""
        offset = 0
        while offset < self.size_bytes:
            try:
                start = os.lseek(self._descriptor, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise _read_error(self._path, error) from error
            end = min(os.lseek(self._descriptor, start, os.SEEK_HOLE), self.size_bytes)
            if start >= end:
                return
            yield Extent(offset=start, length=end - start)
            offset = end

    def changed_extents(self) -> Iterable[Extent] | None:
        """A raw image cannot tell what changed."""
        return None

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise _read_error(self._path, error) from error
        if len(data) < length:
            raise DiskChangedError(f"The image {self._path} became shorter while it was read. Run the backup again.")
        return data

    def check_unchanged(self) -> None:
        try:
            same_file = os.stat(self._path).st_ino == os.fstat(self._descriptor).st_ino
        except OSError:
            same_file = False
        if not same_file or _state_of(self._descriptor) != self._before:
            raise DiskChangedError(
                f"The image {self._path} was changed while it was read. Shut the server off, or use a driver that "
                "takes snapshots, and run the backup again."
            )


class ImageDriver:
    """See the module."""

    name = "image"

    def probe(self) -> Capability:
        return Capability(usable=True)

    @contextmanager
    def open_sources(self, wish: ReadWish) -> Iterator[Sequence[OpenedDisk]]:
        with ExitStack() as opened:
            sources = [opened.enter_context(_open_source(disk.address)) for disk in wish.disks]
            yield [OpenedDisk(source, SourceFacts()) for source in sources]

    @contextmanager
    def open_target(self, wish: WriteWish) -> Iterator[OpenedTarget]:
        path = confined(wish.address)
        descriptor = _create(path, wish.size_bytes) if wish.create else _open(path, os.O_RDWR)
        try:
            _lock(descriptor, path, fcntl.LOCK_EX)
            refuse_attached(path)
            if _size_of(descriptor) < wish.size_bytes:
                raise DiskTooSmallError(
                    f"The disk image {path} has {_size_of(descriptor)} bytes, the backup {wish.size_bytes}. "
                    "Choose a larger disk, or a new one."
                )
            yield OpenedTarget(descriptor_target(descriptor, name=path), TargetFacts())
        finally:
            os.close(descriptor)

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]:
        """A raw image has no points."""
        return ()


@contextmanager
def _open_source(address: DiskAddress) -> Iterator[ImageSource]:
    path = confined(address)
    descriptor = _open(path, os.O_RDONLY)
    try:
        _lock(descriptor, path, fcntl.LOCK_SH)
        yield ImageSource(descriptor=descriptor, path=path, size_bytes=_size_of(descriptor))
    finally:
        os.close(descriptor)


def _open(path: str, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise DiskMissingError(f"The disk image {path} is not there. Was it moved, renamed or removed?") from error
    except OSError as error:
        raise DiskUnreadableError(f"The disk image {path} cannot be opened: {error.strerror}.") from error
    if not (stat.S_ISREG(os.fstat(descriptor).st_mode) or stat.S_ISBLK(os.fstat(descriptor).st_mode)):
        os.close(descriptor)
        raise DiskMissingError(f"{path} is neither a file nor a block device.")
    return descriptor


def _create(path: str, size_bytes: int) -> int:
    """A new image that reads as zeros. It stays there when the restore fails: the next try writes to it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise DiskBusyError(f"There is a disk image at {path} already. Choose another name.") from error
    except OSError as error:
        raise DiskUnreadableError(f"The disk image {path} cannot be made: {error.strerror}.") from error
    try:
        os.truncate(descriptor, size_bytes)
    except OSError as error:
        os.close(descriptor)
        os.unlink(path)
        raise DiskFullError(f"The disk image {path} cannot have {size_bytes} bytes: {error.strerror}.") from error
    return descriptor


def _lock(descriptor: int, path: str, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DiskBusyError(f"The disk image {path} is in use by another program or job.") from error


def _size_of(descriptor: int) -> int:
    return os.lseek(descriptor, 0, os.SEEK_END)


def _state_of(descriptor: int) -> tuple[int, int, int]:
    told = os.fstat(descriptor)
    return told.st_size, told.st_mtime_ns, told.st_ino


def _read_error(path: str, error: OSError) -> DiskUnreadableError:
    return DiskUnreadableError(f"The disk image {path} cannot be read: {error.strerror}.")
