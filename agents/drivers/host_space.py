"""A mount namespace of our own, in which the file systems of a server are put together as one read-only tree.

Nobody else sees these mounts, and the kernel removes them when the process dies, however it dies. A process that has
entered one stays in it: threads that it started since share it, and the kernel lets none of them leave.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2


@contextmanager
def private_tree(tree: Path) -> Iterator[None]:
    """A place to put file systems together that this thread, and threads that it starts, see alone. OSError."""
    _check(_libc().unshare(_CLONE_NEWNS), "unshare")
    _mount(b"none", b"/", _MS_REC | _MS_PRIVATE)
    try:
        yield
    finally:
        # With all that is mounted inside of it; snapshots can be removed then.
        unmount(tree)


def bind_read_only(source: tuple[Path, Path], target: tuple[Path, Path]) -> None:
    """A directory, without what is mounted inside of it. Each is a place that is ours and a path below it, on which
    whoever owns a directory may put a symbolic link at any time: none is followed. Raises OSError."""
    with _opened(*source) as from_here, _opened(*target) as to_here:
        _mount(_named(from_here), _named(to_here), _MS_BIND)
        # By now the path leads to what was mounted.
        with _opened(*target) as mounted:
            flags = _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
            try:
                _mount(b"none", _named(mounted), flags)
            except OSError:
                _check(_libc().umount2(_named(mounted), _MNT_DETACH), str(target[1]))
                raise


@contextmanager
def _opened(start: Path, below: Path) -> Iterator[int]:
    """A descriptor that names the directory. OSError where something else than directories is on the way."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(start, flags)
    try:
        for name in below.parts:
            try:
                inner = os.open(name, flags | os.O_NOFOLLOW, dir_fd=descriptor)
            except NotADirectoryError as error:
                raise OSError(errno.ELOOP, "a symbolic link, or a file, is on the way to it") from error
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _named(descriptor: int) -> bytes:
    return b"/proc/self/fd/%d" % descriptor


def mount_read_only(device: Path, target: Path, *, kind: str, options: str) -> None:
    """A file system of a kind that the kernel knows. OSError."""
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount(os.fsencode(device), os.fsencode(target), flags, kind=kind.encode(), options=options.encode())


def unmount(target: Path) -> None:
    """As far as it is mounted where this process sees it; nobody else loses it."""
    with suppress(OSError):
        _check(_libc().umount2(os.fsencode(target), _MNT_DETACH), str(target))


def _mount(source: bytes, target: bytes, flags: int, *, kind: bytes | None = None, options: bytes = b"") -> None:
    _check(_libc().mount(source, target, kind, ctypes.c_ulong(flags), options or None), os.fsdecode(target))


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
