"""What backups take up in a vault: bytes that only one needs, that several need, and that none needs any more.

A backup needs its manifest and everything that the manifest names (the ledger's ObjectUse rows). Of the bytes needed by
backups in the catalogue, `unique` are those that exactly one of them needs, whichever that is; `shared` is the rest. So
the unique bytes of a disk, a server or a tenant are the sum over its backups, and what two backups share counts once.

Each backup's own figures are columns, kept exact by the two transactions that change what is needed:

    hold_accounts(domain_ids)        first, before anything of those domains is changed: one such transaction at a time
    account_commit(manifest_id)      in the commit, when the uses are written and the backup is in the catalogue
    account_removal(manifest_ids)    when `removed_at` of their backups is set
    recompute(domain_id) -> int      everything anew; how many backups had other figures (0 but for a fault)

    usage_of(disk | server | tenant, now=...) -> Usage
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import models, transaction
from django.db.models import Exists, F, OuterRef, Q, Subquery, Sum

from agents.models import Disk, Server
from backups.models import Backup, BackupQuerySet, Session
from engine.store.base import ObjectKind
from tenants.models import Tenant
from vaults.models import Domain, ObjectUse, StoredObject

logger = logging.getLogger(__name__)

Status = StoredObject.Status
# What takes up space: an object that is being removed does until the store has deleted it.
TAKES_SPACE = (Status.STORED, Status.CONDEMNED, Status.DELETING)

_Objects = models.QuerySet[StoredObject]


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes in vaults. `locked` is the part of `pending_delete` that nobody can delete yet."""

    unique_bytes: int
    shared_bytes: int
    locked_bytes: int
    pending_delete_bytes: int

    @property
    def used_bytes(self) -> int:
        """What the backups in the catalogue need."""
        return self.unique_bytes + self.shared_bytes

    @property
    def total_bytes(self) -> int:
        return self.used_bytes + self.pending_delete_bytes


# --- figures of each backup -------------------------------------------------------------------------------------------


def hold_accounts(domain_ids: Collection[UUID]) -> None:
    """Let no other transaction change the figures of these domains until this one ends."""
    list(Domain.objects.select_for_update().filter(pk__in=domain_ids).order_by("pk").values_list("pk", flat=True))


@transaction.atomic
def account_commit(manifest_id: int) -> None:
    """A backup came into the catalogue: what one other needed alone is shared by the two from now on."""
    backup = Backup.objects.select_related("manifest").get(manifest_id=manifest_id)
    if backup.manifest is None or backup.removed_at is not None:
        return
    hold_accounts([backup.manifest.domain_id])
    named = _named_by([manifest_id])
    others = _needing().exclude(manifest_id=manifest_id)
    for other_id, size_bytes in _sole_needers(named, others):
        _move(other_id, to_shared=size_bytes)
    unique_bytes, named_bytes = _sum(named.filter(~Exists(others))), _sum(named)
    _set(backup, unique_bytes=unique_bytes + backup.manifest.size_bytes, shared_bytes=named_bytes - unique_bytes)


@transaction.atomic
def account_removal(manifest_ids: Collection[int]) -> None:
    """Backups left the catalogue: what one other still needs is its own from now on."""
    manifests = sorted(set(manifest_ids))
    hold_accounts(set(StoredObject.objects.filter(pk__in=manifests).values_list("domain_id", flat=True)))
    for other_id, size_bytes in _sole_needers(_named_by(manifests), _needing()):
        _move(other_id, to_shared=-size_bytes)
    removed = Backup.objects.filter(manifest_id__in=manifests).exclude(removed_at=None)
    removed.update(unique_bytes=0, shared_bytes=0)


@transaction.atomic
def add_uses(needed_id: int, manifest_ids: Collection[int]) -> None:
    """Let these manifests need the object as well, as a key rotation does for an envelope; may run twice.

    All are of the object's domain. The figures of their backups, and of the one that needed it alone, are right after.
    """
    needed = StoredObject.objects.get(pk=needed_id)
    hold_accounts([needed.domain_id])
    before = _catalogued_needers(needed_id)
    new = [ObjectUse(manifest_id=manifest_id, needed=needed) for manifest_id in sorted(set(manifest_ids))]
    ObjectUse.objects.bulk_create(new, batch_size=300, ignore_conflicts=True)
    after = _catalogued_needers(needed_id)
    column = "unique_bytes" if len(after) == 1 else "shared_bytes"
    added = Backup.objects.filter(pk__in=after - before)
    added.update(**{column: F(column) + needed.size_bytes})
    if len(before) == 1 < len(after):
        _move(*before, to_shared=needed.size_bytes)


