"""Snapshots of a server's file systems for the time of one backup: btrfs and ZFS. Names of ours only, removed after.

Others are read as they are, and the engine says which files changed meanwhile.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agents.drivers import btrfs_calls
from agents.drivers.base import DriverError, Warned
from agents.drivers.host_mounts import Mount
from agents.drivers.zfs_commands import Host

logger = logging.getLogger(__name__)

PREFIX = ".backupsite-host-"
ZFS_PREFIX = "bs-host-"
BTRFS, ZFS, NONE = "btrfs", "zfs", "none"


@dataclass(frozen=True, slots=True)
class Place:
    """A directory to put at `point` of the tree. `snapshot` is how it stands still; `warnings` why it does not."""

    point: str
    source: Path
    snapshot: str
    warnings: tuple[Warned, ...] = ()


def way_of(mount: Mount) -> str:
    """How the file system can stand still: `btrfs`, `zfs` or `none`."""
    if mount.kind == "btrfs" and _is_subvolume(mount.point):
        return BTRFS
    if mount.kind == "zfs" and Path(mount.point, ".zfs").is_dir():
        return ZFS
    return NONE


@contextmanager
def standing_still(mount: Mount, name: str) -> Iterator[Sequence[Place]]:
    """The mount's directory as of one moment, and the subvolumes inside of it; else the live one."""
    way = way_of(mount)
    if way == BTRFS:
        with _btrfs(mount, name) as places:
            yield places
    elif way == ZFS:
        with _zfs(mount, name) as places:
            yield places
    else:
        yield [Place(mount.point, Path(mount.point), NONE)]


def remove_leftovers(mount: Mount) -> list[str]:
    """Snapshots of ours that a killed backup left in this file system. Call it only while none runs."""
    try:
        if mount.kind == "btrfs" and _is_subvolume(mount.point):
            return list(_removed_btrfs(mount.point))
        if mount.kind == "zfs":
            return list(_removed_zfs(mount.device))
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
    left_out, places = 0, []
    for inner, descriptor in _subvolumes(top, b""):
        try:
            if inner and btrfs_calls.is_read_only(descriptor):
                left_out += 1
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


def _said(first: Place, point: str, count: int) -> Place:
    why = f"{count} read-only subvolumes below {point} are snapshots of somebody, and are not in the backup."
    return Place(first.point, first.source, first.snapshot, (Warned("snapshots_left_out", why),))


def _live(point: str, inner: bytes, error: OSError) -> Place:
    path = os.path.join(point, os.fsdecode(inner))
    why = f"{path} could not be held still ({error.strerror}): its files are of different moments."
    return Place(path, Path(path), NONE, (Warned("no_snapshot", why),))


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


@contextmanager
def _zfs(mount: Mount, name: str) -> Iterator[Sequence[Place]]:
    host, snapshot = Host(), f"{ZFS_PREFIX}{name}"
    try:
        host.snapshot(mount.device, snapshot, disk="host")
    except (DriverError, OSError) as error:
        why = f"{mount.point} could not be held still ({error}): its files are of different moments."
        yield [Place(mount.point, Path(mount.point), NONE, (Warned("no_snapshot", why),))]
        return
    try:
        yield [Place(mount.point, Path(mount.point) / ".zfs" / "snapshot" / snapshot, ZFS)]
    finally:
        host.destroy_own(mount.device, snapshot)


def _removed_zfs(dataset: str) -> Iterator[str]:
    host = Host()
    for snapshot in host.snapshots(dataset):
        if snapshot.name.startswith(ZFS_PREFIX):
            host.destroy_own(dataset, snapshot.name)
            yield f"{dataset}@{snapshot.name}"
