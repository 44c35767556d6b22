"""The step of a repack that counts: proof that the copies are in the vault, then manifests need them instead.

The proof takes nothing on trust from the run that copied: relocation objects and new packs are read back whole, every
live record is looked up in what was read, and each lock is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction

from backups.accounting import hold_accounts, recompute
from backups.models import Backup
from backups.moved_packs import note_moved
from backups.moves import Moves, open_relocations, write_moves
from backups.removal.live_records import LiveRecords
from engine.codec import OBJECT_SIZE_MAX
from engine.errors import EngineError, StoreError
from engine.index import MapEntry
from engine.relocations import Place, Relocations
from engine.store.base import ObjectKind, ObjectRef, fetch_whole
from vaults.keeper import UnverifiedObjectError
from vaults.ledger import hold_for_commit
from vaults.models import Domain, ObjectUse, StoredObject, Vault
from vaults.reading import KeeperSource
from vaults.storage import StorageUnreachableError, see_object

logger = logging.getLogger(__name__)
_PRESENT = (StoredObject.Status.STORED, StoredObject.Status.CONDEMNED)


@dataclass(slots=True)
class _Proof:
    """Relocation rows with what each one needs itself, and for each pack and offset the rows that stand in for it."""

    moves: list[Moves] = field(default_factory=list)
    standing: dict[tuple[int, int], tuple[StoredObject, StoredObject]] = field(default_factory=dict)


def switch(
    domain: Domain,
    packs: Collection[StoredObject],
    live: LiveRecords,
    *,
    new: Collection[StoredObject],
    until: datetime,
) -> int:
    """Let every manifest that reads only moved records of a pack need `new` in its place. Returns how many packs moved.

    Raises UnverifiedObjectError when the proof fails, UnavailableError for store trouble; then nothing has changed.
    """
    for row in new:
        look_at(domain.vault, row, until=until)
    proof = _prove(domain, packs, live, new)
    with transaction.atomic():
        hold_accounts([domain.pk])
        hold_for_commit({row.pk for move in proof.moves for row in (move.relocation, *move.needed)})
        moved: set[int] = set()
        used: set[int] = set()
        for pack in packs:
            for manifest_id in live.needed_by(pack):
                standing = _move(pack, manifest_id, live, proof)
                moved |= {pack.pk} if standing else set()
                used |= {row.pk for row in standing}
        # Where another run was faster, nothing is noted: a relocation is kept as long as a pack that it moves is named.
        write_moves([move for move in proof.moves if move.relocation.pk in used])
        recompute(domain.pk)
    return len(moved)


def look_at(vault: Vault, row: StoredObject, *, until: datetime | None) -> None:
    """The object is in the vault, with its size, locked until then at least (None: no matter until when).

    Raises UnverifiedObjectError, UnavailableError.
    """
    seen = see_object(vault, key=row.key, version_id=row.version_id)
    if seen.size_bytes != row.size_bytes:
        raise UnverifiedObjectError(f"The object {row.key} has another size in the vault than was stored.")
    if until is None:
        return
    if seen.lock_mode != "COMPLIANCE" or seen.retain_until is None or seen.retain_until < until.replace(microsecond=0):
        raise UnverifiedObjectError(f"The object {row.key} is not locked in the vault for as long as was promised.")


def _prove(domain: Domain, packs: Collection[StoredObject], live: LiveRecords, new: Collection[StoredObject]) -> _Proof:
    by_name = {bytes.fromhex(row.sha256): row for row in new if row.kind == ObjectKind.PACK}
    for row in by_name.values():
        _read_back(domain.vault, row)
    proof, opened = _Proof(), []
    old = {bytes.fromhex(pack.sha256): pack for pack in packs}
    for row in (row for row in new if row.kind == ObjectKind.RELOCATION):
        _read_back(domain.vault, row)
        found = open_relocations(domain.vault, row)
        opened.append((row, found))
        needed = [by_name[entry.sha256] for entry in found.packs if entry.sha256 in by_name]
        envelopes = _envelopes(domain, found)
        if len(needed) != len(found.packs) or len(envelopes) != len(found.sessions):
            raise UnverifiedObjectError(f"The relocation object {row.key} leads to what is not there.")
        proof.moves.append(Moves(row, [old[name] for name in found.old_packs if name in old], [*needed, *envelopes]))
    for pack in packs:
        for offset, entry in live.records[pack.pk].items():
            proof.standing[pack.pk, offset] = _stand_in(pack, entry, opened, by_name)
    return proof


def _stand_in(
    pack: StoredObject,
    entry: MapEntry,
    opened: Collection[tuple[StoredObject, Relocations]],
    by_name: dict[bytes, StoredObject],
) -> tuple[StoredObject, StoredObject]:
    for row, relocations in opened:
        place = relocations.find(bytes.fromhex(pack.sha256), entry.offset)
        if place is not None and place.pack in by_name and _is_copy(place, entry):
            return row, by_name[place.pack]
    raise UnverifiedObjectError(f"A live record of {pack.key} was not moved.")


def _is_copy(place: Place, entry: MapEntry) -> bool:
    """The same session, length, compression, nonce and content: the same ciphertext."""
    return (place.entry.session_id, *place.entry[4:]) == (entry.session_id, *entry[4:])


def _envelopes(domain: Domain, found: Relocations) -> list[StoredObject]:
    names = [session.envelope.sha256.hex() for session in found.sessions]
    rows = StoredObject.objects.filter(domain=domain, kind=ObjectKind.KEY, sha256__in=names, status__in=_PRESENT)
    return list(rows)


def _read_back(vault: Vault, row: StoredObject) -> None:
    ref = ObjectRef(row.key, row.sha256, row.size_bytes, row.version_id)
    try:
        fetch_whole(KeeperSource(vault, versions={}), ref, size_max=OBJECT_SIZE_MAX)
    except EngineError as error:
        if isinstance(error, StoreError) and error.transient:
            raise StorageUnreachableError(f"{row.key} cannot be read back now.") from error
        raise UnverifiedObjectError(f"{row.key} is not in the vault as it was stored: {error.message}.") from error


def _move(pack: StoredObject, manifest_id: int, live: LiveRecords, proof: _Proof) -> list[StoredObject]:
    """In the transaction: what the manifest needs now in place of the pack. Nothing when it does not need the pack any
    more: it was moved meanwhile, or is gone."""
    taken, _ = ObjectUse.objects.filter(manifest_id=manifest_id, needed=pack).delete()
    if not taken:
        return []
    manifest = StoredObject.objects.get(pk=manifest_id)
    needed = {row.pk: row for offset in live.needed_by(pack)[manifest_id] for row in proof.standing[pack.pk, offset]}
    _check_promise(manifest, needed.values())
    uses = [ObjectUse(manifest=manifest, needed=row) for row in needed.values()]
    ObjectUse.objects.bulk_create(uses, ignore_conflicts=True)
    note_moved(manifest, [pack])
    return list(needed.values())


def _check_promise(manifest: StoredObject, needed: Collection[StoredObject]) -> None:
    """A backup that was committed since the locks were chosen may have been promised more."""
    promised = Backup.objects.filter(manifest=manifest).values_list("immutable_until", flat=True).first()
    short = [row for row in needed if promised is not None and row.retain_until < promised]
    if short:
        raise UnverifiedObjectError(f"{short[0].key} is locked for less than a backup was promised.")
