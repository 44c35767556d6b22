"""Driver `libvirt`: disks of QEMU servers on this node, by libvirt; only blocks that changed are read.

A running server is read through one backup job over all disks of the wish. One that is shut off is read from its
files: nothing of it is started, so nobody finds his server paused, or running and then ended under him.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from agents.drivers.attaching import attach_disk
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
from agents.drivers.checkpoints import Checkpoint, our_checkpoints, remove_checkpoint, take_disk_out
from agents.drivers.domains import Domain, DomainDisk, define_server, format_of_new, load_domain, state_of
from agents.drivers.freezing import thaw_left
from agents.drivers.guests import LibvirtGuest
from agents.drivers.holding import confined, held_disk, held_server, refuse_attached, standing_for
from agents.drivers.nbd_disk import NbdTarget
from agents.drivers.pull_job import planned, pull_job, refuse_other_job
from agents.drivers.qemu_images import (
    clear_folder,
    image_facts,
    new_image,
    remove_bitmap,
    served_image,
    sweep_new_image,
)
from agents.drivers.read_plans import scratch_path
from agents.drivers.safety import take_safety_point, unneeded_safety_points
from agents.drivers.shut_off import shut_off_disks
from agents.drivers.virsh import Virsh, domain, option

logger = logging.getLogger(__name__)


class PointNameError(DriverError):
    """A point whose name would not show whose it is."""

    code = "bad_point_name"


@dataclass(frozen=True, slots=True)
class _Held:
    """A server and disks of it that are ours alone until the job ends."""

    server: Domain
    wishes: Sequence[DiskWish]
    disks: Sequence[DomainDisk]
    folder: str


class LibvirtDriver:
    """See the module. `uri` as libvirt's own; `folder` holds what a running job needs, by default under /run."""

    name = "libvirt"

    def __init__(self, uri: str | None = None, folder: str | None = None) -> None:
        self._virsh = Virsh(uri)
        self._folder = folder

    def probe(self) -> Capability:
        return self._virsh.probe()

    @contextmanager
    def open_sources(self, wish: ReadWish) -> Iterator[Sequence[OpenedDisk]]:
        if wish.new_point and not wish.new_point.startswith(POINT_PREFIX):
            raise PointNameError(f"The name of a point begins with {POINT_PREFIX}, which {wish.new_point} does not.")
        with self._held(wish.disks) as held:
            points = our_checkpoints(self._virsh, held.server.uuid)
            self._sweep(held, points)
            if wish.new_point in points:
                # Not tried: what undoes a failure would remove the point that is there.
                raise PointNameError(f"The server {held.server.name} has a point {wish.new_point} already.")
            sizes = [self._size_of(held.server, disk) for disk in held.disks]
            plans = [
                planned(disk, one, size, points) for disk, one, size in zip(held.disks, held.wishes, sizes, strict=True)
            ]
            opening = shut_off_disks if held.server.is_off else pull_job
            try:
                with opening(
                    self._virsh, held.server, plans, point=wish.new_point, freeze=wish.freeze, folder=held.folder
                ) as opened:
                    yield opened
            except BaseException:
                # No backup has the point, so nothing is to be based on it. The base goes on recording.
                if wish.new_point:
                    remove_checkpoint(self._virsh, held.server, wish.new_point)
                raise

    @contextmanager
    def open_target(self, wish: WriteWish) -> Iterator[OpenedTarget]:
        path = confined(wish.address)
        with ExitStack() as stack:
            server = load_domain(self._virsh, wish.address.server) if wish.address.server else None
            folder = stack.enter_context(held_server(server.uuid if server else standing_for(path), self._folder))
            if server is not None:
                self._refuse_used(server)
            clear_folder(folder)
            image_format = _format_of(server, path, create=wish.create)
            if wish.create:
                new_image(path, image_format, wish.size_bytes)
            stack.enter_context(held_disk(path))
            refuse_attached(path)
            size_bytes = image_facts(path, image_format).size_bytes
            if size_bytes < wish.size_bytes:
                raise DiskTooSmallError(
                    f"The disk image {path} has {size_bytes} bytes, the backup {wish.size_bytes}. "
                    "Choose a larger disk, or a new one."
                )
            if server is not None and not wish.create:
                self._forget_disk(server, server.disk_at(path), folder)
            facts = take_safety_point(path, image_format, wish.safety_point)
            client = stack.enter_context(served_image(path, image_format, folder=folder, name="target", writable=True))
            yield OpenedTarget(NbdTarget(client, path=path), facts)

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]:
        """Also ends jobs, stops servers and removes files that a killed process of ours left."""
        removed: list[str] = []
        for wish in disks:
            with suppress(DiskMissingError):
                removed += sweep_new_image(confined(wish.address), self._folder)
        for server in dict.fromkeys(wish.address.server for wish in disks):
            wishes = [wish for wish in disks if wish.address.server == server]
            try:
                with self._held(wishes, skip_missing=True) as held:
                    removed += self._sweep(held, our_checkpoints(self._virsh, held.server.uuid))
            except (DiskBusyError, DiskMissingError):
                continue  # a job that runs sweeps by itself; a server that is gone took its points along
        return removed

    def define(self, configuration: str, *, name: str, disks: Mapping[str, str]) -> str:
        """See DefinesServers."""
        return define_server(self._virsh, configuration, name=name, disks=disks)

    def attach(self, server: str, path: str) -> str:
        """See AttachesDisks."""
        return attach_disk(self._virsh, server, path)

    @contextmanager
    def _held(self, wishes: Sequence[DiskWish], *, skip_missing: bool = False) -> Iterator[_Held]:
        """Lock disks and server. With `skip_missing`, disks that are gone, or are no disks of it, are left out."""
        names = {wish.address.server for wish in wishes}
        if len(names) != 1:
            raise DiskMissingError("Disks that are read together belong to one server, and it has to be named.")
        with ExitStack() as stack:
            paths = []
            for wish in wishes:
                path = confined(wish.address)
                with suppress(DiskMissingError) if skip_missing else ExitStack():
                    stack.enter_context(held_disk(path))
                    paths.append((wish, path))
            server = load_domain(self._virsh, names.pop())
            folder = stack.enter_context(held_server(server.uuid, self._folder))
            kept, disks = [], []
            for wish, path in paths:
                with suppress(DiskMissingError) if skip_missing else ExitStack():
                    disks.append(server.disk_at(path))
                    kept.append(wish)
            yield _Held(server, kept, disks, folder)

    def _sweep(self, held: _Held, points: dict[str, Checkpoint]) -> list[str]:
        """What earlier jobs left on these disks. Removes from `points` what it removed."""
        removed = ["freeze"] if thaw_left(lambda: LibvirtGuest(self._virsh, held.server.uuid), held.folder) else []
        removed += clear_folder(held.folder)
        if refuse_other_job(self._virsh, held.server.uuid, held.folder):
            removed.append("job")
        for disk in held.disks:
            with suppress(FileNotFoundError):
                os.unlink(scratch_path(disk))
                removed.append(scratch_path(disk))
        for name in self._leftovers(held, points):
            if remove_checkpoint(self._virsh, held.server, name):
                points.pop(name, None)
                removed.append(name)
        kept = _kept(held)
        for disk in held.disks:
            removed += unneeded_safety_points(disk.path, disk.format, kept, is_off=held.server.is_off)
        return removed

    def _leftovers(self, held: _Held, points: dict[str, Checkpoint]) -> list[str]:
        """Points of ours that cover nothing but these disks and that nobody keeps."""
        targets, kept = {disk.target for disk in held.disks}, _kept(held)
        found = {name for name, point in points.items() if set(point.sizes) <= targets}
        if held.server.is_off:
            # Bitmaps of which libvirt knows nothing: their maker was killed before he could tell it.
            for disk in held.disks:
                if disk.tells_changes:
                    found |= {*image_facts(disk.path, disk.format).bitmaps} - set(points)
        return sorted(name for name in found - kept if name.startswith(POINT_PREFIX))

    def _forget_disk(self, server: Domain, disk: DomainDisk, folder: str) -> None:
        """After a restore no point says what differs from its backup. What they say of other disks stays."""
        for point in our_checkpoints(self._virsh, server.uuid).values():
            if disk.target in point.sizes:
                take_disk_out(self._virsh, server, point, disk, folder=folder)
        if disk.tells_changes:
            for name in image_facts(disk.path, disk.format).bitmaps:
                if name.startswith(POINT_PREFIX):
                    remove_bitmap(disk.path, name)

    def _refuse_used(self, server: Domain) -> None:
        if not server.is_off or state_of(self._virsh, server.uuid) != "shut off":
            raise DiskBusyError(f"The server {server.name} is running. Shut it down, then restore.")
        if re.search(r"^Managed save:\s+yes", self._virsh.run("dominfo", domain(server.uuid)), re.MULTILINE):
            raise DiskBusyError(
                f"The server {server.name} has a saved state, which a restored disk would not fit. "
                "Remove it (virsh managedsave-remove) or start the server and shut it down."
            )

    def _size_of(self, server: Domain, disk: DomainDisk) -> int:
        if server.is_off:
            return image_facts(disk.path, disk.format).size_bytes
        told = self._virsh.run("domblkinfo", domain(server.uuid), option("device", disk.target))
        found = re.search(r"^Capacity:\s+(\d+)", told, re.MULTILINE)
        if found is None:
            raise DiskMissingError(f"libvirt does not say how large {disk.target} of {server.name} is.")
        return int(found.group(1))


def _kept(held: _Held) -> set[str]:
    kept = {name for wish in held.wishes for name in wish.kept_points}
    return kept | {wish.base_point for wish in held.wishes if wish.base_point}


def _format_of(server: Domain | None, path: str, *, create: bool) -> str:
    """As the server's description has it. Never by the content: a guest can write any header to a raw disk."""
    if server is not None and not create:
        disk = server.disk_at(path)
        if disk.path != path:
            raise DiskBusyError(f"A newer layer (a snapshot) lies over {path}. Merge it into the disk first.")
        return disk.format
    return format_of_new(path)
