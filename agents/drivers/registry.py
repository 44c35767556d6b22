"""The one table of drivers. Heavy libraries are imported inside the driver that needs them, when it is opened."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from agents.drivers.base import Driver, DriverError, StreamDriver, TreeDriver
from engine.manifest import CONTENT_DISK, CONTENT_STREAM, CONTENT_TREE

ENTRY_POINT_GROUP = "backupsite.drivers"

BUILT_IN: Mapping[str, str] = {
    "image": "agents.drivers.image:ImageDriver",
    "zfs": "agents.drivers.zfs:ZfsDriver",
    "libvirt": "agents.drivers.libvirt:LibvirtDriver",
    "qemu": "agents.drivers.qemu:QemuDriver",
    "lvm": "agents.drivers.lvm:LvmDriver",
    "filesystem": "agents.drivers.filesystem:FilesystemDriver",
    "btrfs": "agents.drivers.btrfs:BtrfsDriver",
    "postgresql": "agents.drivers.postgresql:PostgresqlDriver",
}

# What only the agent program has: no node says that it can do it.
OF_AGENTS: Mapping[str, str] = {"host": "agents.drivers.host:HostDriver"}

# What a driver's disks are, where they are no block devices: a file tree or a byte stream.
CONTENTS: Mapping[str, str] = {
    "filesystem": CONTENT_TREE,
    "btrfs": CONTENT_TREE,
    "postgresql": CONTENT_STREAM,
    "host": CONTENT_TREE,
}


class UnknownDriverError(DriverError):
    """No driver of that name is built in or installed."""

    code = "unknown_driver"


def driver_names() -> list[str]:
    """All known drivers; built-in ones cannot be replaced by installed ones."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def load_driver(name: str) -> Driver:
    """A new instance of the driver. Raises UnknownDriverError.

    What reaches file trees or streams opens them by other methods: see `load_tree_driver`, `load_stream_driver`.
    """
    driver: Driver = _load(name)
    return driver


def load_tree_driver(name: str) -> TreeDriver:
    """As `load_driver`, of a driver whose content is a tree."""
    driver: TreeDriver = _load(name)
    return driver


def load_stream_driver(name: str) -> StreamDriver:
    """As `load_driver`, of a driver whose content is a stream."""
    driver: StreamDriver = _load(name)
    return driver


def _load(name: str) -> Any:
    path = BUILT_IN.get(name) or OF_AGENTS.get(name)
    if path is None:
        path = next((point.value for point in entry_points(group=ENTRY_POINT_GROUP) if point.name == name), None)
    if path is None:
        raise UnknownDriverError(f"There is no driver {name!r} on this node; known: {', '.join(driver_names())}.")
    module_name, _, class_name = path.partition(":")
    return getattr(importlib.import_module(module_name), class_name)()


def content_of(name: str) -> str:
    """What a disk of this driver holds: `disk`, `tree` or `stream` (see `engine.manifest`). Opens no driver."""
    return CONTENTS.get(name, CONTENT_DISK)
