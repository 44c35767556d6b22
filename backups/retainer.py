"""Retention of one definition: decided by the pure rule, carried out on the catalogue; bytes go after the lock."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Count, QuerySet

from backups.catalogue import take_out
from backups.models import Backup
from backups.states import BackupHealth, BackupStatus
from definitions.keeping import surplus_of
from definitions.models import Definition
from definitions.retention import Candidate
from tenants.audit import record
from vaults.models import Alarm, Vault

logger = logging.getLogger(__name__)

# Definitions of one task of the daily run: others get their turn on the queue in between.
BATCH = 200
# What a mover says of a tree in which a file system of the backup before is not mounted any more.
MOUNT_MISSING = "mount_missing"
_UNHEALTHY = {BackupHealth.DAMAGED, BackupHealth.MISSING}
# While one of these stands, an old backup may be the only good one: a person looks first.
_FREEZING = (
    "objects_missing",
    "objects_altered",
    "damaged_objects",
    "unknown_objects",
    "condemned_object_needed",
    "probe_failed",
)


def apply_retention(*, definition_id: str, now: datetime) -> int:
    """Take the surplus backups of the definition out of the catalogue; returns how many. May run twice."""
    definition = Definition.objects.select_related("vault").filter(pk=definition_id).first()
    if definition is None:
        return 0
    if definition.vault is not None and anomalies(definition.vault):
        logger.warning("retention waits while something is wrong with the vault", extra={"definition": definition_id})
        return 0
    good = Backup.objects.in_catalogue().filter(definition=definition, status=BackupStatus.OK)
    if _lacks_a_mount(good):
        logger.warning("retention waits while a file system is not mounted", extra={"definition": definition_id})
        return 0
    candidates = [
        Candidate(pk, created_at, slot_at, healthy=health not in _UNHEALTHY, verified=health == BackupHealth.VERIFIED)
        for pk, created_at, slot_at, health in good.values_list("id", "created_at", "slot_at", "health")
    ]
    surplus = [candidate.id for candidate in surplus_of(definition, candidates, now=now)]
    removed = _take_out(definition, surplus, now=now)
    if removed:
        logger.info("retention removed backups", extra={"definition": definition_id, "count": removed})
    return removed


def _lacks_a_mount(good: QuerySet[Backup]) -> bool:
    """Whether the newest one lacks the files of a file system that was not mounted: only older ones have them."""
    newest = good.order_by("-created_at").values_list("warnings", flat=True).first()
    return any(warning.get("code") == MOUNT_MISSING for warning in newest or [])


@transaction.atomic
def _take_out(definition: Definition, surplus: list[UUID], *, now: datetime) -> int:
    removed = take_out(surplus, statuses=[BackupStatus.OK], now=now)
    if removed:
        facts = {"backups": removed, "rules": asdict(definition.rules)}
        record(action="retention.applied", subject=definition, after=facts)
    return len(removed)


def anomalies(vault: Vault) -> list[str]:
    """Codes of the standing alarms during which no backup is taken out of the catalogue by rule."""
    return sorted(Alarm.objects.standing().filter(vault=vault, code__in=_FREEZING).values_list("code", flat=True))


def apply_retention_everywhere(*, now: datetime) -> int:
    """Retention of every definition, for what a lost message left. Returns how many backups were removed."""
    removed, after = 0, None
    while True:
        count, after = apply_retention_from(after=after, now=now)
        removed += count
        if after is None:
            return removed


def apply_retention_from(*, after: UUID | None, now: datetime, most: int = BATCH) -> tuple[int, UUID | None]:
    """A part of the daily run: of the next definitions behind `after`. How many backups went, and where to go on."""
    rows = Definition.objects.order_by("pk")
    following = rows.filter(pk__gt=after) if after is not None else rows
    keys = list(following.values_list("pk", flat=True)[:most])
    # One backup is always kept: there is nothing to decide.
    several = Backup.objects.in_catalogue().filter(definition__in=keys, status=BackupStatus.OK).order_by()
    counted = several.values_list("definition").annotate(count=Count("pk")).filter(count__gt=1)
    removed = sum(apply_retention(definition_id=str(pk), now=now) for pk, _ in counted)
    return removed, keys[-1] if len(keys) == most else None
