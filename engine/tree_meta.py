"""Giving restored files their owner, mode, extended attributes and times, and saying what could not be given."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial

from engine.tree_entries import TreeEntry

_CAPABILITY = b"security.capability"
_CLEARED = (b"user.", b"trusted.")
_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_PRIVILEGED_BITS = stat.S_ISUID | stat.S_ISGID
_TIME_MAX = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataOptions:
    """`restore_owner` needs privileges. Setuid and setgid bits and file capabilities are given only to files that got
    their owner too, or with `keep_setuid`: with another owner they would hand out other rights than before.
    """

    restore_owner: bool
    owner_by_name: bool = False
    keep_setuid: bool = False
    # The target hands ACLs down to new files, which must not stay on files that had none.
    clear_acls: bool = False
    # Files that were there before keep no extended attribute that the entry does not have.
    clear_xattrs: bool = False


class MetadataSetter:
    def __init__(self, options: MetadataOptions) -> None:
        self._options = options
        self._users: dict[bytes, int | None] = {}
        self._groups: dict[bytes, int | None] = {}

    def apply(self, entry: TreeEntry, descriptor: int) -> Iterator[str]:
        """To what an open descriptor names (O_PATH will do). Yields what could not be set."""
        path = b"/proc/self/fd/%d" % descriptor
        owner_set = yield from self._owner(entry, lambda uid, gid: os.chown(path, uid, gid))
        yield from self._xattrs(entry, path, skip=_CAPABILITY)
        is_trusted = owner_set or self._options.keep_setuid
        mode = entry.mode if is_trusted else entry.mode & ~_PRIVILEGED_BITS
        if mode != entry.mode:
            yield "setuid and setgid were left out"
        yield from _tried("mode", lambda: os.chmod(path, mode))  # noqa: PTH101  # a path as bytes
        capability = dict(entry.xattrs).get(_CAPABILITY)
        if capability is not None and is_trusted:
            yield from _tried("capability", lambda: os.setxattr(path, _CAPABILITY, capability))
        elif capability is not None:
            yield "file capabilities were left out"
        yield from _times(entry, lambda times: os.utime(path, ns=times))

    def apply_to_symlink(self, entry: TreeEntry, descriptor: int) -> Iterator[str]:
        """To a link that is open (O_PATH) itself: the path leads to it and no further."""
        path = b"/proc/self/fd/%d" % descriptor
        yield from self._owner(entry, lambda uid, gid: os.chown(path, uid, gid))
        yield from self._xattrs(entry, path, skip=b"")
        yield from _times(entry, lambda times: os.utime(path, ns=times))

    def _owner(self, entry: TreeEntry, change: Callable[[int, int], None]) -> Generator[str, None, bool]:
        """Returns whether the owner was set."""
        if not self._options.restore_owner:
            return False
        uid, gid = entry.uid, entry.gid
        if self._options.owner_by_name:
            uid = _number_of(entry.user, uid, self._users, lambda name: pwd.getpwnam(name).pw_uid)
            gid = _number_of(entry.group, gid, self._groups, lambda name: grp.getgrnam(name).gr_gid)
        failed = list(_tried("owner", lambda: change(uid, gid)))
        yield from failed
        return not failed

    def _xattrs(self, entry: TreeEntry, path: bytes, *, skip: bytes) -> Iterator[str]:
        if self._options.clear_acls:
            for acl in _ACLS:
                yield from _removed(acl, path)
        if self._options.clear_xattrs:
            for extra in _extra_xattrs(entry, path):
                yield from _removed(extra, path)
        for name, value in entry.xattrs:
            if name != skip:
                change = partial(os.setxattr, path, name, value)
                yield from _tried(os.fsdecode(name), change)


def _number_of(name: bytes, number: int, known: dict[bytes, int | None], lookup: Callable[[str], int]) -> int:
    if name and name not in known:
        try:
            known[name] = lookup(os.fsdecode(name))
        except KeyError:
            known[name] = None
    found = known.get(name)
    return number if found is None else found


def _times(entry: TreeEntry, change: Callable[[tuple[int, int]], None]) -> Iterator[str]:
    if not -_TIME_MAX < entry.mtime_ns < _TIME_MAX:
        yield "the time is out of bounds"
        return
    # The access time is not kept; it gets the same value.
    yield from _tried("time", lambda: change((entry.mtime_ns, entry.mtime_ns)))


def _tried(what: str, change: Callable[[], None]) -> Iterator[str]:
    try:
        change()
    except (OSError, OverflowError, ValueError) as error:
        yield f"{what}: {getattr(error, 'strerror', None) or type(error).__name__}"


def _extra_xattrs(entry: TreeEntry, path: bytes) -> list[bytes]:
    """Of those that a restore sets. Labels of the security system are its own business."""
    try:
        names = [os.fsencode(name) for name in os.listxattr(path)]
    except OSError:
        return []
    known = {name for name, _ in entry.xattrs}
    return [name for name in names if name not in known and (name.startswith(_CLEARED) or name == _CAPABILITY)]


def _removed(acl: bytes, path: bytes) -> Iterator[str]:
    try:
        os.removexattr(path, acl)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM):
            yield f"{os.fsdecode(acl)}: {error.strerror}"
