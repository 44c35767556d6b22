"""A driver with points, for tests: a point is a copy of the image beside it, and what changed is found by comparing.

It behaves like the worst node: what it made stays there when anything fails, until the next opening or a sweep. What is
named in `failing` fails once; `calls` is what it was asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agents.drivers import registry
from agents.drivers.base import (
    POINT_PREFIX,
    Capability,
    DiskAddress,
    DiskMissingError,
    DiskWish,
    DriverError,
    OpenedDisk,
    OpenedTarget,
    ReadWish,
    SourceFacts,
    TargetFacts,
    Warned,
    WriteWish,
)
from agents.drivers.image import ImageDriver
from agents.models import Disk, Server, Storage
from agents.services import add_disk, add_server
from engine.writer import Extent
from tests.backups.conftest import MIB, Site

STEP = 64 * 1024
CONFIGURATION = "<domain type='kvm'/>"


class NodeFaultError(DriverError):
    """What a test asked for."""

    code = "node_fault"


class KilledError(BaseException):
    """The process is gone: no handler of errors runs."""


class PointedSource:
    """Reads a copy, so that what is written meanwhile is not in it."""

    def __init__(self, copy: Path, base: Path | None) -> None:
        self.size_bytes = copy.stat().st_size
        self._data = copy.read_bytes()
        self._base = base.read_bytes() if base is not None else None

    def extents(self) -> Iterator[Extent]:
        yield Extent(0, self.size_bytes)

    def changed_extents(self) -> Iterator[Extent] | None:
        base = self._base
        if base is None:
            return None
        offsets = range(0, self.size_bytes, STEP)
        return (Extent(at, STEP) for at in offsets if self._data[at : at + STEP] != base[at : at + STEP])

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def check_unchanged(self) -> None:
        return None


class PointedDriver:
    """See the module."""

    name = "pointed"
    calls: ClassVar[list[tuple[str, list[str]]]] = []
    failing: ClassVar[dict[str, BaseException]] = {}
    servers: ClassVar[dict[str, tuple[str, dict[str, str]]]] = {}

    def probe(self) -> Capability:
        return Capability(usable=True)

    @contextmanager
    def open_sources(self, wish: ReadWish) -> Iterator[Sequence[OpenedDisk]]:
        self._call("open", [disk.address.path for disk in wish.disks])
        for disk in wish.disks:
            if not path_of(disk.address).exists():
                raise DiskMissingError(f"{disk.address.path} is not there.")
            self._remove(disk)
        opened = [self._open(disk, wish) for disk in wish.disks]
        yield opened
        self._step("close")

    def _open(self, disk: DiskWish, wish: ReadWish) -> OpenedDisk:
        self._step("point")
        copy = points_of(disk.address) / wish.new_point
        shutil.copy(path_of(disk.address), copy)
        base = points_of(disk.address) / disk.base_point if disk.base_point else None
        known = base is not None and base.exists()
        self._step("read")
        facts = SourceFacts(
            point=wish.new_point,
            frozen=wish.freeze,
            full_reason="" if known or base is None else "point_unknown",
            warnings=(Warned("slow_node", "The node is slow."),),
            configuration=CONFIGURATION,
        )
        return OpenedDisk(PointedSource(copy, base if known else None), facts)

    @contextmanager
    def open_target(self, wish: WriteWish) -> Iterator[OpenedTarget]:
        self._call("target", [wish.address.path])
        with ExitStack() as stack:
            opened = stack.enter_context(ImageDriver().open_target(wish))
            if wish.safety_point:
                shutil.copy(path_of(wish.address), points_of(wish.address) / wish.safety_point)
            yield OpenedTarget(opened.target, TargetFacts(safety_point=wish.safety_point))

    def define(self, configuration: str, *, name: str, disks: Mapping[str, str]) -> str:
        self._call("define", sorted(disks.values()))
        if name in self.servers:
            raise NodeFaultError(f"There is a server {name} already. Choose another name.")
        self.servers[name] = (configuration, dict(disks))
        return f"uuid-of-{name}"

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]:
        self._call("forget", [disk.address.path for disk in disks])
        return [name for disk in disks for name in self._remove(disk)]

    def _remove(self, disk: DiskWish) -> list[str]:
        found = [point for point in points_of(disk.address).iterdir() if point.name.startswith(POINT_PREFIX)]
        gone = [point for point in found if point.name not in disk.kept_points]
        for point in gone:
            self._step("remove")
            point.unlink()
        return [point.name for point in gone]

    def _call(self, name: str, disks: list[str]) -> None:
        self.calls.append((name, disks))
        self._step(name)

    def _step(self, name: str) -> None:
        if name in self.failing:
            raise self.failing.pop(name)


def path_of(address: DiskAddress) -> Path:
    return Path(address.storage_path, address.path)


def points_of(address: DiskAddress) -> Path:
    folder = path_of(address).with_suffix(".points")
    folder.mkdir(exist_ok=True)
    return folder


def points_on_node(disk: Disk) -> set[str]:
    return {point.name for point in points_of(DiskAddress(disk.storage.path, disk.path, 0)).iterdir()}


@pytest.fixture
def pointed(monkeypatch: pytest.MonkeyPatch) -> type[PointedDriver]:
    monkeypatch.setitem(registry.BUILT_IN, "pointed", "tests.backups.pointed:PointedDriver")  # type: ignore[arg-type]  # a dict
    PointedDriver.calls.clear()
    PointedDriver.failing.clear()
    PointedDriver.servers.clear()
    return PointedDriver


def pointed_server(site: Site, name: str, *, disks: int = 1, size_bytes: int = MIB) -> Server:
    """A server whose disks have points, with noise on each."""
    server = add_server(tenant=site.tenant, name=name, region_code="RBX", node=site.node, actor=None)
    storage = Storage.objects.get(node=site.node)
    for number in range(1, disks + 1):
        place: dict[str, Any] = {"driver": "pointed", "storage": storage, "path": f"{name}-{number}.img"}
        disk = add_disk(server=server, number=number, size_bytes=size_bytes, actor=None, **place)
        site.path(disk).write_bytes(bytes([number]) * size_bytes)
    return server
