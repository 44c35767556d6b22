"""Removing what is in a restored directory and not in the backup: never through a symbolic link, nor off the device."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from engine.errors import EngineError
from engine.tree_dirs import DirectoryPath

TEMPORARY_PREFIX = b".backupsite-restore-"


class OtherDeviceError(EngineError):
    """Another file system is mounted below what was to be removed."""

    default_code = "other_device"


@dataclass(slots=True)
class _Level:
    name: bytes
    folders: list[bytes] = field(default_factory=list)


def extra_names(directory: int, keep: Collection[bytes], *, all_of_them: bool) -> Iterator[bytes]:
    """Names in an open directory that are not to be kept; without `all_of_them` only what a cut restore left there."""
    for name in sorted(os.fsencode(name) for name in os.listdir(directory)):
        if name not in keep and (all_of_them or _is_left_over(directory, name)):
            yield name


def remove_tree(directory: int, name: bytes) -> None:
    """Remove a name, and what is below it when it is a directory. OSError, or OtherDeviceError at a mount point: what
    was not reached by then is still there."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=directory)
        return
    device = os.fstat(directory).st_dev
    with DirectoryPath(os.dup(directory)) as path:
        levels = [_enter(path, name, device)]
        while levels:
            if levels[-1].folders:
                levels.append(_enter(path, levels[-1].folders.pop(), device))
                continue
            path.leave()
            os.rmdir(levels.pop().name, dir_fd=path.descriptor)


def _enter(path: DirectoryPath, name: bytes, device: int) -> _Level:
    """Go down into a directory and remove all its files; its directories are left to be done."""
    path.enter(name)
    if path.device != device:
        raise OtherDeviceError("another file system is mounted there")
    level = _Level(name)
    for child in (os.fsencode(child) for child in os.listdir(path.descriptor)):  # noqa: PTH208  # a descriptor has no path
        if stat.S_ISDIR(os.stat(child, dir_fd=path.descriptor, follow_symlinks=False).st_mode):
            level.folders.append(child)
        else:
            os.unlink(child, dir_fd=path.descriptor)
    return level


def _is_left_over(directory: int, name: bytes) -> bool:
    if not name.startswith(TEMPORARY_PREFIX):
        return False
    return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
