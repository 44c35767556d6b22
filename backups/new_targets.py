"""Restores to what is not there yet: a new disk of a server, or a new server of what the backups kept of the old one.

Nothing that exists is written to: the driver refuses a disk or a server that it finds under the new name.
"""

from __future__ import annotations

import os.path
from datetime import datetime
from pathlib import PurePosixPath

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from agents.models import Disk, Node, Server, Storage
from agents.protocol import DefineOrder
from agents.services import add_server
from backups.models import Backup, Job, JobEvent
from backups.points import good_backups
from backups.queue import announce_restore
from backups.services import ask_other_owners, refuse_copy, refuse_source
from backups.states import JobKind, JobState, Priority
from backups.transitions import note_event
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from common.ids import new_id, new_name_suffix
from tenants.models import Person
from tenants.services import require_active

WRITTEN = "written"


@transaction.atomic
def request_new_disk(*, backup: Backup, server: Server, storage: Storage, actor: Person, now: datetime) -> Job:
    """Restore to a new disk of the server, on a storage of its node. It is not attached to the server there.

    ConflictError for a backup that is not good, a storage without room, a node in maintenance; ApprovalNeededError.
    """
    server = (
        Server.objects.select_for_update(of=("self",), no_key=True).select_related("node", "tenant").get(pk=server.pk)
    )
    refuse_source(backup)
    refuse_copy(backup, node=server.node)
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


def _whole_run(backup: Backup) -> list[Backup]:
    """The good backups of one moment, of all disks that the server had then."""
    if not backup.has_configuration:
        message = "The backup kept no description of its server. Restore it to a disk of a server that is there."
        raise ConflictError(message, code="no_configuration")
    if backup.disk is None or backup.server is None:
        raise ConflictError("Where the disks of the old server were is no longer known.", code="no_configuration")
    disks = list(Disk.objects.filter(server=backup.server).values_list("pk", flat=True))
    together = good_backups(disks).filter(point=backup.point).exclude(point="") if backup.point else good_backups([])
    found = list((together | good_backups(disks).filter(pk=backup.pk)).order_by("disk_number"))
    missing = Disk.objects.filter(pk__in=disks, created_at__lt=backup.created_at)
    missing = missing.exclude(pk__in=[one.disk_id for one in found])
    if names := [str(disk) for disk in missing.order_by("number")]:
        message = f"No good backup of the same moment is there of {', '.join(names)}. Restore the disks one by one."
        raise ConflictError(message, code="run_incomplete")
    return found


def _refuse_place(storage: Storage, *, server: Server, size_bytes: int) -> None:
    require_active(server.tenant)
    if storage.node_id != server.node_id:
        raise InvalidInputError("The storage is on another node than the server.", field="storage")
    if not server.tenant.storages.filter(pk=storage.pk).exists():
        raise InvalidInputError(f"{storage} is not attached to the tenant.", code="not_attached", field="storage")
    if server.node.status == Node.Status.MAINTENANCE:
        raise ConflictError(f"The node {server.node.name} is in maintenance.", code="node_in_maintenance")
    if storage.free_bytes is not None and storage.free_bytes < size_bytes:
        raise ConflictError(
            f"{storage} has {storage.free_bytes} bytes free, the restore may need {size_bytes}. Choose another one.",
            code="no_space",
            field="storage",
        )


def _new_disk(backup: Backup, *, server: Server, storage: Storage, number: int) -> Disk:
    """Its row. The image is named by nobody: what is there already under that name is not ours."""
    source = backup.disk
    if source is None:
        raise ConflictError("By which driver the backup was made is no longer known.", code="no_driver")
    ending = PurePosixPath(source.path).suffix
    disk = Disk(
        server=server,
        tenant_id=server.tenant_id,
        number=number,
        driver=source.driver,
        storage=storage,
        path=f"restored-{new_name_suffix(12)}{ending}",
        size_bytes=backup.size_bytes,
        # There is nothing yet, and nothing to back up, until the restore is done.
        incomplete_since=timezone.now(),
    )
    disk.save(force_insert=True)
    return disk


def _new_job(backup: Backup, disk: Disk, *, actor: Person, now: datetime, **more: object) -> Job:
    job = Job.objects.create(
        kind=JobKind.RESTORE,
        tenant_id=disk.tenant_id,
        disk=disk,
        node=disk.server.node,
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


def note_defined(job: Job, source_name: str, *, now: datetime) -> None:
    """The node's own name of the new server, by which its disks are backed up from now on."""
    Server.objects.filter(pk=job.disk.server_id, source_name="").update(source_name=source_name[:128])
    note_event(job, at=now, code="defined", message=f"The server {job.new_server} is there, shut off.")


def _path(disk: Disk) -> str:
    return os.path.realpath(os.path.join(disk.storage.path, disk.path))
