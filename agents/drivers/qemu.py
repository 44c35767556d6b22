"""Driver `qemu`: disks of a QEMU server that no libvirt manages, by its own socket (QMP).

`server` is the path of a QMP socket that nobody else uses. QEMU's own lists say where the guest's agent is; there is no
description of the server. One that is off is read from its files; the format of an image is that of its name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from agents.drivers.base import (
    POINT_PREFIX,
    Capability,
    DiskBusyError,
    DiskMissingError,
    DiskTooSmallError,
    DiskWish,
    DriverError,
    OpenedDisk,
    OpenedTarget,
    ReadWish,
    WriteWish,
)
from agents.drivers.domains import DomainDisk, format_of_new
from agents.drivers.freezing import thaw_left
from agents.drivers.guests import Guest, NotFrozenError, guest_of_qemu
from agents.drivers.holding import confined, held_disk, held_server, refuse_attached, standing_for
from agents.drivers.nbd_disk import NbdTarget
from agents.drivers.qemu_images import (
    clear_folder,
    image_facts,
    new_image,
    remove_bitmap,
    served_image,
    sweep_new_image,
)
from agents.drivers.qemu_point import QemuDisk, disk_at, disks_of, nbd_socket, qemu_point, remove_jobs, remove_point
from agents.drivers.qmp import Qmp, ServerOffError
from agents.drivers.read_plans import BITMAP_LOST, FORMAT, POINT_MISSING, DiskPlan, scratch_path
from agents.drivers.safety import take_safety_point, unneeded_safety_points
from agents.drivers.shut_off import served_files


@dataclass(frozen=True, slots=True)
class _Held:
    """Disks that are ours alone until the job ends; `qmp` is None for a server that is off. `swept`: jobs ended."""

    qmp: Qmp | None
    wishes: Sequence[DiskWish]
    disks: Sequence[QemuDisk]
    folder: str
    swept: Sequence[str] = ()


class QemuDriver:
    """See the module. `folder` holds what a running job needs, by default under /run."""

    name = "qemu"

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder

    def probe(self) -> Capability:
        for tool in ("qemu-img", "qemu-nbd"):
            if shutil.which(tool) is None:
                return Capability(usable=False, reason=f"{tool} is missing; install qemu-utils.")
        return Capability(usable=True)

    @contextmanager
    def open_sources(self, wish: ReadWish) -> Iterator[Sequence[OpenedDisk]]:
        with self._held(wish.disks) as held:
            _sweep(held)
            point, disks = wish.new_point, held.disks
            if point and (not point.startswith(POINT_PREFIX) or any(point in disk.bitmaps for disk in disks)):
                raise DriverError(f"The point {point} is there already, or does not begin with {POINT_PREFIX}.")
            plans = [_planned(disk, one) for disk, one in zip(disks, held.wishes, strict=True)]
            try:
                if held.qmp is None:
                    with served_files(plans, point, held.folder) as opened:
                        yield opened
                else:
                    with qemu_point(
                        held.qmp, disks, plans, point=point, freeze=wish.freeze, folder=held.folder
                    ) as opened:
                        yield opened
            except BaseException:
                with suppress(DriverError):
                    _remove_points(held, {point})
                raise

    @contextmanager
    def open_target(self, wish: WriteWish) -> Iterator[OpenedTarget]:
        path = confined(wish.address)
        with ExitStack() as stack:
            folder = stack.enter_context(held_server(standing_for(wish.address.server or path), self._folder))
            if wish.address.server and _is_on(wish.address.server):
                raise DiskBusyError(f"The server at {wish.address.server} is running. Shut it down, then restore.")
            clear_folder(folder)
            image_format = format_of_new(path)
            if wish.create:
                new_image(path, image_format, wish.size_bytes)
            stack.enter_context(held_disk(path))
            refuse_attached(path)
            facts = image_facts(path, image_format)
            if facts.size_bytes < wish.size_bytes:
                raise DiskTooSmallError(
                    f"The disk image {path} has {facts.size_bytes} bytes, the backup {wish.size_bytes}. "
                    "Choose a larger disk, or a new one."
                )
            for name in facts.bitmaps:
                if name.startswith(POINT_PREFIX):
                    remove_bitmap(path, name)
            safety = take_safety_point(path, image_format, wish.safety_point)
            client = stack.enter_context(served_image(path, image_format, folder=folder, name="target", writable=True))
            yield OpenedTarget(NbdTarget(client, path=path), safety)

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]:
        removed: list[str] = []
        for wish in disks:
            with suppress(DiskMissingError):
                removed += sweep_new_image(confined(wish.address), self._folder)
        for server in dict.fromkeys(wish.address.server for wish in disks):
            try:
                of_server = [wish for wish in disks if wish.address.server == server]
                with self._held(of_server, skip_missing=True) as held:
                    removed += _sweep(held)
            except (DiskBusyError, DiskMissingError):
                continue
        return removed

    @contextmanager
    def _held(self, wishes: Sequence[DiskWish], *, skip_missing: bool = False) -> Iterator[_Held]:
        """Lock disks and server. With `skip_missing`, disks that are gone, or are no disks of it, are left out."""
        servers = {wish.address.server for wish in wishes}
        if len(servers) != 1 or "" in servers:
            raise DiskMissingError("Disks that are read together belong to one server, named by its QMP socket.")
        with ExitStack() as stack:
            found: list[tuple[DiskWish, str]] = []
            for wish in wishes:
                path = confined(wish.address)
                with suppress(DiskMissingError) if skip_missing else ExitStack():
                    stack.enter_context(held_disk(path))
                    found.append((wish, path))
            paths = [path for _, path in found]
            server = servers.pop()
            folder = stack.enter_context(held_server(standing_for(server), self._folder))
            try:
                qmp = Qmp(server)
            except ServerOffError:
                off = [_from_file(number, path) for number, path in enumerate(paths)]
                yield _Held(None, [wish for wish, _ in found], off, folder)
                return
            stack.callback(qmp.close)
            if os.geteuid() == 0 and paths:
                os.chown(folder, os.stat(paths[0]).st_uid, -1)
            # First: while a job of ours runs, QEMU shows its filter in the place of the disk.
            swept = remove_jobs(qmp, [DomainDisk("", "", (path,)) for path in paths], nbd_socket(folder))
            known = disks_of(qmp)
            kept, disks = [], []
            for wish, path in found:
                with suppress(DiskMissingError) if skip_missing else ExitStack():
                    disks.append(disk_at(known, path))
                    kept.append(wish)
            yield _Held(qmp, kept, disks, folder, swept)


def _sweep(held: _Held) -> list[str]:
    removed = ["freeze"] if thaw_left(lambda: _guest_of(held), held.folder) else []
    removed += [*held.swept, *clear_folder(held.folder)]
    for disk in held.disks:
        with suppress(FileNotFoundError):
            os.unlink(scratch_path(disk.disk))
            removed.append(scratch_path(disk.disk))
    kept = {name for wish in held.wishes for name in (*wish.kept_points, wish.base_point) if name}
    ours = {name for disk in held.disks for name in disk.bitmaps if name.startswith(POINT_PREFIX)}
    removed += _remove_points(held, ours - kept)
    for disk in held.disks:
        removed += unneeded_safety_points(disk.disk.path, disk.disk.format, kept, is_off=held.qmp is None)
    return removed


def _remove_points(held: _Held, names: set[str]) -> list[str]:
    for disk in held.disks:
        if held.qmp is not None:
            for name in names & disks_of(held.qmp)[disk.disk.path].bitmaps:
                remove_point(held.qmp, disk, name)
        elif disk.disk.tells_changes:
            for name in names & set(image_facts(disk.disk.path, disk.disk.format).bitmaps):
                remove_bitmap(disk.disk.path, name)
    return sorted(names)


def _guest_of(held: _Held) -> Guest:
    if held.qmp is None:
        raise NotFrozenError("The server is off.", may_be_frozen=False)
    return guest_of_qemu(held.qmp)


def _planned(disk: QemuDisk, wish: DiskWish) -> DiskPlan:
    plan = DiskPlan(disk.disk, disk.size_bytes, wish.base_point)
    if wish.base_point is None or wish.base_point in disk.sound:
        return plan
    if not disk.disk.tells_changes:
        return plan.full(FORMAT)
    return plan.full(BITMAP_LOST if wish.base_point in disk.bitmaps else POINT_MISSING)


def _from_file(number: int, path: str) -> QemuDisk:
    facts = image_facts(path, format_of_new(path))
    names = frozenset(facts.bitmaps)
    return QemuDisk("", DomainDisk(f"disk{number}", format_of_new(path), (path,)), facts.size_bytes, names, names)


def _is_on(server: str) -> bool:
    try:
        Qmp(server).close()
    except ServerOffError:
        return False
    return True
