"""Where copies lie on their storages, and which rows know of them."""

from __future__ import annotations

import re
from uuid import UUID

from agents.drivers.copy_streams import SUFFIXES
from agents.drivers.zfs_commands import SNAPSHOT_PREFIX
from agents.models import Storage
from agents.protocol import CopyPlaceMessage
from backups.models import Backup, BackupQuerySet, Session
from backups.states import BackupStatus

LONGEST_PART = 60


def file_place(session: Session, backup: Backup) -> str:
    """The place of the file that this session writes. No other session writes to it, not even of the same job."""
    owner = backup.server_id or backup.pk
    kind = "zfs" if backup.disk is not None and backup.disk.driver == "zfs" else "img"
    folder = f"{_plain(backup.tenant.name)}/{_plain(backup.server_name)}-{_short(owner)}"
    return f"backups/{folder}/{backup.name}-{_short(backup.pk)}-{session.fence}.{kind}{SUFFIXES[backup.compression]}"


def chain_place(backup: Backup) -> str:
    """The dataset that this Dataset backup begins, should it have to be a full one."""
    disk = backup.disk_id or backup.pk
    return f"{backup.storage.path}/{_plain(backup.tenant.name)}/{_short(disk)}-{_short(backup.pk)}"


def snapshot_name(backup: Backup) -> str:
    return f"{SNAPSHOT_PREFIX}{backup.pk.hex}"


def backup_of(snapshot: str) -> UUID | None:
    """The backup that a snapshot is named after; None for a name that is none of `snapshot_name`."""
    found = re.fullmatch(rf"{SNAPSHOT_PREFIX}([0-9a-f]{{32}})", snapshot)
    return UUID(found[1]) if found else None


def place_message(storage: Storage, place: str) -> CopyPlaceMessage:
    return CopyPlaceMessage(storage_path=storage.path, storage_id=str(storage.pk), place=place)


def copies_on(storage: Storage) -> BackupQuerySet:
    """Rows of copies whose file or snapshot must be there, or still is: also what has left the catalogue."""
    copies: BackupQuerySet = Backup.objects.filter(storage=storage, erased_at=None).exclude(place="")
    return copies.exclude(status=BackupStatus.PENDING)


def nodes_that_see(storage: Storage | None) -> dict[UUID, Storage]:
    """Node -> the storage as it has it: its own node's, and others that see the same share (told by its mark)."""
    if storage is None:
        return {}
    others = Storage.objects.filter(seen_mark=str(storage.pk), path__startswith="/").exclude(node=storage.node_id)
    return {**{one.node_id: one for one in others}, storage.node_id: storage}


def _plain(name: str) -> str:
    """As a part of a path; what people call a server may hold anything."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:LONGEST_PART] or "server"


def _short(key: UUID) -> str:
    """The random end of an id."""
    return key.hex[-8:]
