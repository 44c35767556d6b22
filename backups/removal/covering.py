"""A manifest that is found and whose packs are not all there: whether relocations stand in for what it reads in them.

For catalogues that are made again, from the whole vault or for a part of it. A pack that was moved and removed leaves
no trace in the bucket but the relocation objects; every record that the map names must be found through them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import Q

from backups.moves import open_relocations
from engine.index import MapEntry, resolve
from engine.manifest import ObjectEntry
from engine.relocations import Relocations, moved_places
from engine.store.base import ObjectKind, object_key
from vaults.damage import PRESENT, Damage
from vaults.keeper import UnverifiedObjectError
from vaults.models import Domain, StoredObject, Vault
from vaults.reading import MISSING_CODES
from vaults.storage import StorageRefusedError

# What is known to be damaged stands in for nothing; one with a short lock has all its bytes.
_WHOLE = Q(status__in=PRESENT) & (Q(damaged_since=None) | Q(damage=Damage.SHORT_LOCK))


@dataclass(slots=True)
class Cover:
    """Rows of the packs that are gone, of the relocation objects that lead on, and of the packs they lead to."""

    gone: list[StoredObject] = field(default_factory=list)
    relocations: list[StoredObject] = field(default_factory=list)
    packs: list[StoredObject] = field(default_factory=list)

    @property
    def stand_ins(self) -> list[StoredObject]:
        return [*self.relocations, *self.packs]


def find_cover(
    vault: Vault, domain: Domain, mapped: Iterable[MapEntry], missing: Mapping[bytes, ObjectEntry], *, now: datetime
) -> Cover | None:
    """What stands in for these packs (by SHA-256); None when a record that the map names there is found nowhere.

    `mapped` is every record that the map names. Rows of `gone` may be new: they are not saved. Raises UnavailableError,
    or the engine's errors for store trouble and for a map that cannot be read.
    """
    opened = _leading_on(vault, domain, set(missing))
    packs = _packs_at(domain, mapped, missing, [relocations for _, relocations in opened])
    if packs is None:
        return None
    gone = [_row_of(vault, domain, entry, now=now) for entry in missing.values()]
    return Cover(gone=gone, relocations=[row for row, _ in opened], packs=packs)


def _leading_on(vault: Vault, domain: Domain, packs: set[bytes]) -> list[tuple[StoredObject, Relocations]]:
    """Relocations out of these packs, and out of those they lead to. What cannot be read leads nowhere."""
    rows = StoredObject.objects.filter(_WHOLE, domain=domain, kind=ObjectKind.RELOCATION)
    waiting = list(_readable(vault, rows.select_related("domain").order_by("pk")))
    found: list[tuple[StoredObject, Relocations]] = []
    while next_ones := [item for item in waiting if not packs.isdisjoint(item[1].old_packs)]:
        found += next_ones
        waiting = [item for item in waiting if item not in next_ones]
        packs = {entry.sha256 for _, relocations in next_ones for entry in relocations.packs}
    return found


def _readable(vault: Vault, rows: Iterable[StoredObject]) -> Iterator[tuple[StoredObject, Relocations]]:
    for row in rows:
        try:
            yield row, open_relocations(vault, row)
        except UnverifiedObjectError:
            continue
        except StorageRefusedError as error:
            if error.extra.get("store_code") not in MISSING_CODES:
                raise


def _packs_at(
    domain: Domain, mapped: Iterable[MapEntry], missing: Mapping[bytes, ObjectEntry], relocations: list[Relocations]
) -> list[StoredObject] | None:
    """The packs in which every record is that the map names in the missing ones, as many as the manifest says."""
    names = {entry.sha256 for found in relocations for entry in found.packs}
    rows = StoredObject.objects.filter(_WHOLE, domain=domain, kind=ObjectKind.PACK)
    there = {bytes.fromhex(row.sha256): row for row in rows.filter(sha256__in=[name.hex() for name in names])}
    used: dict[bytes, StoredObject] = {}
    counted: Counter[bytes] = Counter()
    for entry in (entry for entry in mapped if resolve(entry.object_name) in missing):
        place = next((place for place in moved_places(relocations, entry) if place.pack in there), None)
        if place is None:
            return None
        used[place.pack] = there[place.pack]
        counted[resolve(entry.object_name)] += 1
    is_whole = all(counted[name] == entry.use_count for name, entry in missing.items())
    return list(used.values()) if is_whole else None


def _row_of(vault: Vault, domain: Domain, entry: ObjectEntry, *, now: datetime) -> StoredObject:
    """The ledger's row of a pack that is gone, or a new one that says so."""
    sha256 = entry.sha256.hex()
    key = object_key(tenant=str(domain.tenant_id), domain=str(domain.pk), kind=ObjectKind.PACK, sha256=sha256)
    present = StoredObject.objects.filter(vault=vault, key=key).first()
    return present or StoredObject(
        vault=vault,
        domain=domain,
        session_id=domain.pk,
        kind=str(ObjectKind.PACK),
        key=key,
        size_bytes=entry.size_bytes,
        sha256=sha256,
        md5_base64="",
        status=StoredObject.Status.DELETED,
        version_id=entry.version_id or "",
        retain_until=now,
        granted_at=now,
        deleted_at=now,
    )
