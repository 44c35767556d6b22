"""Which records of a pack are live: read from the signed maps of all manifests that hold objects, with the map key.

A pack is left out when anything about it is unclear: a manifest that names it and is no disk image, or map entries that
are not as many as the manifest says. Then it stays where it is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from backups.removal.roots import all_writers
from engine.errors import FormatError
from engine.index import MapEntry, resolve
from engine.manifest import CONTENT_DISK, SessionEntry
from engine.repository import MapReader, open_manifest, walk_leaves
from engine.store.base import ObjectKind, ObjectRef
from vaults.custody import domain_keys_of
from vaults.models import Domain, ObjectUse, StoredObject
from vaults.reading import KeeperSource


@dataclass(slots=True)
class LiveRecords:
    """Per pack (row id) its live records by offset; `needing` are the manifests that read them.

    Manifests of one disk mostly read the same of a pack: equal sets of offsets are kept once.
    """

    records: dict[int, dict[int, MapEntry]] = field(default_factory=dict)
    needing: dict[int, dict[int, frozenset[int]]] = field(default_factory=dict)
    sessions: dict[bytes, SessionEntry] = field(default_factory=dict)
    _kept: dict[frozenset[int], frozenset[int]] = field(default_factory=dict)

    def live_bytes(self, pack: StoredObject) -> int:
        return sum(entry.record_length for entry in self.records[pack.pk].values())

    def needed_by(self, pack: StoredObject) -> dict[int, frozenset[int]]:
        """Manifest (row id) -> the offsets that it reads in the pack."""
        return self.needing.get(pack.pk, {})

    def note(self, pack_id: int, manifest_id: int, entries: Collection[MapEntry]) -> None:
        """The manifest reads these records of the pack."""
        records = self.records.get(pack_id)
        if records is None:
            return
        if any(records.setdefault(entry.offset, entry) != entry for entry in entries):
            # Two maps say different things about one place: at least one of them is wrong.
            self.drop(pack_id)
            return
        offsets = frozenset(entry.offset for entry in entries)
        self.needing.setdefault(pack_id, {})[manifest_id] = self._kept.setdefault(offsets, offsets)

    def drop(self, pack_id: int) -> None:
        self.records.pop(pack_id, None)
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
    told = {entry.sha256: entry.use_count for entry in info.body.packs if entry.sha256 in by_name}
    if info.body.content != CONTENT_DISK:
        for name in told:
            live.drop(by_name[name])
        return
    found = _walk(MapReader(manifest=info, object_source=source, map_key=map_key), by_name)
    for name in told.keys() | found.keys():
        if told.get(name) == len(found.get(name, ())):
            live.note(by_name[name], row.pk, found[name])
        else:
            live.drop(by_name[name])
    live.sessions |= {session.session_id: session for session in info.body.sessions}


def _walk(reader: MapReader, by_name: dict[bytes, int]) -> dict[bytes, list[MapEntry]]:
    """The entries of one map that lie in these packs."""
    found: dict[bytes, list[MapEntry]] = {}
    for span in walk_leaves(reader):
        if span.entries is None:
            raise FormatError("a page of a block map cannot be read", code="map_unreadable")
        for entry in span.entries.values():
            name = resolve(entry.object_name)
            if name in by_name:
                found.setdefault(name, []).append(entry._replace(slot=0))
    return found
