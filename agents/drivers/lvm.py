"""Driver `lvm`: thin volumes of a volume group. A disk's storage is `/dev/GROUP`, its path the name of the volume.

A thin snapshot of ours is read, and kept as the point of the next backup: what of two snapshots differs is told by the
pool's own map. No file system is frozen by us: device-mapper does that by itself, and would wait for ever for one that
is frozen already. A full pool breaks every volume in it, so nothing is begun when little is left.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from agents.drivers.base import (
    POINT_PREFIX,
    Capability,
    DiskBusyError,
    DiskFullError,
    DiskMissingError,
    DiskTooSmallError,
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
from agents.drivers.holding import held_server, safe_point, standing_for
from agents.drivers.lvm_commands import Group, Volume, check_name
from agents.drivers.lvm_devices import LvmSource, ThinTarget, opened_device
from agents.drivers.lvm_maps import external_origin, reading_pool, sweep_pool
from agents.drivers.safety import NO_SAFETY_POINT
from engine.scan import Extent
from engine.targets import FileTarget, descriptor_target

logger = logging.getLogger(__name__)

# Above these nothing is begun that takes room of a pool: a person needs time to make it larger.
DATA_PERCENT_MAX, METADATA_PERCENT_MAX = 95.0, 90.0
_LABEL_MAX = 30
_FREEZE_FAILED = Warned(
    "freeze_failed",
    "The guest's file systems were not frozen: the driver lvm knows no guests. Ones mounted on the node were.",
)


class NotThinError(DriverError):
    """An ordinary volume, or a pool."""

    code = "not_thin"


@dataclass(frozen=True, slots=True)
class _Held:
    """A volume that is ours alone until the job ends; its pool; and snapshots of ours of it, by point."""

    wish: DiskWish
    group: Group
    volume: Volume
    pool: Volume
    points: dict[str, Volume]

    def name_of(self, point: str) -> str:
        return f"{point}.{_label(self.volume.name)}"


class LvmDriver:
    """See the module. `devices` is where the nodes of volumes are."""

    name = "lvm"

    def __init__(self, devices: str = "/dev") -> None:
        self._devices = devices

    def probe(self) -> Capability:
        for tool in ("lvs", "lvcreate", "dmsetup"):
            if shutil.which(tool) is None:
                return Capability(usable=False, reason=f"There is no {tool} on this node; install lvm2.")
        if not os.access("/dev/mapper/control", os.R_OK | os.W_OK):
            reason = "The kernel has no device-mapper, or the worker is not root (/dev/mapper/control)."
            return Capability(usable=False, reason=reason)
        return Capability(usable=True)

    @contextmanager
    def open_sources(self, wish: ReadWish) -> Iterator[Sequence[OpenedDisk]]:
        """A point that its block did not end well is removed; the base stays."""
        point = safe_point(wish.new_point)
        with ExitStack() as stack:
            held = [stack.enter_context(self._held(disk)) for disk in wish.disks]
            for one in held:
                _sweep(one, _kept(one.wish))
                _require_room(one.pool)
                if point in one.points:
                    raise DiskBusyError(f"There is a snapshot {one.name_of(point)} already.")
            begun = time.monotonic()
            taken = [stack.enter_context(_snapshot(one, point)) for one in held]
            common = _common_warnings(len(held), time.monotonic() - begun, freeze=wish.freeze)
            yield [
                stack.enter_context(_opened(one, name, point, common)) for one, name in zip(held, taken, strict=True)
            ]

    @contextmanager
    def open_target(self, wish: WriteWish) -> Iterator[OpenedTarget]:
        if wish.create:
            self._create(wish)
        with self._held(DiskWish(wish.address)) as held, ExitStack() as stack:
            group, volume = held.group, held.volume
            if volume.is_open:
                raise DiskBusyError(f"The volume {volume.name} is mounted or in use. Shut down what uses it.")
            if volume.size_bytes < wish.size_bytes:
                raise DiskTooSmallError(
                    f"The volume {volume.name} has {volume.size_bytes} bytes, the backup {wish.size_bytes}. "
                    "Choose a larger volume, or a new one."
                )
            facts = TargetFacts() if wish.create else _safety(held, wish.safety_point)
            if not volume.is_active:
                stack.callback(group.deactivate, volume.name)
                group.activate(volume.name)
            descriptor = stack.enter_context(opened_device(group.device(volume.name), os.O_RDWR | os.O_EXCL))
            yield OpenedTarget(_target(descriptor, held), facts)

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]:
        removed: list[str] = []
        for disk in disks:
            try:
                with self._held(disk) as held:
                    removed += _sweep(held, _kept(disk))
            except DiskBusyError:
                continue  # the job that has it sweeps by itself
            except DiskMissingError:
                removed += self._sweep_without(disk)
        return removed

    @contextmanager
    def _held(self, disk: DiskWish) -> Iterator[_Held]:
        group, name = self._group(disk.address.storage_path), check_name(disk.address.path)
        with ExitStack() as stack:
            try:
                stack.enter_context(held_server(standing_for(f"lvm:{group.name}/{name}")))
            except DiskBusyError as error:
                raise DiskBusyError(f"The volume {name} is in use by another job.") from error
            volumes = group.volumes()
            volume = volumes.get(name)
            if volume is None or name.startswith(POINT_PREFIX):
                raise DiskMissingError(f"There is no volume {name} in the group {group.name}.")
            if not volume.pool:
                raise NotThinError(f"{name} is no thin volume. Its device can be read by the driver image.")
            yield _Held(disk, group, volume, volumes[volume.pool], _points(volumes, name))

    def _sweep_without(self, disk: DiskWish) -> list[str]:
        """Snapshots of ours outlive the volume."""
        group, name = self._group(disk.address.storage_path), check_name(disk.address.path)
        return _remove_points(group, _points(group.volumes(), name), _kept(disk))

    def _group(self, storage_path: str) -> Group:
        """Of `/dev/GROUP`, or its bare name."""
        return Group(storage_path.rstrip("/").removeprefix("/dev/"), self._devices)

    def _create(self, wish: WriteWish) -> None:
        group, name = self._group(wish.address.storage_path), check_name(wish.address.path)
        volumes = group.volumes()
        if name in volumes:
            raise DiskBusyError(f"There is a volume {name} already. Choose another name.")
        pools = [one for one in volumes.values() if one.is_pool]
        if len(pools) != 1:
            raise NotThinError(
                f"The group {group.name} has {len(pools)} thin pools, and a new volume needs exactly one. Make the "
                "volume by hand, and restore to it."
            )
        _require_room(pools[0])
        group.create(name, pools[0].name, wish.size_bytes)


@contextmanager
def _snapshot(held: _Held, point: str) -> Iterator[str]:
    name = held.name_of(point)
    try:
        held.group.snapshot(held.volume.name, name)
        yield name
    except BaseException:
        try:
            held.group.remove(name)
        except DriverError as error:
            logger.warning("a snapshot stays", extra={"snapshot": name, "reason": error.message})
        raise


@contextmanager
def _opened(held: _Held, name: str, point: str, common: tuple[Warned, ...]) -> Iterator[OpenedDisk]:
    group = held.group
    volumes = group.volumes()
    new = volumes[name]
    mapped, changed, reason, warnings = _map(held, new, volumes)
    with ExitStack() as stack:
        stack.callback(_deactivate_quietly, group, name)
        group.activate(name)
        path = group.device(name)
        descriptor = stack.enter_context(opened_device(path, os.O_RDONLY))
        source = LvmSource(descriptor=descriptor, path=path, size_bytes=new.size_bytes, mapped=mapped)
        source.changed = changed
        facts = SourceFacts(point=point, full_reason=reason, warnings=(*common, *warnings))
        yield OpenedDisk(source, facts)


def _map(
    held: _Held, new: Volume, volumes: Mapping[str, Volume]
) -> tuple[list[Extent], list[Extent] | None, str, tuple[Warned, ...]]:
    """What is mapped, what changed since the base point, why that is not known, and what a person should know."""
    outside = external_origin(volumes, new)
    base, reason = _base(held, new, volumes)
    try:
        with reading_pool(held.group, new.pool) as pool_map:
            changed = pool_map.changed(base, new) if base is not None else None
            mapped = [Extent(offset=0, length=new.size_bytes)] if outside else pool_map.mapped(new)
            return mapped, changed, reason, ()
    except DiskBusyError:
        raise
    except DriverError as error:
        warning = Warned("changes_unknown", f"All of the volume was read. {error.message}")
        reason = reason or ("changes_unknown" if held.wish.base_point else "")
        return [Extent(offset=0, length=new.size_bytes)], None, reason, (warning,)


def _base(held: _Held, new: Volume, volumes: Mapping[str, Volume]) -> tuple[Volume | None, str]:
    """The snapshot that `new` can be compared with, or why there is none."""
    if not held.wish.base_point:
        return None, ""
    base, outside = held.points.get(held.wish.base_point), external_origin(volumes, new)
    if base is None or base.pool != new.pool:
        return None, "point_missing"
    # The pool knows nothing of what it does not hold: that has to be the same of both, and be surely so.
    if external_origin(volumes, base) != outside or (outside and outside not in volumes):
        return None, "point_missing"
    if base.size_bytes != new.size_bytes:
        return None, "disk_resized"
    return base, ""


def _common_warnings(count: int, seconds: float, *, freeze: bool) -> tuple[Warned, ...]:
    apart = f"The {count} volumes were taken one after the other, all within {seconds:.3f} s."
    return (
        *([Warned("not_one_moment", apart)] if count > 1 else []),
        *([_FREEZE_FAILED] if freeze else []),
    )


def _safety(held: _Held, point: str) -> TargetFacts:
    if not point or safe_point(point) in held.points:
        return TargetFacts(safety_point=point)  # an earlier attempt of the same restore took it
    try:
        _require_room(held.pool)
        held.group.snapshot(held.volume.name, held.name_of(point))
    except DriverError as error:
        message = f"What was on the volume before was not kept. {error.message}"
        return TargetFacts(warnings=(Warned(NO_SAFETY_POINT, message),))
    return TargetFacts(safety_point=point)


def _target(descriptor: int, held: _Held) -> FileTarget:
    pool, name = held.pool, held.volume.name
    if not stat.S_ISBLK(os.fstat(descriptor).st_mode) or pool.discards == "ignore" or not pool.chunk_bytes:
        return descriptor_target(descriptor, name=name)
    return ThinTarget(descriptor, name=name, block_bytes=pool.chunk_bytes)


def _require_room(pool: Volume) -> None:
    if pool.data_percent > DATA_PERCENT_MAX or pool.metadata_percent > METADATA_PERCENT_MAX:
        raise DiskFullError(
            f"The thin pool {pool.name} is {pool.data_percent:.0f} % full, its metadata {pool.metadata_percent:.0f} %. "
            f"Nothing is begun above {DATA_PERCENT_MAX:.0f} % and {METADATA_PERCENT_MAX:.0f} %: a full pool breaks "
            "every volume in it. Make it larger."
        )


def _points(volumes: Mapping[str, Volume], volume: str) -> dict[str, Volume]:
    """Snapshots of ours of this volume, by point."""
    ending = f".{_label(volume)}"
    found = {name.removesuffix(ending): one for name, one in volumes.items() if name.endswith(ending)}
    return {point: one for point, one in found.items() if point.startswith(POINT_PREFIX) and "." not in point}


def _sweep(held: _Held, kept: Set[str]) -> list[str]:
    """What earlier jobs left of this volume. Removes from `points` what it removed."""
    removed = sweep_pool(held.group, held.volume.pool)
    points = _remove_points(held.group, held.points, kept)
    for point in points:
        del held.points[point]
    for point, one in held.points.items():
        if one.is_active and not one.is_open:
            held.group.deactivate(held.name_of(point))
    return removed + points


def _remove_points(group: Group, points: dict[str, Volume], kept: Set[str]) -> list[str]:
    leftovers = [point for point in sorted(points) if point not in kept]
    for point in leftovers:
        group.remove(points[point].name)
    return leftovers


def _deactivate_quietly(group: Group, name: str) -> None:
    try:
        group.deactivate(name)
    except DriverError as error:
        logger.warning("a snapshot stays active", extra={"snapshot": name, "reason": error.message})


def _kept(disk: DiskWish) -> set[str]:
    return {*disk.kept_points, *([disk.base_point] if disk.base_point else [])}


def _label(volume: str) -> str:
    """Of a volume in the names of its snapshots: names of LVM have 127 letters in all, hyphens counted twice."""
    return volume if len(volume) <= _LABEL_MAX else hashlib.sha256(volume.encode()).hexdigest()[:16]
