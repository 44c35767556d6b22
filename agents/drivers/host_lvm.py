"""Snapshots of logical volumes for the time of one backup of a server: thin ones, or classic ones with own room.

A classic one that grows full is worth nothing any more, and the backup that reads it fails. Names of ours only.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agents.drivers.base import POINT_PREFIX, DiskFullError, DiskMissingError, DriverError
from agents.drivers.host_mounts import Mount
from agents.drivers.lvm_commands import Group, LvmError, Volume, run

logger = logging.getLogger(__name__)

PREFIX = f"{POINT_PREFIX}host-"
# Two file systems of one name and number side by side: these allow it. btrfs does not, and has snapshots of its own.
KINDS = frozenset({"ext2", "ext3", "ext4", "xfs"})
_SYSFS, _DEVICES = Path("/sys/dev/block"), "/dev"
_POOL_PERCENT_MAX, _POOL_METADATA_PERCENT_MAX = 95.0, 90.0
# Of a classic snapshot: what may be written to the volume during the backup. All of a small volume at the least share.
_SHARE, _LEAST_BYTES = 0.1, 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Held:
    """A snapshot that can be mounted: its device, and the option that its kind of file system wants."""

    device: Path
    kind: str
    options: str


def is_on_volume(mount: Mount) -> bool:
    """Whether the file system can be held still so. Cheap: no program is run."""
    if mount.kind not in KINDS or shutil.which("lvcreate") is None:
        return False
    try:
        return (_SYSFS / mount.numbers / "dm" / "uuid").read_text().startswith("LVM-")
    except OSError:
        return False


@contextmanager
def snapshot_of(mount: Mount, name: str) -> Iterator[Held]:
    """DriverError where it cannot be had; at the end, when it did not hold all that was written meanwhile."""
    group, volume = _volume_of(mount.numbers)
    # LVM allows some 120 signs for the names of group and volume together.
    snapshot = f"{PREFIX}{name[-8:]}-{volume.name}"
    group.snapshot(volume.name, snapshot, size_bytes=_room(group, volume))
    try:
        # A classic one is active from the first, and with it LVM would ask whether its origin may be changed, too.
        if volume.pool:
            group.activate(snapshot)
        options = "nouuid" if mount.kind == "xfs" else ""
        yield Held(Path(group.device(snapshot)), mount.kind, options)
        _refuse_overflown(group, volume.name, snapshot)
    finally:
        try:
            group.remove(snapshot)
        except DriverError as error:
            # No reason to lose a good backup: the program that waits for this process tries again.
            logger.warning("a snapshot stays", extra={"snapshot": snapshot, "reason": error.message})


def why_not(mount: Mount) -> str:
    """What keeps a snapshot of it from being made now, in words; empty for nothing."""
    try:
        group, volume = _volume_of(mount.numbers)
        _room(group, volume)
    except DriverError as error:
        return error.message.rstrip(".")
    return ""


def leftovers_removed(mount: Mount) -> Iterator[str]:
    """Names of snapshots of ours of this volume, each once it is gone. DriverError."""
    group, volume = _volume_of(mount.numbers)
    for one in group.volumes().values():
        if one.origin == volume.name and one.name.startswith(PREFIX):
            group.remove(one.name)
            yield f"{group.name}/{one.name}"


def _volume_of(numbers: str) -> tuple[Group, Volume]:
    fields = "vg_name,lv_name,lv_kernel_major,lv_kernel_minor"
    for row in json.loads(run("lvs", "--reportformat", "json", "-o", fields))["report"][0]["lv"]:
        if f"{row['lv_kernel_major']}:{row['lv_kernel_minor']}" == numbers:
            group = Group(row["vg_name"], _DEVICES)
            with suppress(KeyError):
                return group, group.volumes()[row["lv_name"]]
    raise DiskMissingError(f"LVM knows no volume of the device {numbers}.")


def _room(group: Group, volume: Volume) -> int:
    """Bytes for a classic snapshot, 0 for a thin one. DiskFullError where there are too few."""
    if volume.pool:
        pool = group.volumes()[volume.pool]
        if pool.data_percent > _POOL_PERCENT_MAX or pool.metadata_percent > _POOL_METADATA_PERCENT_MAX:
            raise DiskFullError(
                f"the thin pool {volume.pool} is {pool.data_percent:.0f} % full, its metadata "
                f"{pool.metadata_percent:.0f} %: no snapshot above {_POOL_PERCENT_MAX:.0f} % and "
                f"{_POOL_METADATA_PERCENT_MAX:.0f} %; make it larger"
            )
        return 0
    wanted = min(volume.size_bytes, max(int(volume.size_bytes * _SHARE), _LEAST_BYTES))
    free = group.free_bytes()
    if free < wanted:
        raise DiskFullError(
            f"the volume group {group.name} has {free >> 20} MiB free, and a snapshot of {volume.name} needs "
            f"{wanted >> 20} MiB: leave so much unused, or add a disk to the group"
        )
    return wanted


def _refuse_overflown(group: Group, origin: str, snapshot: str) -> None:
    found = group.volumes().get(snapshot)
    # The fifth sign of a snapshot that is no good any more is I, or S while it is suspended.
    if found is None or found.attributes[4:5] in {"I", "S"} or (not found.pool and found.data_percent >= 100):
        raise LvmError(
            f"More was written to {origin} during the backup than its snapshot {snapshot} could hold: what was read "
            "is not of one moment. Leave more of the volume group unused, or back up at a quieter time."
        )
