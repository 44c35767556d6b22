"""A mount namespace of our own, in which the file systems of a server are put together as one read-only tree.

Nobody else sees these mounts, and the kernel removes them when the process dies, however it dies. A process that has
entered one stays in it: threads that it started since share it, and the kernel lets none of them leave.
"""

from __future__ import annotations

import ctypes
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


def bind_read_only(source: Path, target: Path) -> None:
    """The directory, without what is mounted inside of it. Raises OSError."""
    _mount(os.fsencode(source), os.fsencode(target), _MS_BIND)
    flags = _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount(b"none", os.fsencode(target), flags)


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
