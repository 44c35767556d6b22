"""Removing what is in a restored directory and not in the backup: never through a symbolic link, nor in another mount,
nor what may be missing from the backup on purpose."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from engine.errors import EngineError
from engine.tree_dirs import DirectoryPath, mount_of

TEMPORARY_PREFIX = b".backupsite-restore-"

# Whether the backup may lack a path (its key, and whether it is a directory) for another reason than that it was not
# there.
MayLack: TypeAlias = Callable[[bytes, bool], bool]


class OtherDeviceError(EngineError):
    """Another file system is mounted below what was to be removed."""

    default_code = "other_device"


@dataclass(slots=True)
class _Level:
    name: bytes
    key: bytes
    keeps: bool = False
    folders: list[bytes] = field(default_factory=list)


def extra_names(directory: int, keep: Collection[bytes], *, all_of_them: bool) -> Iterator[bytes]:
    """Names in an open directory that are not to be kept; without `all_of_them` only what a cut restore left there."""
    for name in sorted(os.fsencode(name) for name in os.listdir(directory)):
        if name not in keep and (all_of_them or _is_left_over(directory, name)):
            yield name


def remove_tree(directory: int, name: bytes, *, key: bytes, may_lack: MayLack) -> bool:
    """Remove a name, and what is below it when it is a directory. False when something of it was kept on purpose.

    `key` is that of the name in the tree. OSError, OtherDeviceError at a mount point, or MovedDirectoryError: what was
    not reached by then is still there.
    """
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    is_directory = stat.S_ISDIR(found.st_mode)
    if may_lack(key, is_directory):
        return False
    if not is_directory:
        os.unlink(name, dir_fd=directory)
        return True
    place = os.fstat(directory).st_dev, mount_of(directory)
    with DirectoryPath(os.dup(directory)) as path:
        levels = [_enter(path, name, key, place, may_lack)]
        while True:
            if levels[-1].folders:
                child = levels[-1].folders.pop()
                levels.append(_enter(path, child, levels[-1].key + b"\0" + child, place, may_lack))
                continue
            path.leave()
            done = levels.pop()
            if not done.keeps:
                os.rmdir(done.name, dir_fd=path.descriptor)
            if not levels:
                return not done.keeps
            levels[-1].keeps = levels[-1].keeps or done.keeps


def _enter(path: DirectoryPath, name: bytes, key: bytes, place: tuple[int, int], may_lack: MayLack) -> _Level:
    """Go down into a directory and remove its files; its directories are left to be done."""
    path.enter(name)
    if (path.device, mount_of(path.descriptor)) != place:
        raise OtherDeviceError("another file system is mounted there")
    level = _Level(name, key)
    for child in (os.fsencode(child) for child in os.listdir(path.descriptor)):  # noqa: PTH208  # a descriptor has no path
        is_directory = stat.S_ISDIR(os.stat(child, dir_fd=path.descriptor, follow_symlinks=False).st_mode)
        if may_lack(key + b"\0" + child, is_directory):
            level.keeps = True
        elif is_directory:
            level.folders.append(child)
        else:
            os.unlink(child, dir_fd=path.descriptor)
    return level


def _is_left_over(directory: int, name: bytes) -> bool:
    if not name.startswith(TEMPORARY_PREFIX):
        return False
    return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
