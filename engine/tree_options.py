"""How a file tree is restored into a target directory, and opening that directory."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

from engine.errors import EngineError
from engine.tree_place import Replace, TargetError


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRestoreOptions:
    """`overwrite` allows a target that is not empty: files are replaced (whole, by renaming), directories are
    merged, nothing is removed. `restore_owner` None: when running as root. `keep_partial` restores the readable
    beginning of files that could not be read to their end when they were backed up.

    `differential` is for a target that holds an old state, or what a cut restore left: files are compared by content
    and only those that differ are written. With `trust_mtime` size and time are enough. Something of another type is
    replaced. What the backup does not have stays, unless `delete_extra`; so does a directory with content where the
    backup has something else. Both need `differential`. `delete_extra` keeps what the excludes of the backup match,
    what lies in a directory that is marked as not entered, and all that is in another mount than the target itself. A
    name that could not even be looked at is not in the backup, so it goes.
    """

    overwrite: bool = False
    differential: bool = False
    trust_mtime: bool = False
    delete_extra: bool = False
    restore_owner: bool | None = None
    owner_by_name: bool = False
    keep_setuid: bool = False
    keep_partial: bool = False

    def check(self) -> None:
        """EngineError (bad_option) for what only a differential restore can do."""
        if (self.trust_mtime or self.delete_extra) and not self.differential:
            raise EngineError("trust_mtime and delete_extra are for a differential restore", code="bad_option")


def open_target_directory(target: str | bytes | os.PathLike[str], options: TreeRestoreOptions) -> int:
    try:
        descriptor = os.open(os.fsencode(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TargetError("the target is no directory that can be opened", code="target_missing") from error
    if options.differential:
        _lock(descriptor)
    elif not options.overwrite and os.listdir(descriptor):  # noqa: PTH208  # a descriptor has no path
        os.close(descriptor)
        raise TargetError("the target is not empty", code="target_not_empty")
    return descriptor


def _lock(descriptor: int) -> None:
    """Two restores that compare and remove must not work on one target. Where it cannot be locked, it is not."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise TargetError("another restore works on the target", code="target_busy") from error
    except OSError:
        return


def may_replace(options: TreeRestoreOptions) -> Replace:
    if options.differential:
        return Replace.ANYTHING if options.delete_extra else Replace.ANYTHING_EMPTY
    return Replace.FILES if options.overwrite else Replace.NOTHING


def hands_down_acls(descriptor: int) -> bool:
    try:
        return "system.posix_acl_default" in os.listxattr(descriptor)
    except OSError:
        return False
