"""Disks of a server that is shut off, read from their files; QEMU's own lock keeps it from being started meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from agents.drivers.base import DiskBusyError, OpenedDisk, SourceFacts
from agents.drivers.checkpoints import checkpoint_xml, image_marks, register_checkpoint
from agents.drivers.domains import Domain, state_of
from agents.drivers.nbd_disk import NbdSource
from agents.drivers.qemu_images import add_bitmap, bitmap_context, image_facts, served_image
from agents.drivers.read_plans import DiskPlan
from agents.drivers.virsh import Virsh


@contextmanager
def shut_off_disks(
    virsh: Virsh, server: Domain, plans: Sequence[DiskPlan], *, point: str, freeze: bool, folder: str
) -> Iterator[list[OpenedDisk]]:
    """The disks as they are. There is nothing to freeze: a server that is off has written what it had to write.

    The point comes first, then the lock: what is written between the two is both read and recorded.
    """

    def register(sizes: Mapping[str, int]) -> None:
        marks = image_marks(plan.disk for plan in plans)
        text = checkpoint_xml(point, sizes, marks, made_before=True)
        register_checkpoint(virsh, server.uuid, text, folder=folder)

    with served_files(plans, point, folder, register=register, configuration=server.configuration) as opened:
        if state_of(virsh, server.uuid) != "shut off":
            raise DiskBusyError(f"The server {server.name} was started just now. Run the backup again.")
        yield opened


@contextmanager
def served_files(
    plans: Sequence[DiskPlan],
    point: str,
    folder: str,
    *,
    register: Callable[[Mapping[str, int]], None] = lambda sizes: None,
    configuration: str = "",
) -> Iterator[list[OpenedDisk]]:
    """The same for whoever keeps no books of points. `register` is told of the disks that have the new one."""
    plans = [_sound(plan) for plan in plans]
    sizes = {plan.disk.target: plan.size_bytes for plan in plans if plan.disk.tells_changes}
    if point and sizes:
        for plan in plans:
            if plan.disk.tells_changes:
                add_bitmap(plan.disk.path, point)
        register(sizes)
    with ExitStack() as stack:
        yield [_open(stack, configuration, plan, point, folder) for plan in plans]


def _sound(plan: DiskPlan) -> DiskPlan:
    if plan.base and not image_facts(plan.disk.path, plan.disk.format).has_sound_bitmap(plan.base):
        return plan.without_bitmap()
    return plan


def _open(stack: ExitStack, configuration: str, plan: DiskPlan, point: str, folder: str) -> OpenedDisk:
    path, before = plan.disk.path, os.stat(plan.disk.path).st_ino
    client = stack.enter_context(
        served_image(path, plan.disk.format, folder=folder, name=plan.disk.target, bitmap=plan.base)
    )
    source = NbdSource(
        client,
        changes=bitmap_context(plan.base) if plan.base else None,
        is_point=lambda: os.path.exists(path) and os.stat(path).st_ino == before and client.answers(),
        name=path,
    )
    facts = SourceFacts(
        point=point if plan.disk.tells_changes else "",
        full_reason=plan.full_reason,
        configuration=configuration,
    )
    return OpenedDisk(source, facts)
