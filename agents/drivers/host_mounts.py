"""Which mounted file systems make up a server, and which of them are left out, with the reason. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
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


def chosen(
    mounts: Sequence[Mount], *, root: str = "/", is_excluded: Callable[[str], bool] = lambda path: False
) -> list[Mount]:
    """The mounts at or below `root`, and the one that `root` itself lies on, outer ones before inner ones.

    Of several on one place only the last is seen, and what is below a covered one is not reachable. `is_excluded` says
    of a path that nobody looks there: files that are to be seen elsewhere too are left out where that is elsewhere.
    """
    visible = _visible(mounts)
    holder = max((mount for mount in visible if is_below(root, mount.point)), key=lambda mount: len(mount.point))
    below = [mount for mount in visible if mount.point != holder.point and is_below(mount.point, root)]
    ordered = [holder, *sorted(below, key=lambda mount: (mount.point.count("/"), mount.point))]
    kept: list[Mount] = []
    for mount in ordered:
        # What a server starts from belongs to it whatever it is made of.
        why = "" if mount is holder else _why_not(mount)
        kept.append(replace(mount, left_out=why or _left_out_above(mount, kept)))
    twice = _twice(kept, lambda path: is_below(path, root) and not is_excluded(path))
    return [replace(mount, left_out=twice.get(mount.point, mount.left_out)) for mount in kept]


def _twice(mounts: Sequence[Mount], is_read: Callable[[str], bool]) -> dict[str, str]:
    """Why to leave out, by mount point, what is in the backup at another place. The first mount, which the root lies
    on, is that place whatever else there is."""
    # What is put into the tree, and so hides what is under it there.
    mounts = [mount for mount in mounts if not mount.left_out]
    found: dict[str, str] = {}
    places: list[Mount] = []
    for mount in sorted(mounts, key=_share):
        why = "" if mount is mounts[0] else _seen_elsewhere(mount, places, mounts[1:], is_read)
        if why:
            found[mount.point] = why
        else:
            places.append(mount)
    # Another file system that is mounted in it would be nowhere.
    for mount in reversed(mounts):
        inside = [one for one in mounts if one is not mount and is_below(one.point, mount.point)]
        if any(one.point not in found for one in inside):
            found.pop(mount.point, None)
    return found


def _share(mount: Mount) -> int:
    """The less the more of its file system it shows: where it is mounted itself comes before directories of it that are
    mounted once more. Not of btrfs: who has all of it mounted somewhere has its subvolumes where they belong."""
    return 0 if mount.kind == "btrfs" else mount.inner.rstrip("/").count("/")


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


def _seen_elsewhere(
    mount: Mount, kept: Sequence[Mount], on_top: Sequence[Mount], is_read: Callable[[str], bool]
) -> str:
    """A directory, or all, of a file system that is in the backup already by another way, where nothing hides it."""
    for other in kept:
        if other.numbers != mount.numbers or not is_below(mount.inner, other.inner):
            continue
        place = os.path.normpath(os.path.join(other.point, os.path.relpath(mount.inner, other.inner)))
        hidden = (one.point for one in on_top if one is not mount and _hides(one, place, other))
        if is_read(place) and all(_is_hidden_too(point, place, mount, on_top) for point in hidden):
            return f"the same files as at {other.point}"
    return ""


def _hides(mount: Mount, place: str, holder: Mount) -> bool:
    """Whether files of `holder` at `place`, or some below it, lie under the mount."""
    if mount.point == holder.point or not is_below(mount.point, holder.point):
        return False
    return is_below(place, mount.point) or is_below(mount.point, place)


def _is_hidden_too(point: str, place: str, mount: Mount, on_top: Sequence[Mount]) -> bool:
    """Whether something is mounted in the mount where `point` is below `place`, as all of it does when both are shown
    with what is mounted in them."""
    if point == place or not is_below(point, place):
        return False
    there = os.path.join(mount.point, os.path.relpath(point, place))
    return any(
        one.point != mount.point and is_below(there, one.point) and is_below(one.point, mount.point) for one in on_top
    )


def _left_out_above(mount: Mount, kept: Sequence[Mount]) -> str:
    """Below a network or pseudo file system there is no place in the tree to put it."""
    outer = max((one for one in kept if is_below(mount.point, one.point)), key=lambda one: len(one.point), default=None)
    return f"below {outer.point}, which is left out" if outer is not None and outer.left_out else ""


def place_of(path: str, mounts: Sequence[Mount]) -> Mount:
    """The mount on which a path lies, of those that are seen, as if it were the path alone that is mounted."""
    mount = max((mount for mount in mounts if is_below(path, mount.point)), key=lambda mount: len(mount.point))
    return mount if path == mount.point else replace(mount, point=path, inner=_inner(path, mount))


def _inner(path: str, mount: Mount) -> str:
    """The directory of the mount's file system that is at a path below its point."""
    return os.path.normpath(os.path.join(mount.inner, os.path.relpath(path, mount.point)))


def is_same_place(mount: Mount, other: Mount) -> bool:
    """Whether both are the same directory of one file system, wherever they are mounted."""
    # NFS tells "/" whatever is mounted of it.
    return mount.numbers == other.numbers and (mount.kind in _NETWORK or mount.inner == other.inner)


def not_needed(mounts: Iterable[Mount], *, needed: Collection[str], whole: Collection[str], ours: str) -> list[str]:
    """Mount points, each once for each mount on it, outer ones first, of what can go: on which none of `needed` lies,
    nor any of `whole` with all that is below it, and which is not in our own folder. What goes with an outer one is
    not named."""
    found: list[str] = []
    for point in sorted((mount.point for mount in mounts), key=lambda point: (point.count("/"), point)):
        holds = any(is_below(one, point) for one in (*needed, *whole, ours))
        is_part = any(is_below(point, one) for one in (*whole, ours))
        is_gone = any(point != outer and is_below(point, outer) for outer in found)
        if not (holds or is_part or is_gone):
            found.append(point)
    return found


def is_below(path: str, folder: str) -> bool:
    """Or the same. Both are absolute and plain."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)
