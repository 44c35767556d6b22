"""Blocks that lie elsewhere by now (`r/` objects): what a pack's absence really costs a backup."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial

from engine.alone.bucket import Bucket, BucketSource, StoredVersion, read_fitting
from engine.alone.catalogue import OpenDomain
from engine.alone.layout import sha256_of_key
from engine.alone.parallel import ordered_results
from engine.codec import OBJECT_SIZE_MAX
from engine.errors import EngineError, StoreError, StoreNotFoundError
from engine.index import MapEntry, resolve
from engine.manifest import CONTENT_DISK, ObjectEntry
from engine.ranges import ByteRange, survey_damage
from engine.relocations import Relocations, moved_places, parse_relocations
from engine.repository import MapReader, open_manifest
from engine.store.base import ObjectKind, ObjectRef, object_key
from engine.stream_survey import affected_ranges

# Relocation objects may be large, so few are on their way at once.
_OBJECTS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class _Step:
    """From which packs one object leads to which others."""

    versions: list[StoredVersion]
    old_packs: frozenset[bytes]
    packs: tuple[ObjectEntry, ...]


class Moves:
    """The relocations of one domain. Remembers their tables of packs only; rows are read when they matter."""

    def __init__(self, bucket: Bucket, domain: OpenDomain) -> None:
        self._bucket = bucket
        self._domain = domain
        self._known: list[_Step] | None = None

    def relevant(self, packs: Collection[bytes]) -> list[Relocations]:
        """All that may lead away from one of these packs, by however many steps."""
        wanted = set(packs)
        waiting, chosen = list(self._steps()), list[_Step]()
        while True:
            reached = [step for step in waiting if step.old_packs & wanted]
            if not reached:
                break
            chosen += reached
            waiting = [step for step in waiting if not step.old_packs & wanted]
            wanted.update(entry.sha256 for step in reached for entry in step.packs)
        found = ordered_results(self._read, (step.versions for step in chosen), at_once=_OBJECTS_AT_ONCE)
        return [relocations for relocations in found if relocations is not None]

    def pack_refs(self) -> list[ObjectRef]:
        """Every pack that something was moved into."""
        return [self._ref(entry) for step in self._steps() for entry in step.packs]

    def is_whole(
        self, manifest_ref: ObjectRef, gone_packs: Collection[ObjectEntry], *, bad_packs: Collection[bytes] = ()
    ) -> bool:
        """Whether every block that the backup needs of `gone_packs` lies elsewhere by now, and not in `bad_packs`."""
        packs = {entry.sha256 for entry in gone_packs}
        moved = {pack for step in self._steps() for pack in step.old_packs}
        return packs <= moved and not any(True for _ in self._lost_ranges(manifest_ref, packs, bad_packs))

    def _lost_ranges(
        self, manifest_ref: ObjectRef, packs: Collection[bytes], bad_packs: Collection[bytes]
    ) -> Iterator[ByteRange]:
        """What of a backup is lost without these packs (of a tree: in its files). Reads the map, no pack."""
        source = BucketSource(self._bucket)
        map_key = self._domain.domain_keys.map_key
        writers = self._domain.description.body.writers
        manifest = open_manifest(
            manifest_ref=manifest_ref, object_source=source, trusted_writers=writers, map_key=map_key
        )
        relocations = self.relevant(packs)
        gone = {*packs, *bad_packs, *self._gone_targets(source, relocations)}
        if manifest.body.content == CONTENT_DISK:
            reader = MapReader(manifest=manifest, object_source=source, map_key=map_key)
            yield from survey_damage(reader, gone, relocations=relocations)
            return
        affected = affected_ranges(
            manifest=manifest, object_source=source, map_key=map_key, is_lost=partial(_is_lost, gone, relocations)
        )
        yield from ((found.offset, found.lost_bytes) for found in affected)

    def _gone_targets(self, source: BucketSource, relocations: list[Relocations]) -> Iterator[bytes]:
        for entry in {entry.sha256: entry for relocation in relocations for entry in relocation.packs}.values():
            try:
                source.locate(self._ref(entry))
            except EngineError as error:
                if error.transient:
                    raise
                yield entry.sha256

    def _ref(self, entry: ObjectEntry) -> ObjectRef:
        sha256 = entry.sha256.hex()
        place = self._domain.place
        key = object_key(tenant=place.tenant, domain=place.domain, kind=ObjectKind.PACK, sha256=sha256)
        return ObjectRef(key, sha256, entry.size_bytes, entry.version_id)

    def _steps(self) -> list[_Step]:
        if self._known is None:
            groups = self._bucket.versions(self._domain.place.prefix(ObjectKind.RELOCATION))
            found = ordered_results(self._step, groups, at_once=_OBJECTS_AT_ONCE)
            self._known = [step for step in found if step is not None]
        return self._known

    def _step(self, versions: list[StoredVersion]) -> _Step | None:
        relocations = self._read(versions)
        if relocations is None:
            return None
        return _Step(versions, frozenset(relocations.old_packs), relocations.packs)

    def _read(self, versions: list[StoredVersion]) -> Relocations | None:
        """None for what is no sound relocation object: it cannot help, and must not stop what works without it."""
        place, sha256 = self._domain.place, sha256_of_key(versions[0].key)
        map_key = self._domain.domain_keys.map_key
        try:
            found = read_fitting(self._bucket, versions, sha256=sha256, size_max=OBJECT_SIZE_MAX)
            if found is None:
                raise StoreNotFoundError("no version has the bytes that its name promises")
            return parse_relocations(found.data, tenant=place.tenant, domain=place.domain, map_key=map_key)
        except StoreError as error:
            if error.transient:
                raise
            return None
        except EngineError:
            return None


def _is_lost(gone: Collection[bytes], relocations: list[Relocations], entry: MapEntry) -> bool:
    """Whether neither the chunk's own pack is there nor one that it was moved to."""
    return resolve(entry.object_name) in gone and all(place.pack in gone for place in moved_places(relocations, entry))
