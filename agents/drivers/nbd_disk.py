"""A disk behind an NBD server, as the engine reads and writes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from agents.drivers.base import DiskChangedError
from agents.drivers.nbd import NbdClient
from engine.scan import Extent

ALLOCATION = "base:allocation"
_ZERO, _DIRTY = 0x2, 0x1


class NbdSource:
    """A BlockSource. `changes` is the bitmap's context, or None when all is to be read.

    `is_point` says whether the export still is what it was when it was opened.
    """

    def __init__(self, client: NbdClient, *, changes: str | None, is_point: Callable[[], bool], name: str) -> None:
        self.size_bytes = client.size_bytes
        self._client = client
        self._changes = changes
        self._is_point = is_point
        self._name = name

    def extents(self) -> Iterable[Extent]:
        """What does not read as zeros."""
        return (
            Extent(offset, length) for offset, length, flags in self._client.statuses(ALLOCATION) if not flags & _ZERO
        )

    def changed_extents(self) -> Iterable[Extent] | None:
        if self._changes is None:
            return None
        return (
            Extent(offset, length) for offset, length, flags in self._client.statuses(self._changes) if flags & _DIRTY
        )

    def read(self, offset: int, length: int) -> bytes:
        return self._client.read(offset, length)

    def check_unchanged(self) -> None:
        if not self._is_point():
            raise DiskChangedError(
                f"The hypervisor ended the backup of {self._name} while it was read. Run the backup again."
            )


class NbdTarget:
    """A SparseTarget over a writable export of the image at `path`."""

    def __init__(self, client: NbdClient, *, path: str) -> None:
        self.size_bytes = client.size_bytes
        self.write, self.zero, self.read = client.write, client.zero, client.read
        self._client = client
        self._path = path
        self._inode = os.stat(path).st_ino

    def is_hole(self, offset: int, length: int) -> bool:
        return all(flags & _ZERO for _, _, flags in self._client.statuses(ALLOCATION, offset, offset + length))

    def flush(self) -> None:
        self._client.flush()
        try:
            same = os.stat(self._path).st_ino == self._inode
        except OSError:
            same = False
        if not same:
            raise DiskChangedError(f"The disk image {self._path} was replaced while it was written. Restore again.")
