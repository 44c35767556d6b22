"""The one table of drivers. Heavy libraries are imported inside the driver that needs them, when it is opened."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points

from agents.drivers.base import Driver, DriverError
from engine.manifest import CONTENT_DISK

ENTRY_POINT_GROUP = "backupsite.drivers"

BUILT_IN: Mapping[str, str] = {
    "image": "agents.drivers.image:ImageDriver",
    "zfs": "agents.drivers.zfs:ZfsDriver",
    "libvirt": "agents.drivers.libvirt:LibvirtDriver",
    "qemu": "agents.drivers.qemu:QemuDriver",
}

# What a driver's disks are, where they are no block devices: a file tree or a byte stream.
CONTENTS: Mapping[str, str] = {}


class UnknownDriverError(DriverError):
    """No driver of that name is built in or installed."""

    code = "unknown_driver"


def driver_names() -> list[str]:
    """All known drivers; built-in ones cannot be replaced by installed ones."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def load_driver(name: str) -> Driver:
    """A new instance of the driver. Raises UnknownDriverError."""
    path = BUILT_IN.get(name)
    if path is None:
        path = next((point.value for point in entry_points(group=ENTRY_POINT_GROUP) if point.name == name), None)
    if path is None:
        raise UnknownDriverError(f"There is no driver {name!r} on this node; known: {', '.join(driver_names())}.")
    module_name, _, class_name = path.partition(":")
    driver: Driver = getattr(importlib.import_module(module_name), class_name)()
    return driver


def content_of(name: str) -> str:
    """What a disk of this driver holds: `disk`, `tree` or `stream` (see `engine.manifest`). Opens no driver."""
    return CONTENTS.get(name, CONTENT_DISK)
