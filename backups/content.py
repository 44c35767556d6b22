"""The content of a backup as the control worker can read it: verified manifest, map, relocations. Keeper's credential.

Holds the domain's map key, not the data keys: what is under the map is for the verifier.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import accumulate

from backups.models import Backup
from backups.moves import moves_for
from backups.removal.roots import all_writers
from engine.codec import OBJECT_SIZE_MAX
from engine.crypto import DomainKeys
from engine.errors import EngineError, StoreError
from engine.manifest import ManifestBody, ManifestInfo
from engine.relocations import Relocations, parse_relocations
from engine.repository import MapReader, open_manifest
from engine.store.base import ObjectRef, fetch_whole
from engine.stream_reader import PageReader
from vaults.custody import domain_keys_of
from vaults.damage import Damage
from vaults.models import StoredObject
from vaults.reading import KeeperSource

logger = logging.getLogger(__name__)

# All are in memory at once: 7 MB for a full one (100,000 blocks), 16 MiB at worst.
MOST_RELOCATIONS = 1000
MOST_RELOCATION_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Content:
    """A backup with its manifest opened."""

    manifest: StoredObject
    info: ManifestInfo
    keys: DomainKeys
    source: KeeperSource

    @property
    def ref(self) -> ObjectRef:
        return ref_of(self.manifest)

    @property
    def body(self) -> ManifestBody:
        return self.info.body

    def page_reader(self) -> PageReader:
        """Of a stream or file tree."""
        return PageReader(manifest=self.info, object_source=self.source, map_key=self.keys.map_key)

    def map_reader(self, *, lost_segments: Collection[bytes] = ()) -> MapReader:
        return MapReader(
            manifest=self.info, object_source=self.source, map_key=self.keys.map_key, lost_segments=lost_segments
        )


def open_content(backup: Backup) -> Content:
    """Raises the engine's errors for a manifest that is not what was committed, StoreError for store trouble.

    `backup` comes with its manifest's domain and its vault's endpoint selected.
    """
    manifest = backup.manifest
    if manifest is None:
        raise ValueError("a pending backup has no content")
    source = KeeperSource(backup.vault, versions=_versions(manifest))
    keys = domain_keys_of(manifest.domain)
    info = open_manifest(
        manifest_ref=ref_of(manifest), object_source=source, trusted_writers=all_writers(), map_key=keys.map_key
    )
    return Content(manifest=manifest, info=info, keys=keys, source=source)


def relocations_of(content: Content) -> list[Relocations]:
    """What says where blocks of the backup can be found instead, the newest first: what a restore of it would be given.

    Only what was committed counts; whatever else a writer put under `r/` says nothing. Damaged ones and those that
    cannot be read are left out; one whose lock is too short can be read. Raises StoreError (transient) for trouble of
    the store.
    """
    return [found for _, found in _opened_relocations(content) if found is not None]


def unreadable_relocations(content: Content) -> list[StoredObject]:
    """Those of which nobody knew so far that they cannot be read. Raises as `relocations_of` does."""
    return [row for row, found in _opened_relocations(content) if found is None]


def _opened_relocations(content: Content) -> Iterator[tuple[StoredObject, Relocations | None]]:
    rows = [row for row in moves_for(content.manifest) if row.damaged_since is None or row.damage == Damage.SHORT_LOCK]
    rows.sort(key=lambda row: row.pk, reverse=True)
    ends = accumulate(row.size_bytes for row in rows)
    used = [row for row, end in zip(rows[:MOST_RELOCATIONS], ends, strict=False) if end <= MOST_RELOCATION_BYTES]
    if len(used) < len(rows):
        facts = {"manifest": content.manifest.key, "relocations": len(rows), "used": len(used)}
        logger.warning("more relocations than can be held in memory", extra=facts)
    for row in used:
        yield row, _relocations_in(content, row)


def _relocations_in(content: Content, row: StoredObject) -> Relocations | None:
    """None for an object that is not what was committed, or never was a relocation; the scrub finds out which."""
    body = content.body
    try:
        data = fetch_whole(content.source, ref_of(row), size_max=OBJECT_SIZE_MAX)
        return parse_relocations(data, tenant=body.tenant, domain=body.domain, map_key=content.keys.map_key)
    except EngineError as error:
        if isinstance(error, StoreError) and error.transient:
            raise
        logger.error("a relocation object cannot be read", extra={"key": row.key, "reason": error.message})
        return None


def ref_of(row: StoredObject) -> ObjectRef:
    return ObjectRef(row.key, row.sha256, row.size_bytes, row.version_id)


def _versions(manifest: StoredObject) -> dict[str, str]:
    """Version ids by key of what the manifest needs: a manifest may leave out those that its writer was not told."""
    needed = StoredObject.objects.filter(used_by__manifest=manifest)
    return dict(needed.values_list("key", "version_id").iterator(chunk_size=5000))
