"""One backup job of a running server: libvirt freezes a point over all disks and serves it over NBD until the job ends.

What the guest overwrites meanwhile is kept in scratch files beside the disks.
"""

from __future__ import annotations

import logging
import os
import re
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from agents.drivers.base import DiskBusyError, DiskWish, OpenedDisk, SourceFacts
from agents.drivers.checkpoints import Checkpoint, checkpoint_xml, image_marks, why_lost
from agents.drivers.domains import Domain, DomainDisk, parse_xml
from agents.drivers.freezing import FREEZE_FAILED, Freeze, frozen_guest
from agents.drivers.guests import LibvirtGuest
from agents.drivers.nbd import NbdClient
from agents.drivers.nbd_disk import ALLOCATION, NbdSource
from agents.drivers.qemu_images import bitmap_context, image_facts
from agents.drivers.read_plans import (
    DISK_RESIZED,
    FORMAT,
    POINT_MISSING,
    SERVER_MOVED,
    DiskPlan,
    refuse_without_room,
    scratch_path,
)
from agents.drivers.virsh import HypervisorError, Virsh, domain, option

logger = logging.getLogger(__name__)

_CHANGED = "changed"
_END_SECONDS = 30.0


def planned(disk: DomainDisk, wish: DiskWish, size_bytes: int, points: Mapping[str, Checkpoint]) -> DiskPlan:
    plan = DiskPlan(disk, size_bytes, wish.base_point)
    if wish.base_point is None:
        return plan
    if not disk.tells_changes:
        return plan.full(FORMAT)
    point = points.get(wish.base_point)
    if point is None or disk.target not in point.sizes:
        # libvirt's books do not move with a server; bitmaps that are in an image do.
        moved = point is None and wish.base_point in image_facts(disk.path, disk.format).bitmaps
        return plan.full(SERVER_MOVED if moved else POINT_MISSING)
    if point.sizes[disk.target] != size_bytes:
        return plan.full(DISK_RESIZED)
    return replace(plan, if_lost=why_lost(disk, point))


@contextmanager
def pull_job(
    virsh: Virsh, server: Domain, plans: Sequence[DiskPlan], *, point: str, freeze: bool, folder: str
) -> Iterator[list[OpenedDisk]]:
    """The disks as they were when the job began. Ends the job and removes its files on every path."""
    refuse_without_room(plans)
    _give_to_qemu(folder, server, plans)
    with ExitStack() as stack:
        stack.callback(_end_job, virsh, server.uuid, folder, [plan.disk for plan in plans])
        plans, frozen = _begin(virsh, server, plans, point=point, freeze=freeze, folder=folder)
        opened = []
        for plan in plans:
            client, plan = _connect(plan, folder)
            stack.callback(client.close)
            opened.append(_opened(virsh, server, client, plan, frozen, point, folder))
        yield opened


def refuse_other_job(virsh: Virsh, uuid: str, folder: str) -> bool:
    """End a job that an earlier process of ours left; True when there was one. Asked first, for libvirt waits 30 s.

    DiskBusyError when it is somebody else's.
    """
    if not _job_runs(virsh, uuid):
        return False
    if not _job_is_ours(virsh, uuid, folder):
        raise DiskBusyError("libvirt is at work on this server already (a backup, migration or the like).")
    _abort(virsh, uuid)
    return True


def _begin(
    virsh: Virsh, server: Domain, plans: Sequence[DiskPlan], *, point: str, freeze: bool, folder: str
) -> tuple[Sequence[DiskPlan], Freeze]:
    if not freeze or server.state != "running":
        unfrozen = Freeze()
        if freeze:
            unfrozen.failed(FREEZE_FAILED, f"Nothing was frozen: the server is {server.state}.")
        return _begin_job(virsh, server.uuid, plans, point, folder), unfrozen
    with frozen_guest(LibvirtGuest(virsh, server.uuid), folder) as thaw:
        plans = _begin_job(virsh, server.uuid, plans, point, folder)
        return plans, thaw()


def _begin_job(virsh: Virsh, uuid: str, plans: Sequence[DiskPlan], point: str, folder: str) -> Sequence[DiskPlan]:
    """Begin; a disk whose bitmap libvirt finds broken is read in full instead."""
    backup, checkpoint = os.path.join(folder, "backup.xml"), os.path.join(folder, "checkpoint.xml")
    sizes = {plan.disk.target: plan.size_bytes for plan in plans if plan.disk.tells_changes}
    asked = [domain(uuid), option("backupxml", backup)]
    if point and sizes:
        asked.append(option("checkpointxml", checkpoint))
        _write(checkpoint, checkpoint_xml(point, sizes, image_marks(plan.disk for plan in plans)))
    try:
        while True:
            _write(backup, _backup_xml(plans, folder))
            try:
                virsh.run("backup-begin", *asked)
                return plans
            except HypervisorError as error:
                plans = _without_broken(plans, error)
    finally:
        for path in (backup, checkpoint):
            with suppress(FileNotFoundError):
                os.unlink(path)


