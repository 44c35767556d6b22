"""The point of a running QEMU server by its own socket: one transaction over all disks, served over NBD until it ends.

Per disk: a scratch image that gets what the guest overwrites (`blockdev-backup` with `sync=none`), and a copy of the
base's bitmap, for only one that records no more can be exported. All names in QEMU carry our prefix, so that what a
killed process left is found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from agents.drivers.base import (
    POINT_PREFIX,
    DiskBusyError,
    DiskMissingError,
    DriverError,
    OpenedDisk,
    SourceFacts,
)
from agents.drivers.domains import DomainDisk
from agents.drivers.freezing import FREEZE_FAILED, Freeze, frozen_guest
from agents.drivers.guests import guest_of_qemu
from agents.drivers.nbd import NbdClient
from agents.drivers.nbd_disk import ALLOCATION, NbdSource
from agents.drivers.qemu_images import bitmap_context, create_overlay
from agents.drivers.qmp import Qmp, QmpError, wait_until
from agents.drivers.read_plans import DiskPlan, refuse_without_room, scratch_path

_COPY = f"{POINT_PREFIX}copy"


@dataclass(frozen=True, slots=True)
class QemuDisk:
    """A disk as QEMU has it. `bitmaps` are names of sound ones and of broken ones; `node` is QEMU's name for it."""

    node: str
    disk: DomainDisk
    size_bytes: int
    sound: frozenset[str]
    bitmaps: frozenset[str]


def disks_of(qmp: Qmp) -> dict[str, QemuDisk]:
    """By real path of their image."""
    found: dict[str, QemuDisk] = {}
    for device in qmp.run("query-block"):
        inserted: Mapping[str, Any] = device.get("inserted") or {}
        path = (inserted.get("image") or {}).get("filename", "")
        if not path.startswith("/") or inserted.get("ro"):
            continue
        bitmaps = [bitmap for bitmap in inserted.get("dirty-bitmaps", []) if "name" in bitmap]
        sound = [each["name"] for each in bitmaps if each.get("recording") and not each.get("inconsistent")]
        real = os.path.realpath(path)
        found[real] = QemuDisk(
            node=inserted["node-name"],
            disk=DomainDisk(f"disk{len(found)}", inserted["drv"], (real,)),
            size_bytes=int(inserted["image"]["virtual-size"]),
            sound=frozenset(sound),
            bitmaps=frozenset(bitmap["name"] for bitmap in bitmaps),
        )
    return found


def disk_at(disks: Mapping[str, QemuDisk], path: str) -> QemuDisk:
    if path not in disks:
        raise DiskMissingError(f"The server has no disk at {path}. Was the disk detached or moved?")
    return disks[path]


@contextmanager
def qemu_point(
    qmp: Qmp,
    disks: Sequence[QemuDisk],
    plans: Sequence[DiskPlan],
    *,
    point: str,
    freeze: bool,
    folder: str,
) -> Iterator[list[OpenedDisk]]:
    """The disks as they were at one moment. Everything in QEMU and beside the disks goes on every path."""
    at = nbd_socket(folder)
    refuse_without_room(plans)
    with ExitStack() as stack:
        stack.callback(remove_jobs, qmp, [disk.disk for disk in disks], at)
        _start_server(qmp, at)
        actions = _prepared(qmp, disks, plans, point)
        with _quiet_guest(qmp, folder, wished=freeze) as end_of_freeze:
            qmp.run("transaction", actions=actions)
            frozen = end_of_freeze()
        _export(qmp, disks, plans)
        opened = []
        for disk, plan in zip(disks, plans, strict=True):
            context = bitmap_context(_COPY) if plan.base else None
            wanted = [ALLOCATION, *([context] if context else [])]
            client = NbdClient.connect(at, export=disk.disk.target, contexts=wanted, name=disk.disk.path)
            stack.callback(client.close)
            source = NbdSource(client, changes=context, is_point=client.answers, name=disk.disk.path)
            kept = point if disk.disk.tells_changes else ""
            facts = SourceFacts(kept, frozen.held, plan.full_reason, tuple(frozen.warnings))
            opened.append(OpenedDisk(source, facts))
        yield opened


def nbd_socket(folder: str) -> str:
    return os.path.join(folder, "nbd.socket")


