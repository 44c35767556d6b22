"""Snapshots of a server's file systems for the time of one backup: btrfs, ZFS, LVM. Names of ours only, removed after.

Others are read as they are, and the engine says which files changed meanwhile.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agents.drivers import btrfs_calls, host_lvm, host_zfs
from agents.drivers.base import DriverError, Warned
from agents.drivers.host_mounts import Mount

logger = logging.getLogger(__name__)

PREFIX = ".backupsite-host-"
BTRFS, ZFS, LVM, NONE = "btrfs", "zfs", "lvm", "none"


@dataclass(frozen=True, slots=True)
class Place:
    """A directory to put at `point` of the tree. `snapshot` is how it stands still; `warnings` why it does not.

    `left_out` are directories at or below `point`, absolute, on which something lies that the source does not have.
    With `held`, `source` is a directory of its file system ("/" for all of it), which has to be mounted first.
    """

    point: str
    source: Path
    snapshot: str
    warnings: tuple[Warned, ...] = ()
    left_out: tuple[str, ...] = ()
    held: host_lvm.Held | None = None


def way_of(mount: Mount) -> str:
    """How the file system can stand still: `btrfs`, `zfs`, `lvm` or `none`. No program is run."""
    if mount.kind == "btrfs" and _is_subvolume(mount.point):
        return BTRFS
    if host_zfs.can_hold(mount):
        return ZFS
    return LVM if host_lvm.is_on_volume(mount) else NONE


@contextmanager
def all_standing_still(mounts: Sequence[Mount], name: str) -> Iterator[list[Place]]:
    """As `standing_still`, of all of them in their order. Datasets of one ZFS pool are of the same moment."""
    datasets = {mount.device for mount in mounts if way_of(mount) == ZFS}
    with ExitStack() as held:
        refused = held.enter_context(host_zfs.held_still(datasets, name))
        places: list[Place] = []
        for mount in mounts:
            if mount.kind == "zfs" and mount.device in datasets:
                places.append(_zfs(mount, name, refused))
            else:
                places += held.enter_context(standing_still(mount, name))
        yield places


@contextmanager
def standing_still(mount: Mount, name: str) -> Iterator[Sequence[Place]]:
    """The mount's directory as of one moment, and the subvolumes inside of it; else the live one."""
    way = way_of(mount)
    if way == BTRFS:
        with _btrfs(mount, name) as places:
            yield places
    elif way == ZFS:
        with host_zfs.held_still([mount.device], name) as refused:
            yield [_zfs(mount, name, refused)]
    elif way == LVM:
        with _lvm(mount, name) as places:
            yield places
    else:
        yield [Place(mount.point, Path(mount.point), NONE)]


def remove_leftovers(mount: Mount) -> list[str]:
    """Snapshots of ours that a killed backup left in this file system. Call it only while none runs."""
    try:
        if mount.kind == "btrfs" and _is_subvolume(mount.point):
            return list(_removed_btrfs(mount.point))
        if mount.kind == "zfs":
            return list(host_zfs.leftovers_removed(mount.device))
        if host_lvm.is_on_volume(mount):
            return list(host_lvm.leftovers_removed(mount))
    except (OSError, DriverError) as error:
        logger.warning("leftovers cannot be removed", extra={"mount": mount.point, "reason": str(error)})
    return []


# --- btrfs ------------------------------------------------------------------------------------------------------------


@contextmanager
def _btrfs(mount: Mount, name: str) -> Iterator[Sequence[Place]]:
    made: list[bytes] = []
    with btrfs_calls.directory(os.fsencode(mount.point)) as top:
        try:
            yield _snapshots(mount.point, top, name, made)
        finally:
            for snapshot in reversed(made):
                with suppress(FileNotFoundError):
                    btrfs_calls.remove(top, snapshot)


