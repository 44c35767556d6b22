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
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo. `inner` is the directory of the file system that is mounted, "/" for all of it.

    `left_out` says why its files do not belong to the backup; empty for what belongs to it.
    """

    point: str
    kind: str
    device: str
    numbers: str
    inner: str
    left_out: str = ""


def parse_mounts(mountinfo: Iterable[str]) -> list[Mount]:
    """In the order in which they were made. A line that cannot be read is passed over."""
    found = []
    for line in mountinfo:
        before, _, after = line.rstrip("\n").partition(" - ")
        parts, kinds = before.split(" "), after.split(" ")
        if len(parts) < 6 or len(kinds) < 2:
            continue
        found.append(Mount(_plain(parts[4]), kinds[0], _plain(kinds[1]), parts[2], _plain(parts[3])))
    return found


def chosen(mounts: Sequence[Mount], *, root: str = "/") -> list[Mount]:
    """The mounts at or below `root`, and the one that `root` itself lies on, outer ones before inner ones.

    Of several on one place only the last is seen, and what is below a covered one is not reachable.
    """
    visible = _visible(mounts)
    holder = max((mount for mount in visible if is_below(root, mount.point)), key=lambda mount: len(mount.point))
    below = [mount for mount in visible if mount.point != holder.point and is_below(mount.point, root)]
    kept: list[Mount] = []
    for mount in [holder, *sorted(below, key=lambda mount: (mount.point.count("/"), mount.point))]:
        # What a server starts from belongs to it whatever it is made of.
        why = "" if mount is holder else _why_not(mount) or _seen_elsewhere(mount, kept)
        outer = _left_out_above(mount, kept)
        kept.append(replace(mount, left_out=why or outer))
    return kept


def patterns_of(folders: Iterable[str], *, root: str = "/") -> list[str]:
    """Directories with all that is in them, as patterns of a .gitignore file at `root`; those elsewhere need none."""
    inner = ["/" + os.path.relpath(path, root) + "/" for path in folders if is_below(path, root) and path != root]
    return [re.sub(r"([\\*?\[\]!# ])", r"\\\1", path) for path in inner]


def _visible(mounts: Sequence[Mount]) -> list[Mount]:
    seen: list[Mount] = []
    for mount in mounts:
        # A later mount covers everything that was mounted at or below its place before.
        seen = [one for one in seen if not is_below(one.point, mount.point)] + [mount]
    return seen


def _why_not(mount: Mount) -> str:
    if mount.kind in PSEUDO_FILE_SYSTEMS:
        return "made up by the kernel"
    if mount.kind in _NETWORK or (mount.kind.startswith("fuse.") and mount.kind != "fuse.zfs"):
        return "on the network, or of a program: back it up where it is"
    if mount.kind in _MEMORY:
        return "in memory only"
    if mount.kind in _MADE_OF_FILES:
        return "made of files that are in the backup themselves"
    return ""


def _seen_elsewhere(mount: Mount, kept: Sequence[Mount]) -> str:
    """A directory, or all, of a file system that is in the backup already by another way."""
    for other in kept:
        if other.numbers == mount.numbers and not other.left_out and is_below(mount.inner, other.inner):
            return f"the same files as at {other.point}"
    return ""


def _left_out_above(mount: Mount, kept: Sequence[Mount]) -> str:
    """Below a network or pseudo file system there is no place in the tree to put it."""
    outer = max((one for one in kept if is_below(mount.point, one.point)), key=lambda one: len(one.point), default=None)
    return f"below {outer.point}, which is left out" if outer is not None and outer.left_out else ""


def is_below(path: str, folder: str) -> bool:
    """Or the same. Both are absolute and plain."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)
