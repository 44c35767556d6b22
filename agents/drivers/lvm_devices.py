"""Devices of thin volumes: a snapshot that is read, and a volume that is written and gives zeros back to its pool."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from agents.drivers.base import DiskBusyError, DiskChangedError, DiskUnreadableError
from engine.scan import Extent
from engine.targets import DeviceTarget

_BLKDISCARD = 0x1277
_STEP_BYTES = 1024 * 1024


class LvmSource:
    """A snapshot opened for reading. Thread-safe: reads carry their own offset."""

    def __init__(self, *, descriptor: int, path: str, size_bytes: int, mapped: Sequence[Extent]) -> None:
        self.size_bytes = size_bytes
        self.changed: Sequence[Extent] | None = None
        self._descriptor = descriptor
        self._path = path
        self._mapped = mapped

    def extents(self) -> Iterable[Extent]:
        return self._mapped

    def changed_extents(self) -> Iterable[Extent] | None:
        return self.changed

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise DiskUnreadableError(f"The snapshot {self._path} cannot be read: {error.strerror}.") from error
        if len(data) < length:
            raise DiskChangedError(f"The snapshot {self._path} became shorter while it was read.")
        return data

    def check_unchanged(self) -> None:
        """Nobody writes to a snapshot of ours; but somebody may have taken it away."""
        opened = os.fstat(self._descriptor)
        try:
            there = os.stat(self._path)
        except OSError:
            there = None
        if there is None or (there.st_ino, there.st_rdev) != (opened.st_ino, opened.st_rdev):
            raise DiskChangedError(f"The snapshot {self._path} was removed while it was read. Run the backup again.")


class ThinTarget(DeviceTarget):
    """A thin volume: zeros are blocks that are given back to the pool, where the pool does that, and else written."""

    def __init__(self, descriptor: int, *, name: str, block_bytes: int) -> None:
        super().__init__(descriptor, name=name)
        self._block_bytes = block_bytes

    def zero(self, offset: int, length: int) -> None:
        first = -(-offset // self._block_bytes) * self._block_bytes
        last = (offset + length) // self._block_bytes * self._block_bytes
        if first >= last or not self._discard(first, last - first):
            super().zero(offset, length)
            return
        super().zero(offset, first - offset)
        super().zero(last, offset + length - last)

    def _discard(self, offset: int, length: int) -> bool:
        """Whether it reads as zeros now, which is looked at: nothing promises it."""
        try:
            fcntl.ioctl(self._descriptor, _BLKDISCARD, struct.pack("=QQ", offset, length))
        except OSError:
            return False
        zeros = bytes(min(length, _STEP_BYTES))
        for at in range(offset, offset + length, len(zeros)):
            step = min(len(zeros), offset + length - at)
            if self.read(at, step) != (zeros if step == len(zeros) else zeros[:step]):
                return False
        return True


@contextmanager
def opened_device(path: str, flags: int) -> Iterator[int]:
    """O_EXCL refuses a device that is mounted or held by another one."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DiskBusyError(f"{path} is mounted or in use. Shut down what uses it.") from error
        raise DiskUnreadableError(f"{path} cannot be opened: {error.strerror}.") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