def remove_jobs(qmp: Qmp, disks: Sequence[DomainDisk], at: str) -> list[str]:
    """Exports, jobs and scratch images of ours, also those of a process that was killed."""
    removed = [name for name in _exports(qmp) if name.startswith(POINT_PREFIX)]
    for name in removed:
        qmp.try_to("block-export-del", id=name, mode="hard")
    wait_until(lambda: not any(name.startswith(POINT_PREFIX) for name in _exports(qmp)), "serving a backup")
    if not _exports(qmp):
        qmp.try_to("nbd-server-stop")
    for name in _jobs(qmp):
        qmp.try_to("block-job-cancel", device=name, force=True)
    wait_until(lambda: not _jobs(qmp), "a backup job")
    for node in qmp.run("query-named-block-nodes", flat=True):
        if node.get("node-name", "").startswith(POINT_PREFIX) and node.get("drv") == "qcow2":
            qmp.try_to("blockdev-del", node_name=node["node-name"])
    for found in disks_of(qmp).values():
        if _COPY in found.bitmaps:
            remove_point(qmp, found, _COPY)
    for path in (at, *map(scratch_path, disks)):
        with suppress(FileNotFoundError):
            os.unlink(path)
    return removed


def remove_point(qmp: Qmp, disk: QemuDisk, name: str) -> None:
    qmp.try_to("block-dirty-bitmap-remove", node=disk.node, name=name)


@contextmanager
def _quiet_guest(qmp: Qmp, folder: str, *, wished: bool) -> Iterator[Callable[[], Freeze]]:
    """As `frozen_guest`, where a freeze is wished and there is an agent."""
    freeze = Freeze()
    try:
        guest = guest_of_qemu(qmp) if wished else None
    except DriverError as error:
        freeze.failed(FREEZE_FAILED, f"The guest's file systems were not frozen. {error.message}")
        guest = None
    if guest is None:
        yield lambda: freeze
        return
    with frozen_guest(guest, folder) as end:
        yield end


def _start_server(qmp: Qmp, at: str) -> None:
    try:
        qmp.run("nbd-server-start", addr={"type": "unix", "data": {"path": at}})
    except QmpError as error:
        if "already running" in error.message:
            raise DiskBusyError("QEMU serves something else over NBD already.") from error
        raise


def _prepared(
    qmp: Qmp, disks: Sequence[QemuDisk], plans: Sequence[DiskPlan], point: str
) -> Sequence[Mapping[str, Any]]:
    """Scratch images, and the actions that make the point of all disks at once."""
    actions: list[Mapping[str, Any]] = []
    for disk, plan in zip(disks, plans, strict=True):
        scratch, name = scratch_path(disk.disk), _scratch_node(disk)
        create_overlay(scratch, disk.disk.path, disk.disk.format, disk.size_bytes)
        # QEMU may run as another user than we do.
        told = os.stat(disk.disk.path)
        if os.geteuid() == 0:
            os.chown(scratch, told.st_uid, told.st_gid)
        file = {"driver": "file", "filename": scratch}
        qmp.run("blockdev-add", driver="qcow2", node_name=name, backing=disk.node, file=file)
        actions += _actions(disk, plan, point, name)
    return actions


def _export(qmp: Qmp, disks: Sequence[QemuDisk], plans: Sequence[DiskPlan]) -> None:
    for disk, plan in zip(disks, plans, strict=True):
        bitmaps = [{"node": disk.node, "name": _COPY}] if plan.base else []
        name = _scratch_node(disk)
        chosen = {"node_name": name, "name": disk.disk.target, "bitmaps": bitmaps}
        qmp.run("block-export-add", type="nbd", id=f"{name}-export", **chosen)


def _actions(disk: QemuDisk, plan: DiskPlan, point: str, scratch: str) -> list[Mapping[str, Any]]:
    actions: list[Mapping[str, Any]] = []
    at = {"node": disk.node}
    if plan.base:
        actions.append({"type": "block-dirty-bitmap-add", "data": {**at, "name": _COPY, "disabled": True}})
        merged = {**at, "target": _COPY, "bitmaps": [plan.base]}
        actions.append({"type": "block-dirty-bitmap-merge", "data": merged})
    if point and disk.disk.tells_changes:
        added = {**at, "name": point, "persistent": True, "granularity": 65536}
        actions.append({"type": "block-dirty-bitmap-add", "data": added})
    job = {"device": disk.node, "target": scratch, "sync": "none", "job-id": f"{scratch}-job"}
    return [*actions, {"type": "blockdev-backup", "data": job}]


def _scratch_node(disk: QemuDisk) -> str:
    return f"{POINT_PREFIX}{disk.disk.target}"


def _exports(qmp: Qmp) -> list[str]:
    return [str(export["id"]) for export in qmp.run("query-block-exports")]


def _jobs(qmp: Qmp) -> list[str]:
    return [job["device"] for job in qmp.run("query-block-jobs") if job["device"].startswith(POINT_PREFIX)]
