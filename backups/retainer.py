"""Retention of one definition: decided by the pure rule, carried out on the catalogue; bytes go after the lock."""

from __future__ import annotations

import logging
from datetime import datetime

from backups.models import Backup
from backups.states import BackupStatus
from definitions.models import Definition
from definitions.retention import Candidate, to_remove

logger = logging.getLogger(__name__)


def apply_retention(*, definition_id: str, now: datetime) -> int:
    """Take the surplus backups of the definition out of the catalogue; returns how many. May run twice."""
    definition = Definition.objects.filter(pk=definition_id).first()
    if definition is None:
        return 0
    good = Backup.objects.in_catalogue().filter(definition=definition, status=BackupStatus.OK)
    candidates = [Candidate(*row) for row in good.values_list("id", "created_at", "slot_at")]
    surplus = [candidate.id for candidate in to_remove(candidates=candidates, keep=definition.retention_count)]
    removed = Backup.objects.filter(pk__in=surplus, status=BackupStatus.OK, removed_at=None).update(removed_at=now)
    if removed:
        logger.info("retention removed backups", extra={"definition": definition_id, "count": removed})
    return removed


def apply_retention_everywhere(*, now: datetime) -> int:
    """The daily run: retention of every definition, for what a lost message left."""
    return sum(
        apply_retention(definition_id=str(pk), now=now) for pk in Definition.objects.values_list("pk", flat=True)
    )
