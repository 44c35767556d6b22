"""From damaged objects to damaged backups, and back to health. Runs in the checks' worker, which holds the master key.

    review_damage(vault_id=..., now=..., everything=False) -> int     backups whose state changed
    review_backup(backup_id=...) -> bool
    lost_objects(backup) -> list[StoredObject]

The ledger is the only truth: `health` and `damage` of a backup follow from the damage marks of the objects that it
needs. Lost map segments count with all that their pages cover, a lost envelope with all that its session sealed. What
is damaged is listed by range of a disk or stream, and by file of a tree.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet

from backups.content import open_content, relocations_of
from backups.lost_ranges import Loss, loss_of_entries, lost_ranges
from backups.models import Backup, BackupQuerySet
from backups.states import BackupHealth
from backups.telling import tell_of_health
from common.errors import BackupsiteError
from engine.errors import EngineError, StoreError
from engine.manifest import CONTENT_DISK, ManifestBody
from engine.store.base import ObjectKind
from engine.stream_survey import affected_ranges
from vaults.damage import PRESENT, unreadable_objects
from vaults.models import Envelope, ObjectUse, StoredObject, Vault

logger = logging.getLogger(__name__)

LISTED_RANGES = 1000
# Marks this young are looked at in every review, older ones once a day: a review may walk a whole map.
_NEW_MARK = timedelta(minutes=40)
_BAD = (BackupHealth.DAMAGED, BackupHealth.MISSING)


def review_damage(*, vault_id: str | UUID, now: datetime, everything: bool = False) -> int:
    """Bring the health of the vault's backups in line with the ledger. May run any number of times.

    Looks at backups that need what was marked lately, at those that look damaged and are not any more, and with
    `everything` at all that need a damaged object: parts of it may have been mended or relocated.
    """
    vault = Vault.objects.select_related("endpoint").get(pk=vault_id)
    damaged = unreadable_objects(vault)
    backups = _catalogue().filter(vault=vault)
    affected = backups.filter(_needs_one_of(damaged))
    if not everything:
        affected = affected.filter(_needs_one_of(damaged.filter(damaged_since__gt=now - _NEW_MARK)))
    changed = sum(_review(backup) for backup in affected.order_by("-created_at"))
    mended = backups.filter(health__in=_BAD).exclude(_needs_one_of(damaged))
    return changed + sum(_settle(backup, *_healthy(backup)) for backup in mended)


def review_everywhere(*, now: datetime, everything: bool = False) -> int:
    """The review of every vault; trouble with one does not keep the others waiting."""
    changed = 0
    for vault_id in Vault.objects.exclude(status=Vault.Status.PENDING).values_list("pk", flat=True):
        try:
            changed += review_damage(vault_id=vault_id, now=now, everything=everything)
        except BackupsiteError as error:
            logger.warning("damage not reviewed", extra={"vault": str(vault_id), "reason": error.message})
    return changed


def review_backup(*, backup_id: str | UUID) -> bool:
    """The same for one backup, whatever it looks like now. Whether its state changed."""
    return _review(_catalogue().get(pk=backup_id))


def _catalogue() -> BackupQuerySet:
    found = Backup.objects.in_catalogue().filter(manifest__isnull=False)
    return found.select_related("manifest__domain", "vault__endpoint")


def _needs_one_of(objects: QuerySet[StoredObject]) -> Q:
    """Backups that name one of the objects, or may need one in place of a pack that was repacked and is gone."""
    naming = ObjectUse.objects.filter(needed__in=objects.values("pk")).values("manifest_id")
    named = Q(manifest_id__in=naming) | Q(manifest_id__in=objects.values("pk"))
    repacked = ObjectUse.objects.exclude(needed__status__in=PRESENT).values("manifest_id")
    packs = objects.filter(kind=ObjectKind.PACK)
    return named | Q(manifest__domain__in=packs.values("domain"), manifest_id__in=repacked)


def lost_objects(backup: Backup) -> list[StoredObject]:
    """What is damaged or gone of what the backup names, and damaged packs that could have stood in for it."""
    named = ObjectUse.objects.filter(manifest=backup.manifest_id).values("needed_id")
    own = Q(pk__in=named) | Q(pk=backup.manifest_id)
    damaged = unreadable_objects(backup.vault)
    packs = Q(domain__stored_objects=backup.manifest_id, kind=ObjectKind.PACK)
    gone = StoredObject.objects.filter(own | Q(moved_from__manifest=backup.manifest_id)).exclude(status__in=PRESENT)
    found = {row.pk: row for row in (*damaged.filter(own), *damaged.filter(packs), *gone)}
    return list(found.values())


def _review(backup: Backup) -> bool:
    """Nothing changes while the store has trouble: the next review asks again."""
    rows = lost_objects(backup)
    if any(row.pk == backup.manifest_id for row in rows):
        return _settle(backup, BackupHealth.MISSING, _whole(backup))
    if not rows:
        return _settle(backup, *_healthy(backup))
    try:
        loss = _loss(backup, rows)
    except EngineError as error:
        if isinstance(error, StoreError) and error.transient:
            logger.warning("damage not measured yet", extra={"backup": str(backup.pk), "reason": error.message})
            return False
        # The manifest has the right bytes and still cannot be used: nothing of the backup can be.
        loss = _whole(backup)
    if loss.is_empty:
        return _settle(backup, *_healthy(backup))
    return _settle(backup, BackupHealth.DAMAGED, loss)


def _loss(backup: Backup, rows: list[StoredObject]) -> Loss:
    content = open_content(backup)
    by_kind = {kind: {bytes.fromhex(row.sha256) for row in rows if row.kind == kind} for kind in ObjectKind}
    packs, segments = by_kind[ObjectKind.PACK], by_kind[ObjectKind.INDEX]
    sessions = _lost_sessions(backup, content.body, by_kind[ObjectKind.KEY])
    relocations = relocations_of(content)
    if content.body.content == CONTENT_DISK:
        reader = content.map_reader(lost_segments=segments)
        found = lost_ranges(reader, packs=packs, sessions=sessions, relocations=relocations)
        return Loss.of(found, most=LISTED_RANGES)
    affected = affected_ranges(
        manifest=content.info,
        object_source=content.source,
        map_key=content.keys.map_key,
        lost_segments=segments,
        is_lost=loss_of_entries(packs, sessions, relocations),
    )
    return Loss.of_chunks(affected, most=LISTED_RANGES)


def _lost_sessions(backup: Backup, body: ManifestBody, lost_envelopes: set[bytes]) -> set[bytes]:
    """Sessions whose envelope is lost, unless a rotation made another one that is whole."""
    lost = {session.session_id for session in body.sessions if session.envelope.sha256 in lost_envelopes}
    if not lost or backup.manifest is None:
        return lost
    whole = Envelope.objects.filter(
        stored_object__domain_id=backup.manifest.domain_id,
        stored_object__status__in=PRESENT,
        stored_object__damaged_since=None,
        writer_session__in=[session.hex() for session in lost],
    )
    return lost - {bytes.fromhex(session) for session in whole.values_list("writer_session", flat=True)}


def _whole(backup: Backup) -> Loss:
    return Loss(((0, backup.size_bytes),), backup.size_bytes)


def _healthy(backup: Backup) -> tuple[BackupHealth, Loss]:
    """What it was before: every byte is again what was verified, if it ever was."""
    return (BackupHealth.VERIFIED if backup.verified_at else BackupHealth.UNVERIFIED), Loss((), 0)


def _settle(backup: Backup, health: BackupHealth, loss: Loss) -> bool:
    damage = loss.as_json()
    if (backup.health, backup.damaged_bytes, backup.damage) == (health, loss.total_bytes, damage):
        return False
    with transaction.atomic():
        Backup.objects.filter(pk=backup.pk).update(health=health, damage=damage, damaged_bytes=loss.total_bytes)
        tell_of_health(backup, before=backup.health, after=health, damaged_bytes=loss.total_bytes)
    logger.warning(
        "health of a backup changed",
        extra={"backup": str(backup.pk), "health": str(health), "damaged_bytes": loss.total_bytes},
    )
    return True
