"""Keeps storages and catalogue alike: erases what left the catalogue, notices what is lost and what nobody knows.

Runs in the worker of the storage's node, hourly and whenever something is removed there. Every step can run twice and
beside backups and restores: rows are read before the storage is, so what comes meanwhile is only looked at next time.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec
from django.db.models import Exists, OuterRef, Q

from agents.drivers.base import DriverError
from agents.drivers.copy_files import CopyPlace, FoundCopy, list_copies, remove_copy
from agents.drivers.copy_folder import StorageAwayError
from agents.drivers.zfs_commands import Host, ZfsMissingError
from agents.models import Storage
from backups.copies.comparing import is_asked_for, note_end
from backups.copies.places import copies_on
from backups.copies.settling import note_health
from backups.copies.tending_sets import compare_sets, drop_leftovers, erase_sets, settle_restores, sweep_disks
from backups.models import Backup, Job, StrayCopy
from backups.queue import hint_tending
from backups.states import BackupHealth, BackupStatus, JobKind, JobState
from tenants.audit import record
from tenants.origin import NODE, Origin, acting_as

logger = logging.getLogger(__name__)

FILE = "file"
_GONE = (BackupHealth.MISSING,)


@dataclass
class Tended:
    """What a run did: how many copies were erased, became lost, came back, are of another size, and are strays.

    `leftovers` are backups that were killed before anybody was told of them.
    """

    erased: int = 0
    lost: int = 0
    back: int = 0
    damaged: int = 0
    strays: int = 0
    leftovers: int = 0


def hint_everywhere() -> None:
    """Ask the node of every storage that has, or had, copies."""
    with_copies = Storage.objects.filter(
        Q(Exists(Backup.objects.filter(storage=OuterRef("pk")))) | Q(stray_copies__isnull=False)
    )
    for storage_id, node_name in with_copies.distinct().values_list("pk", "node__name"):
        hint_tending(storage_id, node_name)


def tend_storage(*, storage_id: UUID | str, now: datetime) -> Tended:
    """One run over the storage. Where it is not there, its copies are `lost` until it is, and nothing is erased."""
    storage = Storage.objects.select_related("node").get(pk=storage_id)
    with acting_as(Origin(NODE, str(storage.node_id), storage.node.name)):
        tended, failure = Tended(), ""
        is_asked = is_asked_for(storage)
        _end_restores(storage)
        settle_restores(storage, now=now)
        try:
            if storage.path.startswith("/"):
                _erase(storage, tended, now=now)
                _compare(storage, tended, now=now)
            else:
                _tend_sets(storage, tended, now=now)
        except (StorageAwayError, ZfsMissingError) as error:
            failure = error.message
            logger.error("a storage is away", extra={"storage": str(storage), "reason": error.message})
            _note_all(_catalogued(storage), {}, tended, now=now)
        except DriverError as error:
            failure = error.message
            logger.error("a storage could not be compared", extra={"storage": str(storage), "reason": error.message})
        if is_asked:
            note_end(storage, tended=tended, failure=failure)
    return tended


def _tend_sets(storage: Storage, tended: Tended, *, now: datetime) -> None:
    if not Backup.objects.filter(storage=storage).exists():
        return
    host = Host()
    host.datasets_below(storage.path)
    tended.leftovers = len(drop_leftovers(storage, host))
    tended.erased = erase_sets(storage, host, now=now)
    for name, count in compare_sets(storage, host, now=now).items():
        setattr(tended, name, count)
    sweep_disks(storage)


def _end_restores(storage: Storage) -> None:
    """A backup shows `restore` only while one runs."""
    running = Job.objects.filter(backup=OuterRef("pk"), kind=JobKind.RESTORE, state=JobState.RUNNING)
    shown = Backup.objects.filter(storage=storage, status=BackupStatus.RESTORE)
    shown.filter(~Exists(running)).update(status=BackupStatus.OK)


def _erase(storage: Storage, tended: Tended, *, now: datetime) -> None:
    for backup in copies_on(storage).filter(type=FILE, removed_at__isnull=False).order_by("removed_at"):
        was_there = remove_copy(_place(storage, backup.place))
        Backup.objects.filter(pk=backup.pk, erased_at=None).update(erased_at=now, unique_bytes=0)
        record(action="backup.erased", subject=backup, after={"place": backup.place, "was_there": was_there})
        tended.erased += 1


def _compare(storage: Storage, tended: Tended, *, now: datetime) -> None:
    known = _catalogued(storage)
    under_way = set(Backup.objects.filter(storage=storage, status=BackupStatus.PENDING).values_list("pk", flat=True))
    if not known and not under_way and not _was_used(storage):
        return
    found = {one.place: one for one in list_copies(storage.path, storage_id=str(storage.pk))}
    _note_all(known, found, tended, now=now)
    _look_at_others(storage, found, tended, now=now)


def _was_used(storage: Storage) -> bool:
    """Nothing is written to a storage only to look whether something is there."""
    return Backup.objects.filter(storage=storage).exists() or StrayCopy.objects.filter(storage=storage).exists()


def _catalogued(storage: Storage) -> list[Backup]:
    """Of either type: a storage is a directory or a pool."""
    return list(copies_on(storage).filter(removed_at=None))


def _note_all(known: Collection[Backup], found: dict[str, FoundCopy], tended: Tended, *, now: datetime) -> None:
    for backup in known:
        one = found.get(backup.place)
        if one is None or one.file_bytes is None:
            tended.lost += note_health(backup, BackupHealth.MISSING, now=now)
        elif one.file_bytes != backup.stored_bytes:
            tended.damaged += note_health(backup, BackupHealth.DAMAGED, now=now)
        elif backup.status == BackupStatus.LOST or backup.health in _GONE:
            # It is there; whether it is whole, the next check says.
            tended.back += note_health(backup, BackupHealth.UNVERIFIED, now=now)
            Backup.objects.filter(pk=backup.pk).update(verified_at=None)


def _look_at_others(storage: Storage, found: dict[str, FoundCopy], tended: Tended, *, now: datetime) -> None:
    """Whole copies that no row knows are offered; what is left of attempts at known backups is removed."""
    unknown = dict(found)
    for place in Backup.objects.filter(storage=storage, erased_at=None).values_list("place", flat=True):
        unknown.pop(place, None)
    whole = set()
    for place, one in unknown.items():
        if one.manifest is None:
            continue
        if one.file_bytes is None or _has_row(storage, one):
            remove_copy(_place(storage, place))
        elif one.file_bytes == one.manifest.file_bytes:
            whole.add(place)
            told = {"file_bytes": one.file_bytes, "manifest": msgspec.to_builtins(one.manifest), "seen_at": now}
            StrayCopy.objects.update_or_create(storage=storage, place=place, defaults=told)
    tended.strays = len(whole)
    StrayCopy.objects.filter(storage=storage).exclude(place__in=whole).delete()


def _has_row(storage: Storage, one: FoundCopy) -> bool:
    """Another attempt became the backup, or one is under way."""
    try:
        key = UUID(one.manifest.facts.get("backup", "")) if one.manifest is not None else None
    except ValueError:
        return False
    return Backup.objects.filter(pk=key, storage=storage, erased_at=None).exists()


def _place(storage: Storage, place: str) -> CopyPlace:
    return CopyPlace(storage.path, str(storage.pk), place)
