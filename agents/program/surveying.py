"""What a node can do: which drivers work on it, and what its storages are like. Pure."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass

from agents.drivers.base import DriverError
from agents.drivers.copy_folder import mark_on
from agents.drivers.lvm_commands import Group
from agents.drivers.registry import driver_names, load_driver
from agents.drivers.zfs_commands import Host

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """The kind of file system, its bytes, and what is wrong in words; without a path that can be read no bytes.

    `mark`: which storage the folder of copies there says it is; another node may see the same share.
    """

    kind: str = ""
    total_bytes: int | None = None
    free_bytes: int | None = None
    problem: str = ""
    mark: str = ""


def probe_drivers() -> dict[str, str]:
    """Every driver that is known here, with a sentence why it does not work; empty for one that does."""
    return {name: _why_not(name) for name in driver_names()}


def _why_not(name: str) -> str:
    try:
        found = load_driver(name).probe()
    except DriverError as error:
        return error.message
    except Exception as error:  # a plug-in may raise anything; one that is broken stops no other
        logger.exception("a driver cannot be probed", extra={"driver": name})
        return f"It failed with {type(error).__name__}; the node's log has the details."
    return "" if found.usable else found.reason or "It does not work here."


def measure(path: str) -> StorageFacts:
    """The storage at an absolute path, as the node sees it now. May hang as long as a network file system does.

    Without a slash before it, it is a pool or a dataset of one; `/dev/NAME` is a volume group.
    """
    if path.startswith("/dev/"):
        return _measure_group(path)
    if not path.startswith("/"):
        return _measure_pool(path)
    try:
        space = os.statvfs(path)
    except OSError as error:
        return StorageFacts(problem=f"{error.strerror}. Is it mounted, and may the worker's user read it?")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        kind = kind_of(os.path.realpath(path), mounts)
    problem = "" if os.access(path, os.R_OK | os.X_OK) else "The worker's user may not read it."
    total_bytes, free_bytes = space.f_frsize * space.f_blocks, space.f_frsize * space.f_bavail
    return StorageFacts(kind, total_bytes, free_bytes, problem, mark_on(path))


def _measure_pool(dataset: str) -> StorageFacts:
    try:
        free_bytes, used_bytes = (int(Host().value(dataset, of)) for of in ("available", "used"))
    except (DriverError, ValueError) as error:
        return StorageFacts(kind="zfs", problem=str(error)[:200])
    return StorageFacts("zfs", free_bytes + used_bytes, free_bytes)


def _measure_group(path: str) -> StorageFacts:
    """Its thin pools: what they hold, and what is free in them."""
    try:
        volumes = Group(path.rstrip("/").removeprefix("/dev/"), "/dev").volumes()
    except (DriverError, ValueError) as error:
        return StorageFacts(kind="lvm", problem=str(error)[:200])
    pools = [volume for volume in volumes.values() if volume.is_pool]
    free_bytes = sum(int(pool.size_bytes * (100 - pool.data_percent) / 100) for pool in pools)
    problem = "" if pools else "The volume group has no thin pool."
    return StorageFacts("lvm", sum(pool.size_bytes for pool in pools), free_bytes, problem)


def kind_of(path: str, mountinfo: Iterable[str]) -> str:
    """The file system of the innermost mount above the path; of several on one place, the last covers the others."""
    best, kind = "", ""
    for line in mountinfo:
        before, _, after = line.partition(" - ")
        parts = before.split()
        if len(parts) < 5 or not after.split():
            continue
        mount = parts[4].replace("\\040", " ")
        if (path == mount or path.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best):
            best, kind = mount, after.split()[0]
    return kind
