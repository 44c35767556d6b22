"""Relocation objects at the commit: what a healing backup stored again, for the backups that need it too.

A relocation cannot make a restore wrong: what it leads to must have the content id of the signed map. It is checked all
the same: one that leads to objects that are not there would only pretend that a backup is whole.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from django.db.models import Q

from engine.errors import EngineError
from engine.relocations import Relocations, parse_relocations
from engine.store.base import ObjectKind
from vaults.custody import domain_keys_of
from vaults.keeper import UnverifiedObjectError
from vaults.models import ObjectUse, RelocatedPack, StoredObject, Vault
from vaults.storage import Credential, read_object


@dataclass(frozen=True, slots=True)
class Moves:
    """One relocation object, the packs that it moves blocks out of, and what it needs itself."""

    relocation: StoredObject
    old_packs: list[StoredObject]
    needed: list[StoredObject]


def read_moves(vault: Vault, rows: Collection[StoredObject], *, seen: Collection[StoredObject]) -> list[Moves]:
    """Read the relocation objects among `rows`. What they lead to must be among `seen`, which was looked at.

    Raises UnverifiedObjectError.
    """
    known = {(row.kind, row.sha256): row for row in seen}
    return [_read(vault, row, known) for row in rows if row.kind == ObjectKind.RELOCATION]


def _read(vault: Vault, row: StoredObject, known: dict[tuple[str, str], StoredObject]) -> Moves:
    found = open_relocations(vault, row)
    names = [(str(ObjectKind.PACK), entry.sha256.hex()) for entry in found.packs]
    names += [(str(ObjectKind.KEY), session.envelope.sha256.hex()) for session in found.sessions]
    if not all(name in known for name in names):
        raise UnverifiedObjectError(f"The relocation object {row.key} leads to objects that are not of this backup.")
    old = StoredObject.objects.filter(
        domain_id=row.domain_id, kind=ObjectKind.PACK, sha256__in=[sha256.hex() for sha256 in found.old_packs]
    )
    return Moves(row, list(old), [known[name] for name in names])


def open_relocations(vault: Vault, row: StoredObject, *, credential: Credential = Credential.KEEPER) -> Relocations:
    """Read one from the vault. Raises UnverifiedObjectError when it does not open."""
    data = read_object(vault, key=row.key, version_id=row.version_id, credential=credential)
    keys = domain_keys_of(row.domain)
    try:
        return parse_relocations(
            data, tenant=str(row.domain.tenant_id), domain=str(row.domain_id), map_key=keys.map_key
        )
    except EngineError as error:
        raise UnverifiedObjectError(f"The relocation object {row.key} cannot be read: {error.message}.") from error


def write_moves(moves: Collection[Moves]) -> None:
    """Note in the commit's transaction what leads where. May run twice."""
    for move in moves:
        uses = [ObjectUse(manifest=move.relocation, needed=row) for row in move.needed]
        ObjectUse.objects.bulk_create(uses, ignore_conflicts=True)
        packs = [RelocatedPack(relocation=move.relocation, pack=pack) for pack in move.old_packs]
        RelocatedPack.objects.bulk_create(packs, ignore_conflicts=True)


def moves_for(manifest: StoredObject) -> list[StoredObject]:
    """The relocation objects that help a restore of this manifest, also those of packs that were moved again."""
    found: dict[int, StoredObject] = {}
    names = {manifest.pk}
    while names:
        rows = StoredObject.objects.filter(
            kind=ObjectKind.RELOCATION,
            status__in=[StoredObject.Status.STORED, StoredObject.Status.CONDEMNED],
        )
        named = Q(relocated_packs__pack__used_by__manifest__in=names)
        moved = Q(relocated_packs__pack__moved_from__manifest__in=names)
        rows = rows.filter(named | moved).distinct()
        new = {row.pk: row for row in rows if row.pk not in found}
        found |= new
        names = set(new)
    return list(found.values())
