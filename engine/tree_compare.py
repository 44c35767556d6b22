"""What a target holds already of the files of a backup: compared by content, never by a path through a symbolic link.

A file is the same when its size is, the keyed hash of each stretch is the content id in the signed entry, and its
holes are holes. It trusts neither what an earlier restore said it wrote nor, unless told to, any dates.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from engine.sealing import RecordSealer
from engine.tree_dirs import DirectoryPath, MovedDirectoryError
from engine.tree_entries import TreeEntry
from engine.waiting import Cancel, check_cancel

_READ_BYTES = 1024 * 1024
OPEN_EXISTING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Stretch(NamedTuple):
    """Where a chunk lies in its file; `content_id` None for one that a lost page hides."""

    offset: int
    length: int
    content_id: bytes | None


class Held(NamedTuple):
    """A regular file of the target as it was when it was compared. `same_chunks` has a byte for each chunk of the
    entry, not 0 where the file has it in its place; with `is_same` there is nothing to write at all.
    """

    place: tuple[int, int]
    size: int
    mtime_ns: int
    link_count: int
    is_same: bool
    same_chunks: bytes

    def is_still(self, found: os.stat_result) -> bool:
        return (found.st_dev, found.st_ino) == self.place and found.st_size == self.size


class TargetFiles:
    """Looks at files below the target in ascending order of their keys. Owns its descriptors; use as a context
    manager. Only reads."""

    def __init__(self, target: int, *, sealer: RecordSealer, trust_mtime: bool, cancel: Cancel) -> None:
        self._path = DirectoryPath(os.dup(target))
        self._names: list[bytes] = []
        self._sealer = sealer
        self._trust_mtime = trust_mtime
        self._cancel = cancel

    def __enter__(self) -> TargetFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.__exit__()

    def look(self, entry: TreeEntry, *, size: int, stretches: Callable[[], Iterator[Stretch]]) -> Held | None:
        """None where there is no regular file that can be read; then the entry is restored in full."""
        try:
            descriptor = self._open(entry.key)
        except OSError:
            return None
        except MovedDirectoryError:
            self._path.surface()
            del self._names[self._path.depth :]
            return None
        try:
            found = os.fstat(descriptor)
            facts = (found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns, found.st_nlink
            if self._trust_mtime and (found.st_size, found.st_mtime_ns) == (size, entry.mtime_ns):
                return Held(*facts, True, b"")
            is_same, same_chunks = self._compare(descriptor, found, size, stretches())
            return Held(*facts, is_same, same_chunks)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def _open(self, key: bytes) -> int:
        *parents, name = key.split(b"\0")
        shared = 0
        while shared < min(len(parents), len(self._names)) and parents[shared] == self._names[shared]:
            shared += 1
        while len(self._names) > shared:
            self._path.leave()
            self._names.pop()
        for parent in parents[shared:]:
            self._path.enter(parent)
            self._names.append(parent)
        # To open a device or a FIFO could do something, so it is looked at first.
        if not stat.S_ISREG(os.stat(name, dir_fd=self._path.descriptor, follow_symlinks=False).st_mode):
            raise FileNotFoundError(errno.ENOENT, "no regular file")
        return os.open(name, OPEN_EXISTING, dir_fd=self._path.descriptor)

    def _compare(
        self, descriptor: int, found: os.stat_result, size: int, stretches: Iterator[Stretch]
    ) -> tuple[bool, bytes]:
        same_chunks = bytearray()
        is_same = stat.S_ISREG(found.st_mode) and found.st_size == size
        reached = 0
        for stretch in stretches:
            check_cancel(self._cancel)
            is_same = is_same and _is_hole(descriptor, reached, stretch.offset, found.st_blksize)
            has_chunk = self._has(descriptor, stretch)
            is_same = is_same and has_chunk
            same_chunks.append(has_chunk)
            reached = stretch.offset + stretch.length
        is_same = is_same and _is_hole(descriptor, reached, size, found.st_blksize)
        return is_same, bytes(same_chunks)

    def _has(self, descriptor: int, stretch: Stretch) -> bool:
        data = os.pread(descriptor, stretch.length, stretch.offset) if stretch.content_id is not None else b""
        return len(data) == stretch.length and self._sealer.content_id(data) == stretch.content_id


def _is_hole(descriptor: int, start: int, end: int, block_size: int) -> bool:
    """Whether the range reads as zeros and, as far as whole blocks of the file system go, takes no space."""
    first, last = -(-start // block_size) * block_size, end // block_size * block_size
    if first < last and not _has_no_data(descriptor, first, last):
        return False
    edges = [(start, end)] if first >= last else [(start, first), (last, end)]
    return all(_is_zero(descriptor, offset, until) for offset, until in edges)


def _has_no_data(descriptor: int, start: int, end: int) -> bool:
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA) >= end
    except OSError as error:
        if error.errno == errno.ENXIO:
            return True
        # This file system cannot tell: then only the content counts.
        return _is_zero(descriptor, start, end)


def _is_zero(descriptor: int, start: int, end: int) -> bool:
    for offset in range(start, end, _READ_BYTES):
        length = min(_READ_BYTES, end - offset)
        if os.pread(descriptor, length, offset) != bytes(length):
            return False
    return True
