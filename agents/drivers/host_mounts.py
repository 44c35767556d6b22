"""Which mounted file systems make up a server, and which of them are left out, with the reason. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from engine.tree_source import PSEUDO_FILE_SYSTEMS

_NETWORK = frozenset(
    [
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "ceph", "glusterfs", "lustre", "beegfs", "gfs", "gfs2"),
        *("ocfs2", "afs", "9p", "virtiofs", "davfs", "sshfs", "vboxsf"),
    ]
)
_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "rootfs"})
# What is mounted from a file or layers that are themselves in the backup.
_MADE_OF_FILES = frozenset({"overlay", "aufs", "squashfs", "iso9660", "udf", "erofs", "cramfs"})
_USER = re.compile(r"(?:^|,)user_id=([0-9]+)(?:,|$)")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo. `inner` is the directory of the file system that is mounted, "/" for all of it.

    `left_out` says why its files do not belong to the backup; empty for what belongs to it. `number` is the mount's
    own, `parent` that of the one that it was mounted in, `user` who let a program (FUSE) make it up.
    """

    point: str
    kind: str
    device: str
    numbers: str
    inner: str
    left_out: str = ""
    number: int = 0
    parent: int = 0
    user: int = 0


def parse_mounts(mountinfo: Iterable[str]) -> list[Mount]:
    """A line that cannot be read is passed over."""
    found = []
    for line in mountinfo:
        before, _, after = line.rstrip("\n").partition(" - ")
        parts, kinds = before.split(" "), after.split(" ")
        if len(parts) < 6 or len(kinds) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
            continue
        number, parent = int(parts[0]), int(parts[1])
        point, inner = _plain(parts[4]), _plain(parts[3])
        user = _USER.search(kinds[-1])
        found.append(
            Mount(
                *(point, kinds[0], _plain(kinds[1]), parts[2], inner),
                number=number,
                parent=parent,
                user=int(user[1]) if user else 0,
            )
        )
    return found


def chosen(mounts: Sequence[Mount], *, root: str = "/") -> list[Mount]:
    """The mounts at or below `root`, and the one that `root` itself lies on, outer ones before inner ones.

    Of several on one place only the last is seen, and what is below a covered one is not reachable.
    """
    visible = _visible(mounts)
    holder = max((mount for mount in visible if is_below(root, mount.point)), key=lambda mount: len(mount.point))
    below = [mount for mount in visible if mount.point != holder.point and is_below(mount.point, root)]
    # What is put into the tree, and so hides what is under it there.
    on_top = [mount for mount in below if not _why_not(mount)]
    kept: list[Mount] = []
    for mount in [holder, *sorted(below, key=lambda mount: (mount.point.count("/"), mount.point))]:
        # What a server starts from belongs to it whatever it is made of.
        why = "" if mount is holder else _why_not(mount) or _seen_elsewhere(mount, kept, on_top)
        outer = _left_out_above(mount, kept)
        kept.append(replace(mount, left_out=why or outer))
    return kept


def patterns_of(folders: Iterable[str], *, root: str = "/") -> list[str]:
    """Directories with all that is in them, as patterns of a .gitignore file at `root`; those elsewhere need none."""
    inner = ["/" + os.path.relpath(path, root) + "/" for path in folders if is_below(path, root) and path != root]
    return [re.sub(r"([\\*?\[\]!# ])", r"\\\1", path) for path in inner]


def _visible(mounts: Sequence[Mount]) -> list[Mount]:
    """Those that a path leads to, by who is mounted in whom: the order of the lines says nothing, for a mount keeps its
    line when it is moved."""
    numbers = {mount.number for mount in mounts}
    inside: dict[int | None, list[Mount]] = {}
    for mount in mounts:
        is_first = mount.parent not in numbers or mount.parent == mount.number
        inside.setdefault(None if is_first else mount.parent, []).append(mount)
    seen: list[Mount] = []
    waiting = _uncovered(inside.get(None, ()))
    while waiting:
        mount = waiting.pop()
        within = _uncovered(inside.get(mount.number, ()))
        # What is mounted on all of it hides whatever else is in it.
        over = [one for one in within if one.point == mount.point]
        waiting += over or within
        seen += [] if over else [mount]
    return seen


def _uncovered(mounts: Sequence[Mount]) -> list[Mount]:
    """Of what is mounted in one: those that no other hides, the later one at the same place."""
    last = {mount.point: mount for mount in mounts}
    return [one for one in last.values() if not any(is_below(one.point, other) for other in last if other != one.point)]


def _why_not(mount: Mount) -> str:
    if mount.kind in PSEUDO_FILE_SYSTEMS:
        return "made up by the kernel"
    if mount.kind in _NETWORK or _is_of_a_program(mount):
        return "on the network, or of a program: back it up where it is"
    if mount.kind == "zfs" and "@" in mount.device:
        return "a snapshot that somebody looks at"
    if mount.kind in _MEMORY:
        return "in memory only"
    if mount.kind in _MADE_OF_FILES:
        return "made of files that are in the backup themselves"
    return ""


def _is_of_a_program(mount: Mount) -> bool:
    """Any user may have a program make up files, and choose what comes behind the dot: ZFS by FUSE is root's."""
    is_fuse = mount.kind == "fuse" or mount.kind.startswith("fuse.")
    return is_fuse and (mount.kind != "fuse.zfs" or mount.user != 0)


def _seen_elsewhere(mount: Mount, kept: Sequence[Mount], on_top: Sequence[Mount]) -> str:
    """A directory, or all, of a file system that is in the backup already by another way, where nothing hides it."""
    for other in kept:
        if other.numbers != mount.numbers or other.left_out or not is_below(mount.inner, other.inner):
            continue
        place = os.path.normpath(os.path.join(other.point, os.path.relpath(mount.inner, other.inner)))
        if not any(_hides(one, place, other) for one in on_top if one is not mount):
            return f"the same files as at {other.point}"
    return ""


def _hides(mount: Mount, place: str, holder: Mount) -> bool:
    """Whether files of `holder` at `place`, or some below it, lie under the mount."""
    if mount.point == holder.point or not is_below(mount.point, holder.point):
        return False
    return is_below(place, mount.point) or is_below(mount.point, place)


def _left_out_above(mount: Mount, kept: Sequence[Mount]) -> str:
    """Below a network or pseudo file system there is no place in the tree to put it."""
    outer = max((one for one in kept if is_below(mount.point, one.point)), key=lambda one: len(one.point), default=None)
    return f"below {outer.point}, which is left out" if outer is not None and outer.left_out else ""


def is_below(path: str, folder: str) -> bool:
    """Or the same. Both are absolute and plain."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)
