"""Restores to what is not there yet: a new disk of a server, or a new server of what the backups kept of the old one.

Nothing that exists is written to: the driver refuses a disk or a server that it finds under the new name.
"""

from __future__ import annotations

import os.path
from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import PurePosixPath
from uuid import UUID

from django.db import transaction
from django.db.models import Max, Q
from django.utils import timezone

from agents.models import Disk, Node, Server, Storage
from agents.protocol import DefineOrder
from agents.services import add_server, refuse_overlap
from backups.models import Backup, BackupQuerySet, Job, JobEvent
from backups.points import good_backups
from backups.queue import announce_restore
from backups.services import ask_other_owners, is_zfs_stream, reader_of, refuse_copy, refuse_source
from backups.states import JobKind, JobState, Priority
from backups.transitions import note_event
from backups.unmade import NEW_DISK
from common.errors import BackupsiteError, ConflictError, InvalidInputError, NotAllowedError
from common.ids import new_id, new_name_suffix
from engine.manifest import CONTENT_DISK, CONTENT_STREAM, CONTENT_TREE
from tenants.models import Person
from tenants.services import require_active

WRITTEN = "written"


@transaction.atomic
def request_new_disk(*, backup: Backup, server: Server, storage: Storage, actor: Person, now: datetime) -> Job:
    """Restore to a new disk of the server, on a storage of its node. It is attached there where the driver can do that
    and the server is shut off; the end of the job says so, or what to do next.

    ConflictError for a backup that is not good, a storage without room, a node in maintenance; ApprovalNeededError.
    """
    server = (
        Server.objects.select_for_update(of=("self",), no_key=True).select_related("node", "tenant").get(pk=server.pk)
    )
    refuse_source(backup)
    refuse_copy(backup, node=server.node)
    _refuse_kind(backup, storage)
    _refuse_place(storage, server=server, size_bytes=backup.size_bytes)
    told = {"server": str(server.pk), "storage": str(storage.pk)}
    ask_other_owners(backup, server, actor=actor, now=now, parameters=told)
    number = (server.disks.aggregate(last=Max("number"))["last"] or 0) + 1
    disk = _new_disk(backup, server=server, storage=storage, number=number)
    return _new_job(backup, disk, actor=actor, now=now)


@transaction.atomic
def request_new_server(*, backup: Backup, name: str, storage: Storage, actor: Person, now: datetime) -> list[Job]:
    """Make a server of this name on the storage's node of the backup and of those of the same run, one job per disk.

    It is defined with the last disk, shut off, and runs only when somebody starts it. ConflictError when the backup
    kept no description, or when a disk of the old server has no good backup of that run.
    """
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin makes servers.")
    backups = _whole_run(backup)
    node = Node.objects.get(pk=storage.node_id)
    server = add_server(
        tenant=backup.tenant, name=name.strip(), region_code=str(node.region_id), node=node, actor=actor
    )
    run_id = new_id()
    jobs = []
    for one in backups:
        refuse_source(one)
        _refuse_place(storage, server=server, size_bytes=sum(each.size_bytes for each in backups))
        disk = _new_disk(one, server=server, storage=storage, number=one.disk_number)
        jobs.append(_new_job(one, disk, actor=actor, now=now, run_id=run_id, new_server=server.name))
    return jobs


def new_disk_choices(
    backup: Backup, *, server: Server, storages: Iterable[Storage]
) -> list[tuple[Storage, BackupsiteError | None]]:
    """Each storage with what forbids a new disk of the server on it, or None; a few queries, however many storages.

    `server` with its node and tenant. Raises for what forbids it everywhere.
    """
    refuse_source(backup)
    refuse_copy(backup, node=server.node)
    require_active(server.tenant)
    attached = set(server.tenant.storages.values_list("pk", flat=True))
    found: list[tuple[Storage, BackupsiteError | None]] = []
    for storage in storages:
        try:
            _refuse_kind(backup, storage)
            _refuse_place(storage, server=server, size_bytes=backup.size_bytes, attached=attached)
        except BackupsiteError as error:
            found.append((storage, error))
        else:
            found.append((storage, None))
    return found


def _whole_run(backup: Backup) -> list[Backup]:
    """The good backups of one run, of all disks that the server had then, one of each.

    Points do not tell which belong together: raw disks have none. Where a run has several of a disk, in two vaults or
    after a retry, the one of the backup's own moment and place is meant.
    """
    if not backup.has_configuration or backup.content != CONTENT_DISK:
        message = "The backup kept no description of its server. Restore it to a disk of a server that is there."
        raise ConflictError(message, code="no_configuration")
    if backup.disk is None or backup.server is None:
        raise ConflictError("Where the disks of the old server were is no longer known.", code="no_configuration")
    disks = list(Disk.objects.filter(server=backup.server).values_list("pk", flat=True))
    found = _of_run(backup, good_backups(disks).filter(content=CONTENT_DISK))
    missing = Disk.objects.filter(pk__in=disks, created_at__lt=backup.created_at)
    missing = missing.exclude(pk__in=[one.disk_id for one in found])
    if names := [str(disk) for disk in missing.order_by("number")]:
        message = f"No good backup of the same run is there of {', '.join(names)}. Restore the disks one by one."
        raise ConflictError(message, code="run_incomplete")
    return found


def _of_run(backup: Backup, good: BackupQuerySet) -> list[Backup]:
    same = Q(pk=backup.pk)
    if backup.run_id is not None:
        same |= Q(run_id=backup.run_id)

    def nearness(one: Backup) -> tuple[object, ...]:
        return one.pk == backup.pk, one.point == backup.point, one.vault_id == backup.vault_id, one.created_at

    chosen = {one.disk_id: one for one in sorted(good.filter(same), key=nearness)}
    return sorted(chosen.values(), key=lambda one: one.disk_number)


