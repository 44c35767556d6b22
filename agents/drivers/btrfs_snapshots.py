"""A subvolume with all subvolumes in it, as one tree of snapshots; and what of these trees was left behind.

A snapshot shows an empty directory where another subvolume was. So the snapshot of one with others inside is made
writable, theirs are put into these places, and then it is made read-only.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from agents.drivers import btrfs_calls as btrfs
from agents.drivers.base import POINT_PREFIX

logger = logging.getLogger(__name__)

OUR_MARK = f".{POINT_PREFIX}".encode()


@dataclass(slots=True)
class Taken:
    """What a tree of snapshots holds: how many, and paths of subvolumes that are not in it, and why."""

    snapshots: int = 0
    read_only: list[bytes] = field(default_factory=list)
    moved: list[bytes] = field(default_factory=list)
    refused: list[tuple[bytes, str]] = field(default_factory=list)


@contextmanager
def snapshot_tree(source: int, folder: int, name: bytes) -> Iterator[Taken]:
    """The tree of an open subvolume, `name` in an open folder, while the block runs. OSError when it cannot be made.

    What cannot be removed at the end is logged; the sweep finds it.
    """
    taken = keep_tree(source, folder, name)
    try:
        with entered(folder, name) as copy:
            fcntl.flock(copy, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield taken
    finally:
        remove_quietly(folder, name)


def keep_tree(source: int, folder: int, name: bytes) -> Taken:
    """The same, kept. OSError; nothing is left then, and what had the name before is as it was."""
    taken = Taken()
    try:
        _take(source, folder, name, b"", taken)
    except FileExistsError:
        raise
    except BaseException:
        remove_quietly(folder, name)
        raise
    return taken


def remove_tree(folder: int, name: bytes) -> None:
    """A tree of ours, deepest first."""
    with entered(folder, name) as copy:
        if btrfs.is_read_only(copy):
            btrfs.set_read_only(copy, False)
        for child in btrfs.children(copy):
            place, child_name = os.path.split(child)
            with entered(copy, place) as parent:
                remove_tree(parent, child_name)
    btrfs.remove(folder, name)


def remove_quietly(folder: int, name: bytes) -> bool:
    """Whether it was there and is gone now."""
    try:
        remove_tree(folder, name)
    except FileNotFoundError:
        return False
    except OSError as error:
        logger.warning("a snapshot stays", extra={"snapshot": os.fsdecode(name), "reason": error.strerror})
        return False
    return True


def is_in_use(folder: int, name: bytes) -> bool:
    """Whether a job reads it now."""
    with entered(folder, name) as copy:
        try:
            fcntl.flock(copy, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def entered(start: int, path: bytes) -> Iterator[int]:
    """A directory below an open one. No step may be a symbolic link: others may write to what is walked here."""
    descriptor = os.dup(start)
    try:
        for step in PurePosixPath(os.fsdecode(path)).parts:
            inner = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _take(source: int, folder: int, name: bytes, path: bytes, taken: Taken) -> None:
    inside = btrfs.children(source)
    btrfs.snapshot(source, folder, name, read_only=not inside)
    taken.snapshots += 1
    if not inside:
        return
    with entered(folder, name) as copy:
        for child in sorted(inside):
            whole = os.path.join(path, child)
            try:
                _fill(source, copy, child, whole, taken)
            except FileNotFoundError:
                taken.moved.append(whole)
            except OSError as error:
                taken.refused.append((whole, error.strerror or type(error).__name__))
        changed = {child for child, _ in btrfs.children(source).items() ^ inside.items() if not _is_ours(child)}
        taken.moved += [os.path.join(path, child) for child in sorted(changed - {*taken.moved})]
        btrfs.set_read_only(copy, True)


def _fill(source: int, copy: int, child: bytes, whole: bytes, taken: Taken) -> None:
    """Put a snapshot of the subvolume `child` where the copy has nothing but its place."""
    place, name = os.path.split(child)
    with entered(source, child) as inner, entered(copy, place) as parent:
        if os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino != btrfs.PLACE_HOLDER_INODE:
            raise FileNotFoundError
        if btrfs.is_read_only(inner) and not _is_ours(child):
            taken.read_only.append(whole)
            return
        before = os.fstat(parent)
        os.rmdir(name, dir_fd=parent)
        try:
            if not _is_ours(child):
                _take(inner, parent, name, whole, taken)
        except OSError:
            # Its place is in the backup all the same, so that a restore does not take it for something new.
            with suppress(FileExistsError):
                os.mkdir(name, stat.S_IMODE(os.fstat(inner).st_mode), dir_fd=parent)
            raise
        finally:
            os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))


def _is_ours(path: bytes) -> bool:
    return path.rpartition(b"/")[2].startswith(OUR_MARK)
