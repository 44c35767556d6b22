"""Which records of a pack are live: read from the signed maps of all manifests that hold objects, with the map key.

A pack is left out when anything about it is unclear: map entries that are not as many as the manifest says, or two that
say different things about one place. Then it stays where it is. So does, for this run, what is too much to be held in
memory at once.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from backups.removal.roots import all_writers
from engine.index import MapEntry, resolve
from engine.manifest import SessionEntry
from engine.map_survey import mapped_records
from engine.relocations import ROW_BYTES
from engine.repository import open_manifest
from engine.store.base import ObjectKind, ObjectRef
from vaults.custody import domain_keys_of
from vaults.models import Domain, ObjectUse, StoredObject
from vaults.reading import KeeperSource

# Some 450 bytes of memory each. The packs with most of them are left out beyond that: they are the costliest to move.
RECORDS_AT_ONCE = 400_000


@dataclass(slots=True)
class LiveRecords:
    """Per pack (row id) its live records by offset; `needing` are the manifests that read them.

    Manifests of one disk mostly read the same of a pack: equal lists of offsets are kept once.
    """

    records: dict[int, dict[int, MapEntry]] = field(default_factory=dict)
    needing: dict[int, dict[int, Sequence[int]]] = field(default_factory=dict)
    sessions: dict[bytes, SessionEntry] = field(default_factory=dict)
    _count: int = 0
    _kept: dict[bytes, Sequence[int]] = field(default_factory=dict)

    def live_bytes(self, pack: StoredObject) -> int:
        """What the store holds of them once they were moved: the live records, and the rows that lead to them."""
        return sum(entry.record_length + ROW_BYTES for entry in self.records[pack.pk].values())

    def needed_by(self, pack: StoredObject) -> dict[int, Sequence[int]]:
        """Manifest (row id) -> the offsets that it reads in the pack."""
        return self.needing.get(pack.pk, {})

    def add(self, pack_id: int, entry: MapEntry) -> None:
        """A map names this record of the pack."""
        records = self.records.get(pack_id)
        if records is None:
            return
        present = records.get(entry.offset)
        if present is None:
            records[entry.offset] = entry
            self._count += 1
            if self._count > RECORDS_AT_ONCE:
                self.drop(max(self.records, key=lambda pack: len(self.records[pack])))
        elif present != entry:
            # Two maps say different things about one place: at least one of them is wrong.
            self.drop(pack_id)

    def note(self, pack_id: int, manifest_id: int, offsets: Collection[int]) -> None:
        """The manifest reads the records at these offsets of the pack."""
        if pack_id in self.records:
            found = array("I", sorted(offsets))
            self.needing.setdefault(pack_id, {})[manifest_id] = self._kept.setdefault(found.tobytes(), found)

    def drop(self, pack_id: int) -> None:
        self._count -= len(self.records.pop(pack_id, ()))
        self.needing.pop(pack_id, None)


def find_live(domain: Domain, manifests: Collection[StoredObject], packs: Collection[StoredObject]) -> LiveRecords:
    """Live records of these packs. Raises the engine's errors for manifests and maps that cannot be used."""
    by_name = {bytes.fromhex(pack.sha256): pack.pk for pack in packs}
    live = LiveRecords(records={pack.pk: {} for pack in packs})
    naming = ObjectUse.objects.filter(manifest__in=manifests, needed__in=packs)
    names = set(naming.values_list("manifest_id", flat=True))
    writers, map_key = all_writers(), domain_keys_of(domain).map_key
    for row in manifests:
        if row.pk in names:
            _add(domain, row, by_name, live, writers=writers, map_key=map_key)
    return live


def _add(
    domain: Domain,
    row: StoredObject,
    by_name: dict[bytes, int],
    live: LiveRecords,
    *,
    writers: Collection[bytes],
    map_key: bytes,
) -> None:
    versions = dict(
        StoredObject.objects.filter(used_by__manifest=row, kind=ObjectKind.INDEX).values_list("key", "version_id")
    )
    source = KeeperSource(domain.vault, versions=versions)
    ref = ObjectRef(row.key, row.sha256, row.size_bytes, row.version_id)
    info = open_manifest(manifest_ref=ref, object_source=source, trusted_writers=writers, map_key=map_key)
    told = {by_name[entry.sha256]: entry.use_count for entry in info.body.packs if entry.sha256 in by_name}
    entries = mapped_records(manifest=info, object_source=source, map_key=map_key)
    counted, offsets = _walk(entries, by_name, live)
    for pack_id in told.keys() | counted.keys():
        if told.get(pack_id) == counted[pack_id]:
            live.note(pack_id, row.pk, offsets[pack_id])
        else:
            live.drop(pack_id)
    live.sessions |= {session.session_id: session for session in info.body.sessions}


def _walk(
    entries: Iterable[MapEntry], by_name: dict[bytes, int], live: LiveRecords
) -> tuple[Counter[int], dict[int, set[int]]]:
    """Note what one map names in these packs. Per pack how many entries name something in it, and their offsets."""
    counted: Counter[int] = Counter()
    offsets: dict[int, set[int]] = {}
    for entry in entries:
        pack_id = by_name.get(resolve(entry.object_name))
        if pack_id is not None:
            live.add(pack_id, entry)
            counted[pack_id] += 1
            offsets.setdefault(pack_id, set()).add(entry.offset)
    return counted, offsets
