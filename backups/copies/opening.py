"""What a session opens with when its backup is a copy: it gets no key and no right to a vault."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from django.utils import timezone

from agents.models import Disk, Storage
from agents.protocol import (
    BaseMessage,
    CopyCheckWork,
    CopyPlaceMessage,
    CopyRestoreWork,
    CopyWork,
    DatasetCheckWork,
    DatasetRestoreWork,
    DatasetWork,
    DiskMessage,
)
from backups.copies.places import (
    chain_place,
    copies_on,
    file_place,
    nodes_that_see,
    place_message,
    snapshot_name,
)
from backups.models import Backup, Job, Session
from backups.points import kept_points, safety_name
from backups.states import BackupStatus, JobKind
from backups.transitions import DISK_MADE
from common.errors import ConflictError
from definitions.models import Definition

CopyOrder = CopyWork | CopyRestoreWork | CopyCheckWork | DatasetWork | DatasetRestoreWork | DatasetCheckWork
MOST_BASES = 50


def open_copy(session: Session, *, disk: DiskMessage | None) -> CopyOrder:
    """The work of a session that was let in already; `disk` is that of its job. May be called again."""
    kind, backup = session.job.kind, session.job.backup
    if backup is None or backup.storage is None:
        raise ConflictError("The backup is not there any more.", code="backup_not_ok")
    if backup.type == Definition.Type.DATASET:
        return open_dataset(session, backup)
    if kind == JobKind.VERIFY:
        refuse_bad(backup)
        return CopyCheckWork(
            at=place_message(backup.storage, backup.place), sha256=backup.sha256, file_bytes=backup.stored_bytes or 0
        )
    if disk is None:
        raise ConflictError("The disk is not there any more.", code="disk_missing")
    return _restore(session, backup, disk) if kind == JobKind.RESTORE else _back_up(session, backup, disk)


def _back_up(session: Session, backup: Backup, disk: DiskMessage) -> CopyWork:
    job, storage = session.job, backup.storage
    if job.definition is None:
        raise ConflictError("The definition of this backup was deleted meanwhile.", code="definition_deleted")
    facts = {
        "backup": str(backup.pk),
        "name": backup.name,
        "tenant": str(backup.tenant_id),
        "server": str(backup.server_id or ""),
        "server_name": backup.server_name,
        "disk": str(backup.disk_id or ""),
        "disk_number": str(backup.disk_number),
        "disk_bytes": str(backup.size_bytes),
        "created_at": backup.created_at.isoformat(),
    }
    place = file_place(session, backup)
    Backup.objects.filter(pk=backup.pk, status=BackupStatus.PENDING).update(place=place)
    limits = filter(None, (job.definition.bandwidth_limit, job.granted_bandwidth))
    return CopyWork(
        disk=disk,
        at=place_message(storage, place),
        compression=backup.compression,
        facts=facts,
        is_first=not copies_on(storage).exists(),
        new_point=session.new_point,
        kept_points=sorted(kept_points(job.disk.server.disks.all(), now=timezone.now())),
        freeze=job.definition.freeze_filesystem,
        bandwidth_bytes_per_second=min(limits, default=0),
        node=node_of(job, storage),
        disk_id=str(job.disk_id),
    )


def _restore(session: Session, backup: Backup, disk: DiskMessage) -> CopyRestoreWork:
    refuse_bad(backup)
    job = session.job
    is_resumed = job.disk.incomplete_since is not None
    if job.creates_disk:
        is_resumed = job.events.filter(code=DISK_MADE).exists()
    # Another node may see the same share under a path of its own.
    seen = nodes_that_see(backup.storage).get(job.node_id, backup.storage)
    return CopyRestoreWork(
        # A disk that is only made belongs to no server on the node yet.
        disk=msgspec.structs.replace(disk, server="") if job.creates_disk else disk,
        at=CopyPlaceMessage(seen.path, str(backup.storage_id), backup.place),
        compression=backup.compression,
        sha256=backup.sha256,
        file_bytes=backup.stored_bytes or 0,
        size_bytes=backup.size_bytes,
        create=job.creates_disk and not is_resumed,
        safety_point="" if job.creates_disk or is_resumed else safety_name(job.pk),
        node=node_of(job, backup.storage),
        disk_id=str(job.disk_id),
        tag=job.pk.hex[-12:],
    )


def open_dataset(session: Session, backup: Backup) -> DatasetWork | DatasetRestoreWork | DatasetCheckWork:
    """The work on a Dataset backup."""
    job, storage = session.job, backup.storage
    if job.kind == JobKind.VERIFY:
        refuse_bad(backup)
        return DatasetCheckWork(place=backup.place, guid=guid_of(backup))
    if job.disk is None:
        raise ConflictError("The disk is not there any more.", code="disk_missing")
    dataset = f"{job.disk.storage.path}/{job.disk.path}"
    if job.kind == JobKind.RESTORE:
        refuse_bad(backup)
        return DatasetRestoreWork(
            place=backup.place,
            guid=guid_of(backup),
            target=dataset,
            node=node_of(job, storage),
            disk=str(job.disk_id),
            tag=job.pk.hex[-12:],
            size_bytes=backup.size_bytes,
            create=job.creates_disk,
        )
    if job.definition is None:
        raise ConflictError("The definition of this backup was deleted meanwhile.", code="definition_deleted")
    limits = filter(None, (job.definition.bandwidth_limit, job.granted_bandwidth))
    earlier = sets_of(job.disk)
    return DatasetWork(
        source=dataset,
        node=node_of(job, storage),
        disk=str(job.disk_id),
        snapshot=snapshot_name(backup),
        chain=chain_place(backup),
        bases=[
            BaseMessage(one.place, guid_of(one))
            for one in earlier
            if (one.storage_id, one.definition_id) == (storage.pk, job.definition_id)
        ][:MOST_BASES],
        kept=sorted(kept_sets(earlier)),
        known=sorted(one.place.partition("@")[2] for one in earlier),
        bandwidth_bytes_per_second=min(limits, default=0),
    )


def sets_of(disk: Disk) -> list[Backup]:
    """Dataset backups of the disk that are on their pools, newest first: also what has left the catalogue only."""
    sets = Backup.objects.filter(disk=disk, type=Definition.Type.DATASET, erased_at=None).exclude(place="")
    return list(sets.exclude(status=BackupStatus.PENDING).order_by("-created_at", "-pk"))


def kept_sets(sets: Iterable[Backup]) -> set[str]:
    """Snapshots on the disk that some definition's next backup goes on from."""
    newest: dict[object, str] = {}
    for one in sets:
        newest.setdefault((one.definition_id, one.storage_id), one.place.partition("@")[2])
    return set(newest.values())


def guid_of(backup: Backup) -> str:
    return backup.sha256.removeprefix("guid:")


def node_of(job: Job, storage: Storage) -> str:
    """Where the disk is, when that is another node than the storage's."""
    node = job.disk.server.node
    return "" if node.pk == storage.node_id else node.name


def refuse_bad(backup: Backup) -> None:
    if backup.removed_at is not None or backup.status not in {BackupStatus.OK, BackupStatus.RESTORE, BackupStatus.LOST}:
        raise ConflictError(f"The backup {backup.name} is {backup.status}.", code="backup_not_ok")
