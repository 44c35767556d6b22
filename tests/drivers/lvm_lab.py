"""A volume group of `fake_lvm`, which the driver reaches while `bin/` of its folder is in PATH."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from agents.drivers.base import DiskAddress, DiskWish, OpenedDisk, ReadWish
from agents.drivers.lvm import LvmDriver
from tests.drivers import fake_lvm
from tests.drivers.fake_lvm import BLOCK

SIZE = 20 * BLOCK + 4096
# What holds a volume goes by its name on this machine, where other processes run tests as well.
GROUP = f"vg-{os.getpid()}"


class Lab:
    def __init__(self, folder: Path) -> None:
        fake_lvm.make(str(folder), group=GROUP)
        self.folder = folder
        self.driver = LvmDriver(str(folder / "dev"))

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return state

    def change(self, volume: str = "", **facts: Any) -> None:
        state = self.state
        (state["volumes"][volume] if volume else state).update(facts)
        (self.folder / "state.json").write_text(json.dumps(state))

    def volume(self, name: str, content: bytes = b"", *, size: int = SIZE) -> Path:
        """Its content."""
        path = self.folder / "data" / name
        path.write_bytes(content.ljust(size, b"\0"))
        (self.folder / "dev" / GROUP / name).symlink_to(path)
        volumes = self.state["volumes"]
        one = {"uuid": name, "id": 100 + len(volumes), "is_pool": False, "open": False, "active": True}
        self.change(volumes={**volumes, name: {**one, "pool": "pool", "origin": "", "size": size}})
        return path

    def address(self, name: str, size: int = SIZE) -> DiskAddress:
        return DiskAddress(f"/dev/{GROUP}", name, size)

    def wish(self, name: str, base: str | None = None, *kept: str) -> DiskWish:
        return DiskWish(self.address(name), base, frozenset(kept))

    def names(self) -> set[str]:
        """Of volumes, with a star behind those that are active."""
        return {f"{name}{'*' * one['active']}" for name, one in self.state["volumes"].items()}

    def read(self, *wishes: DiskWish, point: str, freeze: bool = False) -> list[tuple[OpenedDisk, bytes]]:
        """Each disk and its whole content by its extents."""
        with self.driver.open_sources(ReadWish(list(wishes), point, freeze=freeze)) as opened:
            return [(disk, content_of(disk)) for disk in opened]


def content_of(disk: OpenedDisk) -> bytes:
    found = bytearray(disk.source.size_bytes)
    for extent in disk.source.extents():
        found[extent.offset : extent.offset + extent.length] = disk.source.read(extent.offset, extent.length)
    return bytes(found)