def _catalogued_needers(needed_id: int) -> set[UUID]:
    catalogued = Backup.objects.in_catalogue().filter(manifest__uses__needed=needed_id)
    return set(catalogued.values_list("pk", flat=True))


@transaction.atomic
def recompute(domain_id: UUID) -> int:
    """The figures of all backups of the domain, from the ledger alone. Returns how many were others before.

    That is a fault, but for a caller that has just moved something.
    """
    hold_accounts([domain_id])
    objects = StoredObject.objects.filter(domain_id=domain_id)
    unique = dict(_sole_needers(objects, _needing()))
    backups = Backup.objects.filter(manifest__domain_id=domain_id)
    corrected = 0
    for backup in backups.annotate(named_bytes=Sum("manifest__uses__needed__size_bytes")).select_related("manifest"):
        unique_bytes, own_bytes, named_bytes = unique.get(backup.pk, 0), 0, 0
        if backup.removed_at is None and backup.manifest is not None:
            own_bytes, named_bytes = backup.manifest.size_bytes, backup.named_bytes or 0
        corrected += _set(backup, unique_bytes=own_bytes + unique_bytes, shared_bytes=named_bytes - unique_bytes)
    return corrected


def recompute_everywhere() -> int:
    """Every domain, each in a transaction of its own. Returns how many backups had wrong figures, which is a fault."""
    total = 0
    for domain_id in Domain.objects.order_by("pk").values_list("pk", flat=True):
        if corrected := recompute(domain_id):
            logger.error("figures of backups were corrected", extra={"domain": str(domain_id), "backups": corrected})
        total += corrected
    return total


def _named_by(manifest_ids: Collection[int]) -> _Objects:
    """What the manifests name, each object once. A manifest itself is needed by its own backup alone."""
    return StoredObject.objects.filter(
        pk__in=ObjectUse.objects.filter(manifest_id__in=manifest_ids).values("needed_id")
    )


def _needing() -> models.QuerySet[ObjectUse]:
    """The uses, by backups of the catalogue, of the object of the outer query: a few probes of indexes for each."""
    return ObjectUse.objects.filter(
        needed=OuterRef("pk"), manifest__backup__isnull=False, manifest__backup__removed_at=None
    )


def _sole_needers(objects: _Objects, needing: models.QuerySet[ObjectUse]) -> list[tuple[UUID, int]]:
    """For each backup the bytes of those objects that it needs and no other one of `needing` does."""
    # Asking for a second one stops there: what a hundred backups share costs no more than what two do.
    sole = objects.filter(Exists(needing), ~Exists(needing[1:2]))
    needer = Subquery(needing.values("manifest__backup")[:1])
    summed = sole.annotate(needer=needer).order_by().values("needer").annotate(total=Sum("size_bytes"))
    return list(summed.values_list("needer", "total"))


def _sum(objects: _Objects) -> int:
    return objects.aggregate(total=Sum("size_bytes"))["total"] or 0


def _move(backup_id: UUID, *, to_shared: int) -> None:
    Backup.objects.filter(pk=backup_id).update(
        unique_bytes=F("unique_bytes") - to_shared, shared_bytes=F("shared_bytes") + to_shared
    )


def _set(backup: Backup, *, unique_bytes: int, shared_bytes: int) -> bool:
    """Whether they were others before."""
    if (backup.unique_bytes, backup.shared_bytes) == (unique_bytes, shared_bytes):
        return False
    Backup.objects.filter(pk=backup.pk).update(unique_bytes=unique_bytes, shared_bytes=shared_bytes)
    return True


# --- disks, servers, tenants ------------------------------------------------------------------------------------------


