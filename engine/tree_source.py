"""Looking at one name of a file system: its metadata as an entry, and opening regular files without side effects."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable
from dataclasses import dataclass

from engine.tree_dirs import proc_path
from engine.tree_entries import XATTR_BYTES_MAX, FileKind, Marks, TreeEntry

_KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFLNK: FileKind.SYMLINK,
    stat.S_IFIFO: FileKind.FIFO,
    stat.S_IFSOCK: FileKind.SOCKET,
    stat.S_IFCHR: FileKind.CHARACTER_DEVICE,
    stat.S_IFBLK: FileKind.BLOCK_DEVICE,
}
# Clocks of file systems are coarse: a file changed within this time of being read may change again unseen.
FRESH_NS = 2_000_000_000
_NO_XATTRS = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_OPEN_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
# File systems whose files are made up by the kernel.
PSEUDO_FILE_SYSTEMS = frozenset(
    [
        *("proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "configfs"),
        *("pstore", "bpf", "mqueue", "hugetlbfs", "binfmt_misc", "autofs", "rpc_pipefs", "nsfs", "efivarfs"),
        *("fusectl", "selinuxfs"),
    ]
)


class OwnerNames:
    """Names of users and groups by number, asked for once each; empty where there is no name."""

    def __init__(
        self,
        *,
        user_of: Callable[[int], str] = lambda uid: pwd.getpwuid(uid).pw_name,
        group_of: Callable[[int], str] = lambda gid: grp.getgrgid(gid).gr_name,
    ) -> None:
        self._user_of = user_of
        self._group_of = group_of
        self._users: dict[int, bytes] = {}
        self._groups: dict[int, bytes] = {}

    def user(self, uid: int) -> bytes:
        return _cached(self._users, uid, self._user_of)

    def group(self, gid: int) -> bytes:
        return _cached(self._groups, gid, self._group_of)


def _cached(names: dict[int, bytes], number: int, lookup: Callable[[int], str]) -> bytes:
    found = names.get(number)
    if found is None:
        try:
            found = os.fsencode(lookup(number))
        except (KeyError, OSError):
            found = b""
        names[number] = found
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """A name as `lstat` saw it."""

    key: bytes
    name: bytes
    kind: FileKind
    found: os.stat_result


def look(directory: int, name: bytes, key: bytes) -> Seen:
    """OSError when it cannot be looked at."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return Seen(key, name, _KINDS[stat.S_IFMT(found.st_mode)], found)


def look_at_root(descriptor: int) -> Seen:
    return Seen(b"", b".", FileKind.DIRECTORY, os.fstat(descriptor))


def describe(seen: Seen, *, directory: int, owners: OwnerNames, now_ns: int) -> TreeEntry:
    """The entry without content. OSError only when a symbolic link cannot be read."""
    found = seen.found
    marks = Marks(0)
    xattrs, is_complete = _read_xattrs(directory, seen.name)
    if not is_complete:
        marks |= Marks.METADATA_LOST
    if seen.kind == FileKind.FILE and found.st_nlink > 1:
        marks |= Marks.LINKED
    if found.st_ctime_ns > now_ns - FRESH_NS:
        marks |= Marks.FRESH
    is_device = seen.kind in (FileKind.CHARACTER_DEVICE, FileKind.BLOCK_DEVICE)
    return TreeEntry(
        key=seen.key,
        kind=seen.kind,
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        user=owners.user(found.st_uid),
        group=owners.group(found.st_gid),
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
        inode=found.st_ino,
        device=found.st_dev,
        size=found.st_size if seen.kind == FileKind.FILE else 0,
        target=os.readlink(seen.name, dir_fd=directory) if seen.kind == FileKind.SYMLINK else b"",
        rdev=(os.major(found.st_rdev), os.minor(found.st_rdev)) if is_device else (0, 0),
        xattrs=xattrs,
        marks=int(marks),
    )


def _read_xattrs(directory: int, name: bytes) -> tuple[tuple[tuple[bytes, bytes], ...], bool]:
    """Sorted by name, POSIX ACLs and capabilities among them; and whether they are all."""
    path = proc_path(directory, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        return (), error.errno in _NO_XATTRS
    if not names:
        return (), True
    found: list[tuple[bytes, bytes]] = []
    for xattr in sorted(os.fsencode(name) for name in names):
        try:
            found.append((xattr, os.getxattr(path, xattr, follow_symlinks=False)))
        except OSError as error:
            if error.errno == errno.ENODATA:
                continue  # removed meanwhile
            return tuple(found), False
    if sum(len(name) + len(value) for name, value in found) > XATTR_BYTES_MAX:
        return (), False
    return tuple(found), True


def open_regular(directory: int, seen: Seen) -> int:
    """A descriptor for reading. FileNotFoundError when the name is no longer that file; other OSErrors pass through.

    The file is pinned without being opened first: opening a FIFO or a device that took its place could block, or
    do something. BlockingIOError while somebody has a lease on it, which asks them to give it up: waiting for that
    could take most of a minute for each file of a user who wants it to.
    """
    pin = os.open(seen.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        found = os.fstat(pin)
        is_same = (found.st_dev, found.st_ino) == (seen.found.st_dev, seen.found.st_ino)
        if not is_same or not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, "the file was replaced")
        path = b"/proc/self/fd/%d" % pin
        try:
            return os.open(path, _OPEN_FILE | os.O_NOATIME)
        except PermissionError:
            return os.open(path, _OPEN_FILE)
    finally:
        os.close(pin)


def file_system_types() -> dict[int, str]:
    """The type of each mounted file system by device number; empty where that cannot be told."""
    types: dict[int, str] = {}
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return types
    for line in lines:
        fields, _, rest = line.partition(b" - ")
        major, _, minor = fields.split(b" ")[2].partition(b":")
        types[os.makedev(int(major), int(minor))] = rest.split(b" ")[0].decode("ascii", "replace")
    return types
