"""Sweeps of nodes: what lost jobs left there goes, whoever lost them, and at the latest within the hour.

Runs in a worker of the node. A server whose disks are moved at this moment is passed over: the job that has it removes
leftovers by itself when it opens the disks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from itertools import groupby

from django.conf import settings

from agents.drivers.base import DiskAddress, DiskWish, DriverError
from agents.drivers.registry import load_driver
from agents.models import Disk, Node
from agents.program.holding import LOCKS, sweeping
from backups.models import Job
from backups.points import kept_points
from backups.queue import hint_sweep
from backups.unmade import remove_scratch, remove_unmade
from tenants.audit import record
from tenants.models import Person

logger = logging.getLogger(__name__)


def request_sweep(*, node: Node, actor: Person) -> None:
    """Have the node's worker sweep it as soon as it can."""
    record(action="node.sweep", subject=node, actor=actor)
    hint_sweep(node)


def request_sweeps_everywhere() -> int:
    """Hint at the hourly sweep of every node that is there. Returns how many."""
    nodes = Node.objects.filter(status__in=[Node.Status.ONLINE, Node.Status.MAINTENANCE]).order_by("name")
    for node in nodes:
        hint_sweep(node)
    return len(nodes)


def sweep_node(*, name: str, clock: Callable[[], datetime]) -> list[str]:
    """Sweep the servers of this node one after the other; returns what was removed. May run at any time, and twice."""
    disks = Disk.objects.filter(server__node__name=name).select_related("server", "storage")
    removed = remove_scratch(name)
    for _, of_server in groupby(disks.order_by("server_id", "number"), key=lambda disk: disk.server_id):
        removed += _sweep_server(list(of_server), clock)
    return removed


def _given_up(disk: Disk) -> bool:
    """A disk whose restore ended, and that no restore is about to make."""
    return disk.incomplete_since is not None and not Job.objects.active().filter(disk=disk).exists()


def _sweep_server(disks: list[Disk], clock: Callable[[], datetime]) -> list[str]:
    server = disks[0].server
    with sweeping(settings.CONFIG.node_directory / LOCKS, str(server.pk)) as is_alone:
        # What is kept is read only now: a job that begins waits for the lock before it makes its point.
        if not is_alone:
            return []
        kept = frozenset(kept_points(disks, now=clock()))
        removed = [path for disk in disks if _given_up(disk) and (path := remove_unmade(disk))]
        for driver, of_driver in groupby(sorted(disks, key=_driver), key=_driver):
            wishes = [DiskWish(_address(disk), kept_points=kept) for disk in of_driver]
            removed += _forget(driver, wishes)
    if removed:
        _tell(disks, removed)
    return removed


def _forget(driver: str, wishes: list[DiskWish]) -> list[str]:
    """A node that cannot do it now does it in the next hour; others are not held up."""
    try:
        return list(load_driver(driver).forget(wishes))
    except DriverError as error:
        logger.warning("a sweep failed", extra={"driver": driver, "code": error.code, "reason": error.message})
    except Exception:  # a plug-in may raise anything
        logger.exception("a sweep failed", extra={"driver": driver})
    return []


def _tell(disks: list[Disk], removed: list[str]) -> None:
    server = disks[0].server
    names = ", ".join(removed[:20])
    logger.info("leftovers removed", extra={"server": str(server.pk), "removed": removed[:20]})
    record(action="server.sweep", subject=server, actor=None, after={"removed": names, "count": len(removed)})


def _driver(disk: Disk) -> str:
    return disk.driver


def _address(disk: Disk) -> DiskAddress:
    return DiskAddress(disk.storage.path, disk.path, disk.size_bytes, disk.server.source_name)