def _without_broken(plans: Sequence[DiskPlan], error: HypervisorError) -> Sequence[DiskPlan]:
    """The plans to try again with; raises what cannot be helped by reading more."""
    if "state change lock" in error.message or ("already" in error.message and "job" in error.message):
        raise DiskBusyError("libvirt is at work on this server already (a backup, migration or the like).") from error
    if "bitmap" not in error.message or not any(plan.base for plan in plans):
        raise error
    named = re.search(r"for disk '([^']*)'", error.message)
    targets = {named.group(1)} if named else {plan.disk.target for plan in plans}
    if not any(plan.base and plan.disk.target in targets for plan in plans):
        raise error
    return [plan.without_bitmap() if plan.base and plan.disk.target in targets else plan for plan in plans]


def _backup_xml(plans: Sequence[DiskPlan], folder: str) -> str:
    root = ElementTree.Element("domainbackup", mode="pull")
    ElementTree.SubElement(root, "server", transport="unix", socket=_socket(folder))
    disks = ElementTree.SubElement(root, "disks")
    for plan in plans:
        target = plan.disk.target
        mode = {"backupmode": "full"}
        if plan.base is not None:
            mode = {"backupmode": "incremental", "incremental": plan.base, "exportbitmap": _CHANGED}
        told = {"name": target, "backup": "yes", "type": "file", "exportname": target} | mode
        disk = ElementTree.SubElement(disks, "disk", told)
        ElementTree.SubElement(disk, "scratch", file=scratch_path(plan.disk))
    return ElementTree.tostring(root, encoding="unicode")


def _connect(plan: DiskPlan, folder: str) -> tuple[NbdClient, DiskPlan]:
    context = bitmap_context(_CHANGED)
    wanted = [ALLOCATION, *([context] if plan.base else [])]
    client = NbdClient.connect(_socket(folder), export=plan.disk.target, contexts=wanted, name=plan.disk.path)
    if plan.base and not client.has_context(context):
        plan = plan.without_bitmap()
    return client, plan


def _opened(
    virsh: Virsh, server: Domain, client: NbdClient, plan: DiskPlan, frozen: Freeze, point: str, folder: str
) -> OpenedDisk:
    source = NbdSource(
        client,
        changes=bitmap_context(_CHANGED) if plan.base else None,
        is_point=lambda: _job_is_ours(virsh, server.uuid, folder),
        name=plan.disk.path,
    )
    facts = SourceFacts(
        point=point if plan.disk.tells_changes else "",
        frozen=frozen.held,
        full_reason=plan.full_reason,
        warnings=tuple(frozen.warnings),
        configuration=server.configuration,
    )
    return OpenedDisk(source, facts)


def _end_job(virsh: Virsh, uuid: str, folder: str, disks: Sequence[DomainDisk]) -> None:
    """Never raises: what stays is in libvirt's own list of jobs, where the next sweep finds it by its socket."""
    try:
        if _job_is_ours(virsh, uuid, folder):
            _abort(virsh, uuid)
    except HypervisorError as error:
        logger.warning("a backup job could not be ended", extra={"server": uuid, "reason": error.message})
        return
    for path in (_socket(folder), *map(scratch_path, disks)):
        with suppress(FileNotFoundError):
            os.unlink(path)


def _abort(virsh: Virsh, uuid: str) -> None:
    try:
        virsh.run("domjobabort", domain(uuid))
    except HypervisorError:
        if _job_runs(virsh, uuid):
            raise
    until = time.monotonic() + _END_SECONDS
    while _job_runs(virsh, uuid):
        if time.monotonic() > until:
            raise HypervisorError(f"The backup job of the server {uuid} does not end.")
        time.sleep(0.05)


def _job_runs(virsh: Virsh, uuid: str) -> bool:
    try:
        told = virsh.run("domjobinfo", domain(uuid))
    except HypervisorError as error:
        if "not running" in error.message:
            return False
        raise
    kind = re.search(r"Job type:\s*(\S+)", told)
    return kind is not None and kind.group(1) != "None"


def _job_is_ours(virsh: Virsh, uuid: str, folder: str) -> bool:
    """By its socket, which lies in the folder of this server's jobs."""
    try:
        told = virsh.run("backup-dumpxml", domain(uuid))
    except HypervisorError as error:
        if re.search("no domain backup job|not running|no job|failed to get domain", error.message, re.IGNORECASE):
            return False
        raise
    told_server = parse_xml(told).find("server")
    return told_server is not None and told_server.get("socket") == _socket(folder)


def _give_to_qemu(folder: str, server: Domain, plans: Sequence[DiskPlan]) -> None:
    """QEMU makes its socket in the folder, as the user that it runs as."""
    if os.geteuid() == 0:
        owner = server.owner if server.owner is not None else os.stat(plans[0].disk.path).st_uid
        os.chown(folder, owner, -1)


def _socket(folder: str) -> str:
    return os.path.join(folder, "nbd.socket")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
