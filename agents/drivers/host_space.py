"""A mount namespace of our own, in which the file systems of a server are put together as one read-only tree.

Nobody else sees these mounts, and the kernel removes them when the process dies, however it dies. A process that has
entered one stays in it: threads that it started since share it, and the kernel lets none of them leave.

It begins as a copy of all mounts of the server. What is unmounted there goes here as well where the server shares its
mounts, as systemd has it; what the program does not need is let go of at once, so that it is in use nowhere else. What
makes up the tree is cut off from the server both ways.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from agents.drivers.host_mounts import Mount, is_same_place, parse_mounts
from engine.tree_dirs import mount_of

_MOUNTS = Path("/proc/self/mountinfo")
_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE, _MS_SLAVE = 32, 4096, 16384, 1 << 18, 1 << 19
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
# Something is seldom mounted on the server in the moment between two calls; many times in a row, it is on purpose.
_TRIES = 16


@contextmanager
def private_tree(tree: Path) -> Iterator[None]:
    """A place to put file systems together that this thread, and threads that it starts, see alone. OSError."""
    _check(_libc().unshare(_CLONE_NEWNS), "unshare")
    # From the server to here and never back: a copy of what is unmounted there would keep it in use until the end.
    _mount(b"none", b"/", _MS_REC | _MS_SLAVE)
    try:
        yield
    finally:
        # With all that is mounted inside of it; snapshots can be removed then.
        unmount(tree)


def mounts_here() -> list[Mount]:
    """All mounts that this process has in its namespace. OSError."""
    # Only the line feed ends a line: another sign that does so elsewhere may be in the name of a directory.
    with open(_MOUNTS, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        return parse_mounts(lines)


def let_go(points: Collection[str]) -> None:
    """Of what is mounted at these places, with all that is mounted inside, in this process's namespace alone. What
    somebody has put something else in the way of stays. Nothing of it is looked at: its server may be away."""
    for point in points:
        above, name = os.path.split(point)
        with suppress(OSError), _opened(Path("/"), Path(above).relative_to("/")) as directory:
            path = b"%b/%b" % (_named(directory), os.fsencode(name))
            _check(_libc().umount2(path, _MNT_DETACH | _UMOUNT_NOFOLLOW), point)


def bind_read_only(source: tuple[Path, Path], target: tuple[Path, Path], expected: Mount | None = None) -> None:
    """A directory, without what is mounted inside of it. Each is a place that is ours and a path below it, on which
    whoever owns a directory may put a symbolic link at any time: none is followed. Raises OSError, also where something
    else is there than `expected`, and where something of the server stays mounted inside of it."""
    for _ in range(_TRIES):
        with _opened(*source) as from_here, _opened(*target) as to_here:
            _mount(_named(from_here), _named(to_here), _MS_BIND)
        # By now the path leads to what was mounted.
        with _opened(*target) as mounted:
            try:
                if _closed(mounted, expected):
                    return
            except OSError:
                _detached(mounted, target)
                raise
            _detached(mounted, target)
    raise OSError(errno.EBUSY, "something is mounted inside of it all the time")


def _closed(mounted: int, expected: Mount | None) -> bool:
    """Make it ours alone and read-only. False when something of the server has got into it before. OSError."""
    # Until here it is told of mounts as its source is.
    _mount(b"none", _named(mounted), _MS_PRIVATE)
    number = mount_of(mounted)
    ours = [mount for mount in mounts_here() if number in (mount.number, mount.parent)]
    if any(mount.number != number for mount in ours):
        return False
    if expected is not None and not any(is_same_place(mount, expected) for mount in ours):
        raise OSError(errno.ESTALE, "something else is mounted there now")
    _mount(b"none", _named(mounted), _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    return True


def _detached(mounted: int, target: tuple[Path, Path]) -> None:
    _check(_libc().umount2(_named(mounted), _MNT_DETACH), str(target[1]))


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
