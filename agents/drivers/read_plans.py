"""How a disk of a QEMU server is to be read: what changed since a point or all of it, why, and where there is room."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agents.drivers.base import POINT_PREFIX, DiskFullError, DiskUnreadableError
from agents.drivers.domains import DomainDisk

# Stable codes for why all of a disk is read although a base was given.
POINT_MISSING, BITMAP_LOST, DISK_RESIZED, FORMAT = (
    "point_missing",
    "bitmap_lost",
    "disk_resized",
    "format_without_changes",
)
# The same two, where it can be told: the image has the point and the hypervisor does not know it; the image is another
# file than at the point; a newer layer lies over it.
SERVER_MOVED, DISK_REPLACED, LAYER_ADDED = "server_moved", "disk_replaced", "layer_added"

# What a guest may overwrite of a disk while it is backed up.
_SCRATCH_SHARE, _SCRATCH_MAX = 0.05, 10 * 1024**3


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """`base` is the point to read changes from, or None to read all, with the reason when a base was wished.

    `if_lost` is the reason when its bitmap turns out not to be there, or not sound.
    """

    disk: DomainDisk
    size_bytes: int
    base: str | None = None
    full_reason: str = ""
    if_lost: str = BITMAP_LOST

    def full(self, reason: str) -> DiskPlan:
        return replace(self, base=None, full_reason=reason)

    def without_bitmap(self) -> DiskPlan:
        return self.full(self.if_lost)


def refuse_without_room(plans: Sequence[DiskPlan]) -> None:
    """Scratch files lie beside the disks. DiskFullError where these could soon fill their storage: QEMU would then fail
    writes of the guest, which is worse than no backup.
    """
    needed: dict[str, int] = {}
    for plan in plans:
        if not Path(plan.disk.path).is_file():
            raise DiskUnreadableError(
                f"The disk {plan.disk.path} of a running server is no file, so there is no place beside it for what "
                "the guest overwrites. Shut the server off, or use a driver of its storage."
            )
        folder = os.path.split(plan.disk.path)[0]
        needed[folder] = needed.get(folder, 0) + min(int(plan.size_bytes * _SCRATCH_SHARE), _SCRATCH_MAX)
    for folder, size_bytes in needed.items():
        space = os.statvfs(folder)
        if space.f_bavail * space.f_frsize < size_bytes:
            raise DiskFullError(
                f"Less than {size_bytes} bytes are free in {folder}, where the backup of a running server keeps what "
                "the guest overwrites meanwhile. Make room, or shut the server off."
            )


def scratch_path(disk: DomainDisk) -> str:
    """One per disk, so that a sweep finds it; a disk has one job at a time."""
    folder, name = os.path.split(disk.path)
    return os.path.join(folder, f".{POINT_PREFIX}scratch-{name}")