def _refuse_place(
    storage: Storage, *, server: Server, size_bytes: int, attached: Collection[UUID] | None = None
) -> None:
    """`attached`: the storages of the server's tenant, where somebody knows them already."""
    if attached is None:
        require_active(server.tenant)
        attached = server.tenant.storages.filter(pk=storage.pk).values_list("pk", flat=True)
    if server.node is None:
        raise ConflictError(
            f"{server.name} has an agent and no disks of a node. Restore to its disk, or let its agent restore.",
            code="has_agent",
        )
    if storage.node_id != server.node_id:
        raise InvalidInputError("The storage is on another node than the server.", field="storage")
    if storage.pk not in attached:
        raise InvalidInputError(f"{storage} is not attached to the tenant.", code="not_attached", field="storage")
    if server.node.status == Node.Status.MAINTENANCE:
        raise ConflictError(f"The node {server.node.name} is in maintenance.", code="node_in_maintenance")
    if storage.free_bytes is not None and storage.free_bytes < size_bytes:
        raise ConflictError(
            f"{storage} has {storage.free_bytes} bytes free, the restore may need {size_bytes}. Choose another one.",
            code="no_space",
            field="storage",
        )


def _refuse_kind(backup: Backup, storage: Storage) -> None:
    if is_zfs_stream(backup) == storage.path.startswith("/"):
        told = (
            "What ZFS sent becomes a dataset: choose a storage that is one"
            if is_zfs_stream(backup)
            else ("The backup is no stream of ZFS: choose a storage that is a directory")
        )
        raise ConflictError(f"{told}.", code="other_kind_of_disk", field="storage")


def _new_disk(backup: Backup, *, server: Server, storage: Storage, number: int) -> Disk:
    """Its row. The image is named by nobody: what is there already under that name is not ours."""
    driver, ending = _driver_and_ending(backup, storage)
    path = f"{NEW_DISK}{new_name_suffix(12)}{ending}"
    refuse_overlap(storage, driver=driver, path=path, tenant=server.tenant)
    disk = Disk(
        server=server,
        tenant_id=server.tenant_id,
        number=number,
        driver=driver,
        storage=storage,
        path=path,
        size_bytes=max(1, backup.size_bytes),
        # There is nothing yet, and nothing to back up, until the restore is done.
        incomplete_since=timezone.now(),
    )
    disk.save(force_insert=True)
    return disk


def _driver_and_ending(backup: Backup, storage: Storage) -> tuple[str, str]:
    """Of a new disk. Files need only a folder, whatever they were read by; a group of volumes makes volumes."""
    if is_zfs_stream(backup):
        return "zfs", ""
    if backup.content == CONTENT_TREE:
        return "filesystem", ""
    if backup.content == CONTENT_STREAM:
        message = "A stream goes to what can take it. Add that as a disk of its server, then restore onto it."
        raise ConflictError(message, code="stream_needs_disk")
    if backup.disk is None:
        raise ConflictError("By which driver the backup was made is no longer known.", code="no_driver")
    if PurePosixPath(storage.path).parent == PurePosixPath("/dev"):
        return "lvm", ""
    if backup.disk.driver == "lvm":
        return "image", ".img"
    return backup.disk.driver, PurePosixPath(backup.disk.path).suffix


def _new_job(backup: Backup, disk: Disk, *, actor: Person, now: datetime, **more: object) -> Job:
    job = Job.objects.create(
        kind=JobKind.RESTORE,
        tenant_id=disk.tenant_id,
        disk=disk,
        node=reader_of(backup, disk),
        backup=backup,
        backup_name=backup.name,
        requested_by=actor,
        total_bytes=backup.size_bytes,
        priority=Priority.RESTORE,
        creates_disk=True,
        **more,
    )
    announce_restore(job, now=now)
    return job


def note_written(job: Job, *, now: datetime) -> DefineOrder:
    """A disk of a new server is written. Whoever writes the last one is to define the server."""
    with transaction.atomic():
        # Two that end at once look one after the other.
        Server.objects.select_for_update(no_key=True).get(pk=job.disk.server_id)
        note_event(job, at=now, code=WRITTEN)
        others = Job.objects.filter(run_id=job.run_id, kind=JobKind.RESTORE).exclude(pk=job.pk)
        written = JobEvent.objects.filter(job__in=others, code=WRITTEN).values("job")
        if others.exclude(state=JobState.OK).exclude(pk__in=written).exists():
            return DefineOrder()
    whole = Job.objects.filter(run_id=job.run_id, kind=JobKind.RESTORE).select_related(
        "disk__storage", "backup__disk__storage"
    )
    return DefineOrder(name=job.new_server, disks={_path(one.backup.disk): _path(one.disk) for one in whole})


def attached_note(job: Job, attached_as: str) -> str:
    """What the end of the restore to a new disk says of its server; empty for every other restore."""
    if not job.creates_disk or job.new_server or job.backup is None or job.backup.content != CONTENT_DISK:
        return ""
    if attached_as:
        return f" It is attached to {job.disk.server.name} as {attached_as[:64]}, from the server's next start on."
    return f" It is no disk of {job.disk.server.name} until somebody attaches it there."


def note_defined(job: Job, source_name: str, *, now: datetime) -> None:
    """The node's own name of the new server, by which its disks are backed up from now on."""
    Server.objects.filter(pk=job.disk.server_id, source_name="").update(source_name=source_name[:128])
    note_event(job, at=now, code="defined", message=f"The server {job.new_server} is there, shut off.")


def _path(disk: Disk) -> str:
    return os.path.realpath(os.path.join(disk.storage.path, disk.path))