def usage_of(scope: Disk | Server | Tenant, *, now: datetime) -> Usage:
    """What the scope takes up now. Costs a few index probes for each object of its domains.

    Bytes that no backup needs belong to the disk whose sessions stored them. The service's own descriptions of a domain
    (`c/`) are nobody's and not counted.
    """
    backups, objects, unneeded = _scoped(scope)
    in_scope = _needing().filter(manifest__backup__in=backups)
    sums = backups.aggregate(unique=Sum("unique_bytes"), manifests=Sum("manifest__size_bytes"))
    copied_bytes, leaving_bytes = _copies_of(scope)
    unique_bytes = (sums["unique"] or 0) + copied_bytes
    used_bytes = (sums["manifests"] or 0) + _sum(objects.filter(Exists(in_scope))) + copied_bytes
    spare = _needed_by_none(unneeded).aggregate(
        pending=Sum("size_bytes"), locked=Sum("size_bytes", filter=Q(retain_until__gt=now))
    )
    return Usage(
        unique_bytes=unique_bytes,
        shared_bytes=used_bytes - unique_bytes,
        locked_bytes=spare["locked"] or 0,
        pending_delete_bytes=(spare["pending"] or 0) + leaving_bytes,
    )


def _copies_of(scope: Disk | Server | Tenant) -> tuple[int, int]:
    """Bytes on storages: of copies in the catalogue, and of those that left it and are not erased yet."""
    name = {Disk: "disk", Server: "server", Tenant: "tenant"}[type(scope)]
    copies = Backup.objects.filter(**{name: scope}, storage__isnull=False, erased_at=None)
    found = copies.aggregate(
        kept=Sum("stored_bytes", filter=Q(removed_at=None)),
        leaving=Sum("stored_bytes", filter=Q(removed_at__isnull=False)),
    )
    return found["kept"] or 0, found["leaving"] or 0


def stored_bytes(tenant: Tenant, within: None = None) -> int:
    """Bytes that the tenant takes up in vaults and on storages, needed or not yet deleted: what its quota is about."""
    return bytes_present(StoredObject.objects.filter(_of_tenant(tenant))) + copied_bytes(tenant)


def copied_bytes(scope: Disk | Server | Tenant) -> int:
    """Bytes of its copies on storages, erased ones excepted."""
    return sum(_copies_of(scope))


def bytes_in(domain_ids: Collection[UUID]) -> int:
    """As `stored_bytes`, of these domains."""
    return bytes_present(StoredObject.objects.filter(domain__in=domain_ids))


def bytes_present(objects: _Objects) -> int:
    return _sum(objects.filter(status__in=TAKES_SPACE).exclude(kind=ObjectKind.CONFIG))


def _of_tenant(tenant: Tenant) -> Q:
    """What a moved server left in the vault of its former tenant belongs to the tenant that has it now."""
    return Q(domain__held_for=tenant) | Q(domain__tenant=tenant, domain__held_for=None)


def domains_of(server: Server) -> set[UUID]:
    """The server's domain, and those that it had before it was moved to another tenant."""
    manifests = Backup.objects.filter(server=server, manifest__isnull=False).order_by()
    found = set(manifests.values_list("manifest__domain", flat=True).distinct())
    return found | ({server.domain_id} if server.domain_id else set())


def _scoped(scope: Disk | Server | Tenant) -> tuple[BackupQuerySet, _Objects, _Objects]:
    """The scope's backups in the catalogue, the objects they can need, and those that may be left over from it."""
    catalogue = Backup.objects.in_catalogue().filter(manifest__isnull=False)
    if isinstance(scope, Tenant):
        objects = StoredObject.objects.filter(_of_tenant(scope))
        return catalogue.filter(tenant=scope), objects, objects
    if isinstance(scope, Server):
        objects = StoredObject.objects.filter(domain__in=domains_of(scope))
        return catalogue.filter(server=scope), objects, objects
    objects = StoredObject.objects.filter(domain__in=domains_of(scope.server))
    sessions = Session.objects.filter(job__disk=scope).values("pk")
    return catalogue.filter(disk=scope), objects, objects.filter(session_id__in=sessions)


def _needed_by_none(objects: _Objects) -> _Objects:
    present = objects.filter(status__in=TAKES_SPACE).exclude(kind=ObjectKind.CONFIG)
    catalogued = Backup.objects.in_catalogue().filter(manifest=OuterRef("pk"))
    return present.filter(~Exists(_needing()), ~Exists(catalogued))
