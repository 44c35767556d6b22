"""As `tending`, for Dataset backups: the pool of a backup node, and what is left of ours on the disks behind it."""

from __future__ import annotations

import logging
from datetime import datetime

from django.conf import settings

from agents.drivers.base import DriverError
from agents.drivers.zfs_commands import OWNER, SNAPSHOT_PREFIX, Host
from agents.drivers.zfs_sets import forget_points, remove_set
from agents.models import Disk, Storage
from agents.program.zfs_hosts import host_of
from backups.copies.opening import guid_of, kept_sets, sets_of
from backups.copies.places import copies_on, snapshot_name
from backups.copies.settling import note_health
from backups.models import Backup
from backups.states import BackupHealth, BackupStatus
from tenants.audit import record

logger = logging.getLogger(__name__)

DATASET = "dataset"


def erase_sets(storage: Storage, host: Host, *, now: datetime) -> int:
    """Destroy the snapshots of backups that left the catalogue, and the dataset with its last one; how many."""
    count = 0
    removed = copies_on(storage).filter(type=DATASET, removed_at__isnull=False)
    # The newest first: then the next one is rolled back to only where it has to be.
    for backup in removed.order_by("-created_at"):
        dataset = backup.place.partition("@")[0]
        mark = host.value(dataset, OWNER) if host.exists(dataset) else ""
        was_there = remove_set(host, backup.place, disk=mark)
        Backup.objects.filter(pk=backup.pk, erased_at=None).update(erased_at=now, unique_bytes=0)
        record(action="backup.erased", subject=backup, after={"place": backup.place, "was_there": was_there})
        count += 1
    return count


def compare_sets(storage: Storage, host: Host, *, now: datetime) -> dict[str, int]:
    """What is lost, back and damaged; and what each of the rest takes up now that others were removed."""
    known = list(copies_on(storage).filter(type=DATASET, removed_at=None))
    found = host.snapshots_below(storage.path) if known else {}
    counted = {"lost": 0, "back": 0, "damaged": 0}
    for backup in known:
        one = found.get(backup.place)
        if one is None:
            counted["lost"] += note_health(backup, BackupHealth.MISSING, now=now)
            continue
        if one.guid != guid_of(backup):
            counted["damaged"] += note_health(backup, BackupHealth.DAMAGED, now=now)
        elif backup.status == BackupStatus.LOST or backup.health == BackupHealth.MISSING:
            counted["back"] += note_health(backup, BackupHealth.UNVERIFIED, now=now)
        if one.written_bytes and one.written_bytes != backup.stored_bytes:
            Backup.objects.filter(pk=backup.pk).update(stored_bytes=one.written_bytes, unique_bytes=one.written_bytes)
    return counted


def sweep_disks(storage: Storage) -> list[str]:
    """Remove snapshots of ours that no backup needs from the disks that have backups on this storage; their names."""
    removed = []
    disks = Disk.objects.filter(backups__storage=storage, driver="zfs").distinct()
    for disk in disks.select_related("server__node", "storage"):
        node = disk.server.node
        dataset = f"{disk.storage.path}/{disk.path}"
        try:
            host = host_of(settings.CONFIG.node_directory, "" if node.pk == storage.node_id else node.name)
            removed += _sweep(host, dataset, disk)
        except DriverError as error:
            logger.warning("a disk could not be swept", extra={"disk": str(disk), "reason": error.message})
    return removed


def _sweep(host: Host, dataset: str, disk: Disk) -> list[str]:
    """The snapshots are listed before the rows are read: what is made meanwhile is not among them."""
    listed = frozenset(one.name for one in host.snapshots(dataset))
    sets = sets_of(disk)
    pending = Backup.objects.filter(disk=disk, status=BackupStatus.PENDING)
    under_way = {name for one in pending for name in (snapshot_name(one), f"{SNAPSHOT_PREFIX}file-{one.pk}")}
    known = {one.place.partition("@")[2] for one in sets}
    kept = frozenset(kept_sets(sets) | under_way)
    removed = forget_points(host, dataset, disk=str(disk.pk), kept=kept, known=frozenset(known), only=listed)
    if removed:
        record(action="disk.swept", subject=disk, after={"removed": removed})
    return removed
