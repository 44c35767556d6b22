"""Taking copies into the catalogue that lie on a storage and that no row knows."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from agents.drivers.copy_streams import SUFFIXES
from agents.models import Disk
from backups.copies.comparing import ASKED
from backups.copies.tending import FILE
from backups.copies.tending_sets import DATASET
from backups.models import Backup, StrayCopy
from backups.queue import hint_tending
from backups.states import BackupStatus
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from tenants.audit import record
from tenants.models import Person, Tenant


def request_comparison(*, storage: Any, actor: Person) -> None:
    """Have the node of the storage compare it with the catalogue now."""
    _refuse_others(actor)
    record(action=ASKED, subject=storage, actor=actor)
    transaction.on_commit(lambda: hint_tending(storage.pk, storage.node.name))


@transaction.atomic
def import_copy(*, stray: StrayCopy, tenant: Tenant, actor: Person, now: datetime) -> Backup:
    """A backup of the tenant; of the disk that the manifest names, where that is the tenant's. It is checked soon.

    Whose it was is only what a file says: therefore a SuperAdmin says whose it is.
    """
    _refuse_others(actor)
    manifest, facts = stray.manifest, stray.manifest.get("facts", {})
    content = manifest.get("content")
    if manifest.get("compression") not in SUFFIXES or content not in {"disk", "zfs", DATASET}:
        raise InvalidInputError("The manifest beside the copy is none that can be imported.", code="bad_manifest")
    if Backup.objects.filter(storage=stray.storage, place=stray.place, erased_at=None).exists():
        raise ConflictError("The copy is in the catalogue already.", code="already_known")
    disk = _disk_of(facts, tenant)
    backup = Backup.objects.create(
        tenant=tenant,
        storage=stray.storage,
        node=stray.storage.node,
        disk=disk,
        server=disk.server if disk is not None else None,
        name=str(facts.get("name") or "imported")[:40],
        server_name=str(facts.get("server_name") or "unknown")[:128],
        disk_number=disk.number if disk is not None else _number(facts.get("disk_number")),
        type=DATASET if content == DATASET else FILE,
        status=BackupStatus.OK,
        place=stray.place,
        compression=manifest["compression"],
        sha256=str(manifest["sha256"])[:64],
        size_bytes=int(manifest["size_bytes"]),
        stored_bytes=stray.file_bytes,
        unique_bytes=stray.file_bytes,
        finished_at=now,
        note="Imported from the storage.",
    )
    record(action="backup.import", subject=backup, actor=actor, after={"place": stray.place})
    stray.delete()
    return backup


def _disk_of(facts: dict[str, str], tenant: Tenant) -> Disk | None:
    try:
        key = UUID(facts.get("disk", ""))
    except ValueError:
        return None
    return Disk.objects.select_related("server").filter(pk=key, tenant=tenant).first()


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() and len(text) < 5 else 1


def _refuse_others(actor: Person) -> None:
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin compares storages and imports copies.")
