"""As `tending`, for Dataset backups: the pool of a backup node, and what is left of ours on the disks behind it.

What a program that was killed left is told from what counts by its mark, and removed; what no row knows is only listed.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import Q

from agents.drivers.base import DriverError
from agents.drivers.zfs_commands import OWNER, SNAPSHOT_PREFIX, UNFINISHED, Host, Snapshot
from agents.drivers.zfs_sets import drop_unfinished, finish_set, forget_points, remove_set
from agents.drivers.zfs_swap import SwapWish, settle_swap
from agents.models import Disk, Storage
from agents.program.holding import LOCKS, sweeping
from agents.program.zfs_hosts import host_of
from backups.copies.opening import guid_of, kept_sets, sets_of
from backups.copies.places import backup_of, copies_on, snapshot_name
from backups.copies.settling import note_health
from backups.models import Backup, Job, StrayCopy
from backups.states import FINAL, BackupHealth, BackupStatus, JobKind, JobState
from tenants.audit import record

logger = logging.getLogger(__name__)

DATASET = "dataset"
# For so long after its end what a restore left is looked for.
SETTLED_FOR = timedelta(days=2)


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


def drop_leftovers(storage: Storage, host: Host) -> list[str]:
    """Backups that were killed before the control plane was told of them; the places that were removed.

    Rows are read after the pool: what was told meanwhile counts.
    """
    marked = host.own_values_below(storage.path, UNFINISHED)
    counting = set(copies_on(storage).filter(type=DATASET).values_list("place", flat=True)) if marked else set()
    pending = Backup.objects.filter(storage=storage, status=BackupStatus.PENDING)
    under_way = frozenset(snapshot_name(one) for one in pending) if marked else frozenset()
    removed = []
    for dataset, name in marked.items():
        if f"{dataset}@{name}" in counting:
            finish_set(host, f"{dataset}@{name}")
        elif drop_unfinished(host, dataset, known=under_way):
            removed.append(f"{dataset}@{name}")
    if removed:
        record(action="storage.swept", subject=storage, after={"removed": removed[:20], "count": len(removed)})
    return removed


def compare_sets(storage: Storage, host: Host, *, now: datetime) -> dict[str, int]:
    """What is lost, back and damaged; what each of the rest takes up now that others were removed; and strays."""
    known = list(copies_on(storage).filter(type=DATASET, removed_at=None))
    found = host.snapshots_below(storage.path)
    counted = {"lost": 0, "back": 0, "damaged": 0, "strays": _note_strays(storage, host, found, now=now)}
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


def _note_strays(storage: Storage, host: Host, found: dict[str, Snapshot], *, now: datetime) -> int:
    """Snapshots with our names and our mark that no row knows: whole ones, for what is not whole has none."""
    named = {place: backup_of(one.name) for place, one in found.items() if one.disk not in {"", "-"}}
    ours = {place: key for place, key in named.items() if key is not None}
    rows = Backup.objects.filter(Q(pk__in=ours.values()) | Q(storage=storage, place__in=ours))
    known = {value for row in rows.values_list("pk", "place") for value in row}
    unfinished = host.own_values_below(storage.path, UNFINISHED) if ours else {}
    strays = []
    for place, key in ours.items():
        dataset, _, name = place.partition("@")
        if not {key, place} & known and unfinished.get(dataset) != name:
            strays.append(place)
            told = {"file_bytes": found[place].written_bytes, "seen_at": now}
            manifest = {"manifest": _manifest(found[place], host.value(place, "referenced"), key)}
            StrayCopy.objects.update_or_create(storage=storage, place=place, defaults={**told, **manifest})
    StrayCopy.objects.filter(storage=storage).exclude(place__in=strays).delete()
    return len(strays)


def _manifest(one: Snapshot, referenced: str, key: UUID) -> dict[str, object]:
    """As what lies beside a file, of what the pool says."""
    return {
        "format": "zfs",
        "content": DATASET,
        "compression": "off",
        "size_bytes": int(referenced) if referenced.isdigit() else 0,
        "file_bytes": one.written_bytes,
        "sha256": f"guid:{one.guid}",
        "facts": {"backup": str(key), "disk": one.disk},
    }


def settle_restores(storage: Storage, *, now: datetime) -> list[str]:
    """What restores of this storage's backups left beside their targets when their workers were killed; the targets."""
    ended = Job.objects.filter(
        kind=JobKind.RESTORE,
        state__in=FINAL,
        backup__storage=storage,
        disk__driver="zfs",
        disk__storage__isnull=False,
        disk__server__node__isnull=False,
        finished_at__gt=now - SETTLED_FOR,
    )
    settled = []
    for job in ended.select_related("disk__server__node", "disk__storage"):
        folder = settings.CONFIG.node_directory / LOCKS
        with sweeping(folder, str(job.disk.server_id)) as is_alone:
            # A restore that runs is settled by itself.
            if is_alone and not Job.objects.active().filter(disk=job.disk, kind=JobKind.RESTORE).exists():
                settled += _settle(job, storage)
    return settled


def _settle(job: Job, storage: Storage) -> list[str]:
    dataset, node = f"{job.disk.storage.path}/{job.disk.path}", job.disk.server.node
    is_unmade = job.creates_disk and job.state != JobState.OK
    wish = SwapWish(dataset=dataset, disk=str(job.disk_id), tag=job.pk.hex[-12:], create=is_unmade)
    try:
        host = host_of(settings.CONFIG.node_directory, "" if node.pk == storage.node_id else node.name)
        if not settle_swap(host, wish):
            return []
    except DriverError as error:
        logger.warning("a restore could not be settled", extra={"disk": str(job.disk), "reason": error.message})
        return []
    record(action="disk.swept", subject=job.disk, after={"removed": [f"{dataset}-new", f"{dataset}-before"]})
    return [dataset]


def sweep_disks(storage: Storage) -> list[str]:
    """Remove snapshots of ours that no backup needs from the disks that have backups on this storage; their names."""
    removed = []
    disks = Disk.objects.filter(backups__storage=storage, driver="zfs").distinct()
    for disk in disks.exclude(storage=None).select_related("server__node", "storage"):
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
