"""Packs that a manifest names and does not need, because a repack proved that all it reads there is somewhere else.

The ledger's rows, per manifest and pack: MovedPack in place of the manifest's ObjectUse of the pack, and uses of the
stand-ins: the relocation objects, and of the packs they lead to those that this manifest reads. A manifest that is made
on a base reads of a pack only what the base does, so it takes over what the base's rows say (the commit does that).
A move falls when a stand-in is damaged or gone; then the pack itself is needed again, if it is still there, locked as
long as was promised meanwhile. What stood in for it alone is let go, so that the pack can be moved again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Max, Q, QuerySet

from backups.accounting import hold_accounts, recompute
from engine.store.base import ObjectKind
from vaults.damage import PRESENT, Damage
from vaults.ledger import ObjectRemovedError, hold_for_commit
from vaults.marking import object_name
from vaults.models import MovedPack, ObjectUse, RelocatedPack, StoredObject, Vault
from vaults.own_objects import NO_SESSION, lengthen_lock

_ROWS_AT_ONCE = 500
_SECOND = timedelta(seconds=1)  # Dates of locks are cut to whole seconds.
_DAMAGED = Q(damaged_since__isnull=False) & ~Q(damage=Damage.SHORT_LOCK)


@dataclass(frozen=True, slots=True)
class DomainMoves:
    """Per manifest (row id) the names of the packs that were moved, and of those whose stand-ins are not all good."""

    moved: dict[int, set[bytes]] = field(default_factory=dict)
    fallen: dict[int, set[bytes]] = field(default_factory=dict)


def domains_with_moves(vault: Vault) -> set[UUID]:
    """The domains of the vault in which anything was moved: most have nothing of it."""
    rows = MovedPack.objects.filter(manifest__vault=vault).order_by()
    return set(rows.values_list("manifest__domain", flat=True).distinct())


def moves_of_domain(domain_id: UUID) -> DomainMoves:
    """What the mark must know of a domain."""
    moves = DomainMoves()
    rows = MovedPack.objects.filter(manifest__domain_id=domain_id)
    fallen = fallen_moves(rows)
    for manifest_id, pack_id, sha256 in rows.values_list("manifest_id", "pack_id", "pack__sha256").iterator():
        name = object_name(ObjectKind.PACK, bytes.fromhex(sha256))
        moves.moved.setdefault(manifest_id, set()).add(name)
        if (manifest_id, pack_id) in fallen:
            moves.fallen.setdefault(manifest_id, set()).add(name)
    return moves


def fallen_moves(rows: QuerySet[MovedPack]) -> set[tuple[int, int]]:
    """Of these moves (manifest, pack) those with a stand-in that is damaged or gone."""
    bad = StoredObject.objects.filter(
        _DAMAGED | ~Q(status__in=PRESENT), kind__in=[ObjectKind.PACK, ObjectKind.RELOCATION]
    )
    uses = ObjectUse.objects.filter(manifest__in=rows.values("manifest_id"), needed__in=bad.values("pk"))
    fallen: set[tuple[int, int]] = set()
    for manifest_id, needed_id in uses.values_list("manifest_id", "needed_id"):
        leading = ObjectUse.objects.filter(needed_id=needed_id, manifest__kind=ObjectKind.RELOCATION)
        through = Q(relocation_id=needed_id) | Q(relocation_id__in=leading.values("manifest_id"))
        packs = RelocatedPack.objects.filter(through, relocation__used_by__manifest=manifest_id).values("pack_id")
        found = rows.filter(manifest_id=manifest_id, pack_id__in=packs)
        fallen |= {(manifest_id, pack_id) for pack_id in found.values_list("pack_id", flat=True)}
    return fallen


def moved_packs_of(manifest: StoredObject) -> QuerySet[StoredObject]:
    """The packs that the manifest names and does not need."""
    return StoredObject.objects.filter(moved_from__manifest=manifest)


def fallen_packs_of(manifest: StoredObject) -> QuerySet[StoredObject]:
    """Those of them that cannot be had, or not wholly, where they were moved to."""
    fallen = fallen_moves(MovedPack.objects.filter(manifest=manifest))
    return StoredObject.objects.filter(pk__in=[pack_id for _, pack_id in fallen])


def stand_ins(manifest: StoredObject, packs: Collection[StoredObject]) -> list[StoredObject]:
    """What the manifest needs in place of these of its moved packs: relocation objects, and packs they lead to."""
    ids = [pack.pk for pack in packs]
    found: dict[int, StoredObject] = {}
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        part = ids[start : start + _ROWS_AT_ONCE]
        own = StoredObject.objects.filter(used_by__manifest=manifest).select_related("vault__endpoint", "domain")
        relocations = own.filter(kind=ObjectKind.RELOCATION, relocated_packs__pack__in=part).distinct()
        leading = ObjectUse.objects.filter(manifest__in=relocations.values("pk")).values("needed_id")
        for row in (*relocations, *own.filter(kind=ObjectKind.PACK, pk__in=leading).distinct()):
            found[row.pk] = row
    return list(found.values())


def stand_ins_for_backups(packs: Collection[int]) -> Iterator[tuple[StoredObject, datetime]]:
    """What stands in for these packs (row ids) for backups of the catalogue, and until when it was promised to stay."""
    ids, seen = sorted(packs), set[int]()
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        part = ids[start : start + _ROWS_AT_ONCE]
        moved = MovedPack.objects.filter(
            pack__in=part, manifest__backup__isnull=False, manifest__backup__removed_at=None
        )
        relocations = StoredObject.objects.filter(
            kind=ObjectKind.RELOCATION,
            relocated_packs__pack__in=part,
            used_by__manifest__in=moved.values("manifest_id"),
        )
        for relocation in relocations.distinct():
            promised = relocation.used_by.aggregate(latest=Max("manifest__backup__immutable_until"))["latest"]
            leading = StoredObject.objects.filter(used_by__manifest=relocation, kind=ObjectKind.PACK)
            fresh = [row for row in (relocation, *leading) if row.pk not in seen]
            seen |= {row.pk for row in fresh}
            for row in fresh:
                yield row, promised or row.retain_until


def note_moved(manifest: StoredObject, packs: Collection[StoredObject]) -> None:
    """The manifest does not need these packs. Its uses of their stand-ins are written by the caller. May run twice."""
    rows = [MovedPack(manifest=manifest, pack=pack) for pack in packs]
    MovedPack.objects.bulk_create(rows, batch_size=_ROWS_AT_ONCE, ignore_conflicts=True)


def take_back_fallen(domain_id: UUID) -> int:
    """Let manifests need their packs again where a stand-in is bad and the pack is still whole. Returns how many.

    First their locks are made as long as backups were promised since: until now only those of the stand-ins were.
    Raises UnverifiedObjectError or UnavailableError when a lock cannot be had; then nothing has changed.
    """
    rows = MovedPack.objects.filter(manifest__domain_id=domain_id)
    fallen = fallen_moves(rows)
    if not fallen:
        return 0
    packs = StoredObject.objects.filter(pk__in={pack_id for _, pack_id in fallen}, status__in=PRESENT)
    whole = {row.pk: row for row in packs.exclude(_DAMAGED).select_related("vault__endpoint")}
    chosen = sorted((manifest_id, pack_id) for manifest_id, pack_id in fallen if pack_id in whole)
    for manifest_id, pack_id in chosen:
        manifest = StoredObject.objects.filter(pk=manifest_id)
        until = manifest.aggregate(latest=Max("backup__immutable_until"))["latest"]
        if until is not None:
            lengthen_lock(whole[pack_id], until + _SECOND)
    taken = 0
    with transaction.atomic():
        hold_accounts([domain_id])
        taken = sum(_take_back(manifest_id, pack_id) for manifest_id, pack_id in chosen)
        if taken:
            for manifest_id in {manifest_id for manifest_id, _ in chosen}:
                _let_go(manifest_id)
            _forget_unused(domain_id)
            recompute(domain_id)
    return taken


def _take_back(manifest_id: int, pack_id: int) -> bool:
    try:
        with transaction.atomic():
            hold_for_commit([pack_id])
            ObjectUse.objects.get_or_create(manifest_id=manifest_id, needed_id=pack_id)
            MovedPack.objects.filter(manifest_id=manifest_id, pack_id=pack_id).delete()
    except ObjectRemovedError:
        return False
    return True


def _let_go(manifest_id: int) -> None:
    """The manifest does not need the relocations by which nothing is moved for it any more, nor copies that only they
    lead to. A pack that a host wrote stays: the manifest may name it."""
    moved = MovedPack.objects.filter(manifest_id=manifest_id).values("pack_id")
    own = ObjectUse.objects.filter(manifest_id=manifest_id)
    relocations = own.filter(needed__kind=ObjectKind.RELOCATION)
    relocations.exclude(needed__relocated_packs__pack__in=moved).delete()
    leading = ObjectUse.objects.filter(manifest__in=relocations.values("needed_id")).values("needed_id")
    copies = own.filter(needed__kind=ObjectKind.PACK, needed__session_id=NO_SESSION)
    copies.exclude(needed_id__in=set(leading.values_list("needed_id", flat=True))).delete()


def _forget_unused(domain_id: UUID) -> None:
    """Relocations of a repack by which nothing is moved for anybody need not stay for the packs that they name."""
    unused = StoredObject.objects.filter(
        domain_id=domain_id, kind=ObjectKind.RELOCATION, session_id=NO_SESSION, used_by=None
    )
    RelocatedPack.objects.filter(relocation__in=unused.values("pk")).delete()
