"""What of a tenant or a vault is still there, before it may go.

    remains_of(tenant), remains_of_vault(vault)                counted now: what removal goes by
    known_remains_of(tenant), known_remains_of_vault(vault)    for people: as it was counted last where it is much

Counting reads every object of the ledger that is there. Who decides sees the time of what was not counted now, and
whatever he asks for is counted anew before anything goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Q, QuerySet, Sum

from backups.figure_models import TenantFigures, VaultFigures
from backups.models import Backup, Job
from engine.store.base import ObjectKind
from tenants.models import Tenant
from vaults.models import StoredObject, Vault

# Objects, or backups, that are counted while somebody waits.
MOST_EXACT = 5_000


@dataclass(frozen=True, slots=True)
class Remains:
    """What of a tenant is still there. `last_lock_ends` is the earliest moment at which everything can be gone.

    `counted_at` is None for what was counted now. Jobs are always counted now.
    """

    backups: int
    jobs: int
    objects: int
    size_bytes: int
    lent_objects: int
    lent_backups: int
    last_lock_ends: datetime | None
    counted_at: datetime | None = None

    @property
    def is_nothing(self) -> bool:
        return not (self.backups or self.jobs or self.objects or self.lent_objects or self.lent_backups)


@dataclass(frozen=True, slots=True)
class VaultRemains:
    """What is still in the vault. `last_lock_ends` is None when nothing in it is locked by a date that we know.

    `counted_at` as in `Remains`.
    """

    backups: int
    objects: int
    size_bytes: int
    last_lock_ends: datetime | None
    counted_at: datetime | None = None

    @property
    def is_nothing(self) -> bool:
        return not (self.backups or self.objects)


def remains_of(tenant: Tenant) -> Remains:
    lent = StoredObject.objects.filter(domain__tenant=tenant).exclude(domain__held_for=None)
    lent_backups = Backup.objects.in_catalogue().filter(vault__tenant=tenant).exclude(tenant=tenant)
    return Remains(
        # Files on storages are erased before their rows go.
        backups=Backup.objects.filter(Q(removed_at=None) | _unerased(), tenant=tenant).count(),
        jobs=_jobs_of(tenant),
        **_of_objects(own_objects(tenant)),
        # Backups of servers that were moved away: this tenant's keys and vault are needed for them.
        lent_objects=lent.exclude(status=StoredObject.Status.DELETED).exclude(kind=ObjectKind.CONFIG).count(),
        lent_backups=lent_backups.count(),
    )


def remains_of_vault(vault: Vault) -> VaultRemains:
    backups = Backup.objects.in_catalogue().filter(vault=vault).count()
    return VaultRemains(backups=backups, **_of_objects(StoredObject.objects.filter(vault=vault)))


def known_remains_of(tenant: Tenant) -> Remains:
    kept = TenantFigures.objects.filter(tenant=tenant).first()
    if kept is None or not _is_much(kept.remains):
        return remains_of(tenant)
    return Remains(**{**_read(kept.remains), "jobs": _jobs_of(tenant)}, counted_at=kept.counted_at)


def known_remains_of_vault(vault: Vault) -> VaultRemains:
    kept = VaultFigures.objects.filter(vault=vault).first()
    if kept is None or not _is_much(kept.remains):
        return remains_of_vault(vault)
    return VaultRemains(**_read(kept.remains), counted_at=kept.counted_at)


def to_keep(remains: Remains | VaultRemains) -> dict[str, Any]:
    """For the column `remains` of the figures."""
    ends = remains.last_lock_ends
    found = {**asdict(remains), "last_lock_ends": ends and ends.isoformat()}
    del found["counted_at"]
    return found


def _read(kept: Mapping[str, Any]) -> dict[str, Any]:
    ends = kept["last_lock_ends"]
    return {**kept, "last_lock_ends": ends and datetime.fromisoformat(ends)}


def _is_much(kept: Mapping[str, Any]) -> bool:
    """Nothing was kept yet by who counted before there was a column for it."""
    return max(kept.get("objects", 0), kept.get("backups", 0)) > MOST_EXACT


def _jobs_of(tenant: Tenant) -> int:
    return Job.objects.active().filter(tenant=tenant).count()


def _unerased() -> Q:
    return Q(storage__isnull=False, erased_at=None) & ~Q(place="")


def own_objects(tenant: Tenant) -> QuerySet[StoredObject]:
    return StoredObject.objects.filter(is_own(tenant))


def is_own(tenant: Tenant, *, path: str = "") -> Q:
    """In its own vaults, and what moved servers left in vaults of others: there, descriptions are the vault's.

    `path` leads to the object, and ends with two underscores.
    """
    elsewhere = Q(**{f"{path}domain__held_for": tenant}) & ~Q(**{f"{path}kind": ObjectKind.CONFIG})
    return elsewhere | Q(**{f"{path}domain__tenant": tenant, f"{path}domain__held_for": None})


def _of_objects(objects: QuerySet[StoredObject]) -> dict[str, Any]:
    left = objects.exclude(status=StoredObject.Status.DELETED)
    sums = {"objects": Count("pk"), "size_bytes": Sum("size_bytes", default=0), "last_lock_ends": Max("retain_until")}
    return left.aggregate(**sums)
