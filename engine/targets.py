"""Where a restore writes: a file, a block device, or a stream that only goes forward.

The restore writes with one thread. A file or a device can also be read, which a differential restore needs.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from engine.errors import EngineError

_FALLOC_KEEP_SIZE = 0x01
_FALLOC_PUNCH_HOLE = 0x02
_BLKZEROOUT = 0x127F
_ZERO_STEP_BYTES = 1024 * 1024
# The kernel or file system cannot do it here: zeros are written instead.
_CANNOT_ZERO = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL, errno.ENOTTY, errno.EPERM})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.ESTALE})
_libc = ctypes.CDLL(None, use_errno=True)


class TargetError(EngineError):
    """The target cannot be written or read."""

    default_code = "target_failed"


class TargetFullError(TargetError):
    """No space is left; the same restore can go on (differential) once there is some."""

    default_code = "target_full"


class TargetGoneError(TargetError):
    """The target was removed or shortened meanwhile: what was written is not where it should be."""

    default_code = "target_gone"


class TargetClosedError(TargetError):
    """Nobody reads the stream any more."""

    default_code = "target_closed"


class BlockTarget(Protocol):
    """Written by one thread only."""

    size_bytes: int

    def write(self, offset: int, data: bytes) -> None: ...

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros."""
        ...

    def flush(self) -> None:
        """Everything written is on the medium afterwards. Raises when the target is not what it was."""
        ...


