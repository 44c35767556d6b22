"""A path of open directories, so that everything happens relative to a descriptor and never by a path.

A directory that was opened stays the same directory whatever is renamed meanwhile, and no symbolic link is followed
below the root. Beyond a fixed depth only the innermost directories stay open; going back up is done through `..` and
checked against what was there on the way down.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from engine.errors import EngineError

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_MAX = 128


class MovedDirectoryError(EngineError):
    """A directory was moved while it was walked, so there is no safe way back up."""

    default_code = "directory_moved"


@dataclass(slots=True)
class _Level:
    descriptor: int | None
    place: tuple[int, int]


class DirectoryPath:
    """Owns its descriptors. Use as a context manager."""

    def __init__(self, root_descriptor: int) -> None:
        self._root = root_descriptor
        self._levels = [_Level(root_descriptor, _place(root_descriptor))]

    def __enter__(self) -> DirectoryPath:
        return self

    def __exit__(self, *_: object) -> None:
        for level in self._levels:
            if level.descriptor is not None:
                os.close(level.descriptor)
        self._levels.clear()

    @property
    def depth(self) -> int:
        """0 at the root."""
        return len(self._levels) - 1

    @property
    def descriptor(self) -> int:
        """Of the innermost directory."""
        descriptor = self._levels[-1].descriptor
        if descriptor is None:
            raise EngineError("the innermost directory is not open", code="internal")
        return descriptor

    @property
    def root(self) -> int:
        """The descriptor of the root, which is always open."""
        return self._root

    @property
    def device(self) -> int:
        return self._levels[-1].place[0]

    def enter(self, name: bytes, *, expect: tuple[int, int] | None = None) -> None:
        """Go down. OSError when it is no directory; MovedDirectoryError when it is not the one `expect` names."""
        descriptor = open_directory(name, self.descriptor)
        place = _place(descriptor)
        if expect is not None and place != expect:
            os.close(descriptor)
            raise MovedDirectoryError("a directory was replaced while it was walked")
        if len(self._levels) > _OPEN_MAX:  # never the root, at index 0
            outer = self._levels[-1]
            os.close(self.descriptor)
            outer.descriptor = None
        self._levels.append(_Level(descriptor, place))

    def leave(self) -> None:
        inner = self._levels.pop()
        outer = self._levels[-1]
        try:
            if outer.descriptor is None and inner.descriptor is not None:
                outer.descriptor = _parent(inner.descriptor, outer.place)
        finally:
            if inner.descriptor is not None:
                os.close(inner.descriptor)

    def surface(self) -> int:
        """After a MovedDirectoryError: up to the innermost directory that is still open; how many were passed."""
        count = len(self._levels)
        while self._levels[-1].descriptor is None:
            self._levels.pop()
        return count - len(self._levels)


def open_directory(name: bytes, directory: int | None = None) -> int:
    """Without leaving a trace in its access time where that is allowed. OSError when it is no directory."""
    try:
        return os.open(name, OPEN_DIRECTORY | os.O_NOATIME, dir_fd=directory)
    except PermissionError:
        return os.open(name, OPEN_DIRECTORY, dir_fd=directory)


def mount_of(descriptor: int) -> int:
    """Number of the mount that a descriptor was opened in: another one than that of the directory above says that
    something is mounted there, also of the same file system. OSError when the kernel does not tell."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    raise OSError(errno.ENOSYS, "the kernel does not say which mount a directory is in")


def proc_path(descriptor: int, name: bytes) -> bytes:
    """A path to `name` inside an open directory, for calls that take no descriptor; symlinks are the caller's care."""
    return b"/proc/self/fd/%d/%s" % (descriptor, name)


def _place(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _parent(descriptor: int, expected: tuple[int, int]) -> int:
    parent = open_directory(b"..", descriptor)
    if _place(parent) != expected:
        os.close(parent)
        raise MovedDirectoryError("a directory was moved while it was walked")
    return parent
