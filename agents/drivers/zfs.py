"""Driver `zfs`: datasets and volumes of a pool. Their storage is a dataset, their path one below it.

They are not read as disks: ZFS itself sends what changed. So a definition of such a disk is of type Dataset (to a pool
of a backup node) or File (a full stream into a file); see `zfs_sets` and `zfs_commands`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from agents.drivers.base import Capability, DiskWish, DriverError, OpenedDisk, OpenedTarget, ReadWish, WriteWish
from agents.drivers.zfs_commands import Host


class NotADiskError(DriverError):
    """A dataset was asked for as a disk."""

    code = "sent_by_zfs"


class ZfsDriver:
    """See the module."""

    name = "zfs"

    def probe(self) -> Capability:
        host = Host()
        if not host.is_there():
            return Capability(usable=False, reason="There is no zfs program on this node.")
        try:
            host.run("list", "-H", "-o", "name")
        except DriverError as error:
            return Capability(usable=False, reason=error.message)
        return Capability(usable=True)

    def open_sources(self, wish: ReadWish) -> AbstractContextManager[Sequence[OpenedDisk]]:
        raise _not_a_disk()

    def open_target(self, wish: WriteWish) -> AbstractContextManager[OpenedTarget]:
        raise _not_a_disk()

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]:
        """Snapshots of ours are looked after by the backup node that goes on from them."""
        return ()


def _not_a_disk() -> NotADiskError:
    return NotADiskError("ZFS datasets are backed up with the type Dataset or File, and restored from such a backup.")