@runtime_checkable
class ReadableTarget(BlockTarget, Protocol):
    """A differential restore is possible. `read` is called by several threads at once, but never during a write."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        ...


@runtime_checkable
class SparseTarget(ReadableTarget, Protocol):
    """Can tell holes, so that a differential restore need not read them. Under the same rule as `read`."""

    def is_hole(self, offset: int, length: int) -> bool:
        """True when the whole range is known to read as zeros without reading it."""
        ...


class FileTarget:
    """An open file of fixed size. `name` is for messages; the descriptor stays its opener's to close."""

    def __init__(self, descriptor: int, *, name: str) -> None:
        self.size_bytes = os.lseek(descriptor, 0, os.SEEK_END)
        self._descriptor = descriptor
        self._name = name
        self._had_name = os.fstat(descriptor).st_nlink > 0

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                offset += written
                view = view[written:]
        except OSError as error:
            raise self._error(error, "written") from error

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise self._error(error, "read") from error
        if len(data) != length:
            raise TargetGoneError(f"The target {self._name} became shorter during the restore.")
        return data

    def zero(self, offset: int, length: int) -> None:
        """A hole where it can be made, written zeros where it cannot."""
        if length <= 0 or self._make_zero(offset, length):
            return
        zeros = bytes(min(length, _ZERO_STEP_BYTES))
        for start in range(offset, offset + length, len(zeros)):
            self.write(start, memoryview(zeros)[: offset + length - start])

    def is_hole(self, offset: int, length: int) -> bool:
        try:
            return os.lseek(self._descriptor, offset, os.SEEK_DATA) >= offset + length
        except OSError as error:
            # No data behind the offset; any other answer means only that it is not known.
            return error.errno == errno.ENXIO and offset + length <= self.size_bytes

    def flush(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._error(error, "written") from error
        self._check_there()

    def _make_zero(self, offset: int, length: int) -> bool:
        mode = _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE
        if _libc.fallocate(self._descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0:
            return True
        code = ctypes.get_errno()
        if code not in _CANNOT_ZERO:
            raise self._error(OSError(code, os.strerror(code)), "written")
        return False

    def _check_there(self) -> None:
        # An unlinked file takes every write, and is nowhere when the restore ends.
        if self._had_name and os.fstat(self._descriptor).st_nlink == 0:
            raise TargetGoneError(f"The target {self._name} was removed during the restore.")
        if os.lseek(self._descriptor, 0, os.SEEK_END) < self.size_bytes:
            raise TargetGoneError(f"The target {self._name} became shorter during the restore.")

    def _error(self, error: OSError, verb: str) -> TargetError:
        if error.errno in _FULL:
            message = (
                f"There is no space left where {self._name} lies. Free some and run the restore again; it goes on."
            )
            return TargetFullError(message)
        if error.errno in _GONE:
            return TargetGoneError(f"The target {self._name} has gone: {error.strerror}.")
        return TargetError(f"The target {self._name} cannot be {verb}: {error.strerror}.")


class DeviceTarget(FileTarget):
    """A block device. Zeros by BLKZEROOUT, which never leaves old data, or written; discarding promises nothing."""

    def _make_zero(self, offset: int, length: int) -> bool:
        try:
            fcntl.ioctl(self._descriptor, _BLKZEROOUT, struct.pack("=QQ", offset, length))
        except OSError as error:
            if error.errno in _CANNOT_ZERO:
                return False
            raise self._error(error, "written") from error
        return True

    def is_hole(self, offset: int, length: int) -> bool:
        return False

    def _check_there(self) -> None:
        if os.lseek(self._descriptor, 0, os.SEEK_END) < self.size_bytes:
            raise TargetGoneError(f"The target {self._name} has gone or became smaller during the restore.")


class StreamTarget:
    """A pipe or standard output. The restore gives it the image from its first byte to its last, holes as zeros."""

    def __init__(self, descriptor: int, *, name: str = "standard output") -> None:
        self._descriptor = descriptor
        self._name = name

    def append(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except (BrokenPipeError, ConnectionResetError) as error:
            raise TargetClosedError(f"Nobody reads {self._name} any more; the restore stopped.") from error
        except OSError as error:
            if error.errno in _FULL:
                raise TargetFullError(f"There is no space left where {self._name} goes.") from error
            raise TargetError(f"{self._name} cannot be written: {error.strerror}.") from error

    def flush(self) -> None:
        """Onto the medium, where it goes to a file; a pipe has none."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.EROFS, errno.ENOTSUP}:
                raise TargetError(f"{self._name} cannot be written: {error.strerror}.") from error


def descriptor_target(descriptor: int, *, name: str) -> FileTarget:
    """The target for an open file or block device (writable, and readable for a differential restore)."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISBLK(mode):
        return DeviceTarget(descriptor, name=name)
    if stat.S_ISREG(mode):
        return FileTarget(descriptor, name=name)
    raise TargetError(f"The target {name} is neither a file nor a block device.", code="target_unsuitable")


@contextmanager
def open_target(path: str, *, size_bytes: int, existing: bool = False) -> Iterator[FileTarget]:
    """A target of at least `size_bytes` at this path.

    Without `existing` a new, sparse file is made, and what is there is refused (target_exists). With it, what is
    there is opened, a file that is too short is lengthened, and nothing is shortened. Held by an advisory lock, so
    that two restores do not write to one target (target_busy).
    """
    descriptor = _open(path, existing=existing)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TargetError(f"The target {path} is in use by another program.", code="target_busy") from error
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if is_file and os.lseek(descriptor, 0, os.SEEK_END) < size_bytes:
            _lengthen(descriptor, path, size_bytes)
        yield descriptor_target(descriptor, name=path)
    finally:
        os.close(descriptor)


def _open(path: str, *, existing: bool) -> int:
    # O_EXCL on a block device refuses one that is mounted or otherwise held.
    flags = os.O_RDWR | os.O_CLOEXEC | (_exclusive_if_device(path) if existing else os.O_CREAT | os.O_EXCL)
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError as error:
        raise TargetError(f"The target {path} exists already.", code="target_exists") from error
    except OSError as error:
        code = "target_busy" if error.errno == errno.EBUSY else "target_unsuitable"
        raise TargetError(f"The target {path} cannot be opened: {error.strerror}.", code=code) from error


def _exclusive_if_device(path: str) -> int:
    try:
        return os.O_EXCL if stat.S_ISBLK(os.stat(path).st_mode) else 0
    except OSError:
        return 0  # opening it will tell why


def _lengthen(descriptor: int, path: str, size_bytes: int) -> None:
    try:
        os.ftruncate(descriptor, size_bytes)
    except OSError as error:
        raise TargetError(f"The target {path} cannot be given its size: {error.strerror}.") from error
