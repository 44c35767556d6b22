"""What a driver is. Pure: no Django, no Celery; a driver runs in a node's worker and in the agent program alike."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from engine.restore import BlockTarget
from engine.writer import BlockSource


class DriverError(Exception):
    """Root of what a driver can meet. `code` is stable; `permanent` says that trying again cannot help."""

    code = "driver_error"
    permanent = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class DiskMissingError(DriverError):
    """The disk is not where its row says."""

    code = "disk_missing"


class DiskBusyError(DriverError):
    """Something else uses the disk now."""

    code = "disk_busy"
    permanent = False


class DiskChangedError(DriverError):
    """The disk was written to while it was read; what was read is no one point in time."""

    code = "disk_changed"
    permanent = False


class DiskTooSmallError(DriverError):
    """The target cannot hold the backup. Raised before the first write."""

    code = "target_too_small"


class DiskFullError(DriverError):
    """The place where the target lies has no space left."""

    code = "no_space"


class DiskUnreadableError(DriverError):
    """The operating system gives an error for reads or writes."""

    code = "disk_unreadable"
    permanent = False


@dataclass(frozen=True, slots=True)
class DiskAddress:
    """Where a disk is on its node. `path` is relative to the storage; `size_bytes` is what the control plane knows."""

    storage_path: str
    path: str
    size_bytes: int


class Driver(Protocol):
    """A way to reach disks. Every opened thing is closed on every path, also after errors.

    `open_source` raises DiskMissingError, DiskBusyError. `open_target` raises these and takes the disk for itself: no
    second opening and no running server may have it at the same time.
    """

    name: str

    def open_source(self, address: DiskAddress) -> AbstractContextManager[BlockSource]: ...

    def open_target(self, address: DiskAddress) -> AbstractContextManager[BlockTarget]: ...