def _snapshots(point: str, top: int, name: str, made: list[bytes]) -> list[Place]:
    """All subvolumes right after one another: the kernel has no snapshot of several at once."""
    left_out: list[str] = []
    places: list[Place] = []
    for inner, descriptor in _subvolumes(top, b""):
        try:
            if inner and btrfs_calls.is_read_only(descriptor):
                left_out.append(os.path.join(point, os.fsdecode(inner)))
                continue
            snapshot = os.fsencode(f"{PREFIX}{name}-{len(made)}")
            btrfs_calls.snapshot(descriptor, top, snapshot, read_only=True)
            made.append(snapshot)
            at = os.path.join(point, os.fsdecode(inner)) if inner else point
            places.append(Place(at, Path(point) / os.fsdecode(snapshot), BTRFS))
        except OSError as error:
            places.append(_live(point, inner, error))
        finally:
            if inner:
                os.close(descriptor)
    return places if not left_out else [*places[:1], *places[1:], _said(places[0], point, left_out)]


def _said(first: Place, point: str, left_out: Sequence[str]) -> Place:
    why = f"{len(left_out)} read-only subvolumes below {point} are snapshots of somebody, and are not in the backup."
    return Place(first.point, first.source, first.snapshot, (Warned("snapshots_left_out", why),), tuple(left_out))


def _live(point: str, inner: bytes, error: OSError) -> Place:
    return live_place(os.path.join(point, os.fsdecode(inner)), error.strerror or type(error).__name__)


def _subvolumes(descriptor: int, above: bytes) -> Iterator[tuple[bytes, int]]:
    """This one, then those inside of it; paths from the first. Inner descriptors are the caller's to close."""
    yield above, descriptor
    for child in sorted(btrfs_calls.children(descriptor) if not above else ()):
        yield from _inner_subvolumes(descriptor, child)


def _inner_subvolumes(top: int, path: bytes) -> Iterator[tuple[bytes, int]]:
    if path.rsplit(b"/", 1)[-1].startswith(PREFIX.encode()):
        return
    try:
        inner = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    except OSError:
        return  # removed meanwhile, or hidden by another mount
    if os.fstat(inner).st_ino != btrfs_calls.SUBVOLUME_INODE or not btrfs_calls.file_system(inner):
        os.close(inner)
        return
    deeper = sorted(btrfs_calls.children(inner))
    yield path, inner
    for child in deeper:
        yield from _inner_subvolumes(top, path + b"/" + child)


def _removed_btrfs(point: str) -> Iterator[str]:
    with btrfs_calls.directory(os.fsencode(point)) as top:
        for child in btrfs_calls.children(top):
            if child.startswith(PREFIX.encode()) and b"/" not in child:
                btrfs_calls.remove(top, child)
                yield os.path.join(point, os.fsdecode(child))


def _is_subvolume(point: str) -> bool:
    try:
        with btrfs_calls.directory(os.fsencode(point)) as descriptor:
            return btrfs_calls.is_subvolume(descriptor)
    except OSError:
        return False


# --- ZFS --------------------------------------------------------------------------------------------------------------


def _zfs(mount: Mount, name: str, refused: Mapping[str, str]) -> Place:
    """Mounted by ourselves where nobody else sees it, as one of LVM is. What the kernel mounts below `.zfs` is seen by
    all of the server, is gone after some minutes, and is not there where that directory is switched off."""
    if mount.device in refused:
        return live_place(mount.point, refused[mount.device])
    snapshot = host_lvm.Held(Path(f"{mount.device}@{host_zfs.PREFIX}{name}"), "zfs", "")
    return Place(mount.point, Path(mount.inner), ZFS, held=snapshot)


# --- LVM --------------------------------------------------------------------------------------------------------------


@contextmanager
def _lvm(mount: Mount, name: str) -> Iterator[Sequence[Place]]:
    """The errors at the end are the backup's: what was read is not what it should be."""
    with ExitStack() as held:
        try:
            snapshot = held.enter_context(host_lvm.snapshot_of(mount, name))
        except DriverError as error:
            yield [live_place(mount.point, error.message.rstrip("."))]
            return
        yield [Place(mount.point, Path(mount.inner), LVM, held=snapshot)]


def live_place(point: str, reason: str) -> Place:
    why = f"{point} could not be held still ({reason}): its files are of different moments."
    return Place(point, Path(point), NONE, (Warned("no_snapshot", why),))
