"""Subvolumes by the kernel's own calls (linux/btrfs.h): bytes of names and error numbers as they are, no program.

Every function raises OSError. What lists and snapshots works for the owner of a subvolume; removing needs root or the
mount option `user_subvol_rm_allowed`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

# The root directory of every subvolume, and what stands in a snapshot where another subvolume was.
SUBVOLUME_INODE = 256
PLACE_HOLDER_INODE = 2

_ARGUMENT_BYTES = 4096
_READ_ONLY = 1 << 1
_WRITE, _READ = 1, 2


def _number(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | 0x94 << 8 | number


_SNAP_DESTROY = _number(_WRITE, 15, _ARGUMENT_BYTES)
_SNAP_CREATE = _number(_WRITE, 23, _ARGUMENT_BYTES)
_SUBVOL_CREATE = _number(_WRITE, 24, _ARGUMENT_BYTES)
_GET_FLAGS = _number(_READ, 25, 8)
_SET_FLAGS = _number(_WRITE, 26, 8)
_FS_INFO = _number(_READ, 31, 1024)
_CHILDREN = _number(_READ | _WRITE, 61, _ARGUMENT_BYTES)
_CHILD_NAME = _number(_READ | _WRITE, 62, _ARGUMENT_BYTES)
# Of btrfs_ioctl_vol_args_v2: file, transaction, flags, four unused. Of the first one: file.
_NEW_HEAD = struct.Struct("=qQQ32x")
_OLD_HEAD = struct.Struct("=q")
_CHILD = struct.Struct("=QQ")
_CHILD_COUNT_AT = 8 + 255 * _CHILD.size
_NAME_FROM, _PATH_FROM = 16, 16 + 256


@contextmanager
def directory(path: bytes) -> Iterator[int]:
    """An open directory, no symbolic link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def file_system(descriptor: int) -> bytes:
    """The UUID of the btrfs file system; b"" for any other."""
    answer = bytearray(1024)
    try:
        fcntl.ioctl(descriptor, _FS_INFO, answer)
    except OSError as error:
        if error.errno in {errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL}:
            return b""
        raise
    return bytes(answer[16:32])


def is_subvolume(descriptor: int) -> bool:
    return os.fstat(descriptor).st_ino == SUBVOLUME_INODE and bool(file_system(descriptor))


def children(descriptor: int) -> dict[bytes, int]:
    """Subvolumes right inside of this one: path from its root -> number."""
    found: dict[bytes, int] = {}
    for tree, folder in _references(descriptor):
        answer = bytearray(_ARGUMENT_BYTES)
        _CHILD.pack_into(answer, 0, folder, tree)
        try:
            fcntl.ioctl(descriptor, _CHILD_NAME, answer)
        except FileNotFoundError:
            continue  # removed meanwhile
        found[_text(answer, _PATH_FROM) + _text(answer, _NAME_FROM)] = tree
    return found


def _references(descriptor: int) -> Iterator[tuple[int, int]]:
    first = 0
    while True:
        answer = bytearray(_ARGUMENT_BYTES)
        struct.pack_into("=Q", answer, 0, first)
        has_more = False
        try:
            fcntl.ioctl(descriptor, _CHILDREN, answer)
        except OSError as error:
            if error.errno != errno.EOVERFLOW:
                raise
            has_more = True
        for number in range(answer[_CHILD_COUNT_AT]):
            yield _CHILD.unpack_from(answer, 8 + number * _CHILD.size)
        if not has_more:
            return
        (first,) = struct.unpack_from("=Q", answer)


def _text(answer: bytearray, start: int) -> bytes:
    return bytes(answer[start : answer.index(0, start)])


def snapshot(source: int, folder: int, name: bytes, *, read_only: bool) -> None:
    """Of an open subvolume, by this name in an open folder of the same file system."""
    flags = _READ_ONLY if read_only else 0
    fcntl.ioctl(folder, _SNAP_CREATE, _named(_NEW_HEAD.pack(source, 0, flags), name))


def create(folder: int, name: bytes) -> None:
    fcntl.ioctl(folder, _SUBVOL_CREATE, _named(_NEW_HEAD.pack(0, 0, 0), name))


def remove(folder: int, name: bytes) -> None:
    """One subvolume without others inside."""
    fcntl.ioctl(folder, _SNAP_DESTROY, _named(_OLD_HEAD.pack(0), name))


def is_read_only(descriptor: int) -> bool:
    answer = bytearray(8)
    fcntl.ioctl(descriptor, _GET_FLAGS, answer)
    return bool(struct.unpack("=Q", answer)[0] & _READ_ONLY)


def set_read_only(descriptor: int, value: bool) -> None:
    fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("=Q", _READ_ONLY if value else 0))


def _named(head: bytes, name: bytes) -> bytearray:
    if not name or b"/" in name or b"\0" in name or len(name) > 255:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    # Python passes no more than 1024 bytes that cannot be changed.
    return bytearray((head + name).ljust(_ARGUMENT_BYTES, b"\0"))
