"""Packs that are gone since the database was copied: a repack had moved what backups read there, and removal took them.

The copy knows of neither; adoption has found the relocation objects and the new packs. Each manifest whose records are
all found there needs these from now on, as the database had it that is gone. The rows of the packs go as everything
that nobody needs.
"""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import transaction

from backups.accounting import hold_accounts, recompute
from backups.models import Backup
from backups.removal.adoption import cover_of, note_cover, read_found, told_in
from backups.removal.covering import Cover
from engine.store.base import ObjectKind
from vaults.damage import PRESENT, Damage
from vaults.ledger import hold_for_commit
from vaults.models import ObjectUse, StoredObject, Vault
from vaults.own_objects import lengthen_lock

logger = logging.getLogger(__name__)


def note_moved_since(vault: Vault, *, now: datetime) -> int:
    """Returns for how many manifests. May be broken off and run again. Raises UnavailableError for store trouble.

    A manifest of which a record is found nowhere stays as it is: that is damage. `now` is the vault's time.
    """
    gone = StoredObject.objects.filter(
        vault=vault, kind=ObjectKind.PACK, status__in=PRESENT, damage=Damage.MISSING, relocations__isnull=False
    )
    manifests = StoredObject.objects.filter(
        kind=ObjectKind.MANIFEST, status__in=PRESENT, uses__needed__in=gone.values("pk")
    )
    noted: list[StoredObject] = []
    try:
        for manifest in manifests.distinct().select_related("vault__endpoint", "domain").order_by("pk"):
            noted += [manifest] if _try(vault, manifest, now=now) else []
    finally:
        for domain_id in {manifest.domain_id for manifest in noted}:
            recompute(domain_id)
    if noted:
        facts = {"vault": vault.name, "manifests": len(noted)}
        logger.warning("packs were moved since the database was copied", extra=facts)
    return len(noted)


def _try(vault: Vault, manifest: StoredObject, *, now: datetime) -> bool:
    problems: list[str] = []
    with told_in(problems, manifest.key):
        return _note(vault, manifest, now=now)
    logger.warning("missing packs stay missing", extra={"manifest": manifest.key, "reason": problems[0]})
    return False


def _note(vault: Vault, manifest: StoredObject, *, now: datetime) -> bool:
    cover = cover_of(vault, manifest, read_found(vault, manifest), now=now)
    if not cover.gone:
        return False
    _lock(manifest, cover)
    with transaction.atomic():
        hold_accounts([manifest.domain_id])
        hold_for_commit([row.pk for row in cover.stand_ins])
        note_cover(vault, manifest, cover)
        ObjectUse.objects.filter(manifest=manifest, needed__in=cover.gone).delete()
        uses = [ObjectUse(manifest=manifest, needed=row) for row in cover.stand_ins]
        ObjectUse.objects.bulk_create(uses, ignore_conflicts=True)
    return True


def _lock(manifest: StoredObject, cover: Cover) -> None:
    """What stands in is locked for as long as the backup was promised."""
    promised = Backup.objects.filter(manifest=manifest).values_list("immutable_until", flat=True).first()
    for row in cover.stand_ins:
        if promised is not None:
            lengthen_lock(row, promised)
