"""The ledger and the catalogue of one domain, made again in bulk from listings and manifests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeVar

from django.db import transaction

from backups.models import Backup
from backups.rebuild.places import Places, note_tree
from backups.removal.adoption import NOTE, adopt_relocation, note_cover, told_in
from backups.removal.claims import Claims, NotAdoptableError, free_sequence, read_claims
from backups.removal.covering import Cover, find_cover
from backups.states import BackupStatus
from engine.alone.bucket import Bucket, BucketSource, read_fitting
from engine.alone.catalogue import OpenDomain
from engine.alone.layout import ManifestPlace, find_manifests
from engine.codec import OBJECT_SIZE_MAX
from engine.errors import EngineError, StoreError
from engine.manifest import CONTENT_TREE, ManifestInfo, parse_manifest
from engine.map_survey import mapped_records
from engine.store.base import ObjectKind
from vaults.marking import object_name
from vaults.models import ObjectUse, StoredObject

T = TypeVar("T")
_ROWS_AT_ONCE = 2000
_LISTED_KINDS = (ObjectKind.PACK, ObjectKind.INDEX, ObjectKind.KEY, ObjectKind.CONFIG, ObjectKind.RELOCATION)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(slots=True)
class DomainResult:
    object_count: int = 0
    backup_count: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Manifest:
    place: ManifestPlace
    info: ManifestInfo
    claims: Claims
    version_id: str
    size_bytes: int
    names: tuple[bytes, ...]
    promised_until: datetime


def rebuild_domain(bucket: Bucket, found: OpenDomain, places: Places, *, now: datetime) -> DomainResult:
    """Rows of all objects, and a backup for each manifest that is whole. May run again: what is there stays.

    Nobody looks at each object's lock here. What the manifests promise is a date that every lock reaches at least; the
    daily checks find the true ones.
    """
    result = DomainResult()
    manifests = list(_read_manifests(bucket, found, places, result, now))
    noted, promised = _from_manifests(manifests)
    rows_there = {row_name(kind, sha256): (pk, status) for pk, kind, sha256, status in _rows_of(places)}
    known = {name: pk for name, (pk, status) in rows_there.items() if status != StoredObject.Status.DELETED}
    fresh = (row for row in _listed(bucket, found, places, noted, promised, now) if name_of(row) not in rows_there)
    for rows in _parts(fresh):
        StoredObject.objects.bulk_create(rows)
        result.object_count += len(rows)
        known.update((name_of(row), row.pk) for row in rows)
    for manifest in manifests:
        _add_if_whole(bucket, manifest, found.domain_keys.map_key, places, known, result, now)
    _add_moves(places, result)
    return result


def row_name(kind: str, sha256: str) -> bytes:
    return object_name(kind, bytes.fromhex(sha256))


def name_of(row: StoredObject) -> bytes:
    return row_name(row.kind, row.sha256)


def _rows_of(places: Places) -> Iterable[tuple[int, str, str, str]]:
    rows = StoredObject.objects.filter(domain=places.domain).values_list("pk", "kind", "sha256", "status")
    return rows.iterator(chunk_size=10_000)


def _read_manifests(
    bucket: Bucket, found: OpenDomain, places: Places, result: DomainResult, now: datetime
) -> Iterator[_Manifest]:
    for place in find_manifests(bucket, found.place):
        try:
            yield _read_manifest(bucket, found, places, place, now)
        except StoreError:
            raise
        except NotAdoptableError as error:
            result.problems.append(error.message)
        except (EngineError, ValueError) as error:
            result.problems.append(f"{place.versions[0].key}: {error}")


def _read_manifest(bucket: Bucket, found: OpenDomain, places: Places, place: ManifestPlace, now: datetime) -> _Manifest:
    fitting = read_fitting(bucket, place.versions, sha256=place.sha256, size_max=OBJECT_SIZE_MAX)
    if fitting is None or fitting.ref.version_id is None:
        raise ValueError("no version of it has the bytes that its name promises")
    info = parse_manifest(
        fitting.data, trusted_writers=found.description.body.writers, map_key=found.domain_keys.map_key
    )
    claims = read_claims(info, key=place.versions[0].key, sha256=place.sha256, now=now)
    body = info.body
    names = [object_name(ObjectKind.PACK, entry.sha256) for entry in body.packs]
    names += [object_name(ObjectKind.INDEX, entry.sha256) for entry in body.segments]
    names += [object_name(ObjectKind.KEY, entry.envelope.sha256) for entry in body.sessions]
    # The time is the host's word, but never far ahead: this date may lengthen locks for good.
    until = claims.created_at + timedelta(days=places.immutable_days)
    return _Manifest(place, info, claims, fitting.ref.version_id, fitting.ref.size_bytes, tuple(names), until)


def _from_manifests(manifests: Iterable[_Manifest]) -> tuple[dict[bytes, str], dict[bytes, datetime]]:
    """Per object the version that a manifest noted, and the latest date that one promised."""
    noted: dict[bytes, str] = {}
    promised: dict[bytes, datetime] = {}
    for manifest in manifests:
        body = manifest.info.body
        entries = [*body.packs, *body.segments, *(session.envelope for session in body.sessions)]
        for name, entry in zip(manifest.names, entries, strict=True):
            if entry.version_id is not None:
                noted[name] = entry.version_id
            promised[name] = max(promised.get(name, manifest.promised_until), manifest.promised_until)
    return noted, promised


def _listed(
    bucket: Bucket,
    found: OpenDomain,
    places: Places,
    noted: dict[bytes, str],
    promised: dict[bytes, datetime],
    now: datetime,
) -> Iterator[StoredObject]:
    newest = found.description.sha256
    for kind in _LISTED_KINDS:
        prefix = found.place.prefix(kind)
        for versions in bucket.versions(prefix):
            sha256 = versions[0].key.removeprefix(prefix)
            if not _SHA256.fullmatch(sha256):
                continue
            name = row_name(kind, sha256)
            chosen = next((item for item in versions if item.version_id == noted.get(name)), versions[0])
            until = promised.get(name, now)
            # Of several descriptions the one that counts must be the newest here, too.
            since = now - timedelta(days=1) if kind == ObjectKind.CONFIG and sha256 != newest else now
            yield _row(places, kind, chosen.key, sha256, chosen.version_id, chosen.size_bytes, until, since)


def _row(
    places: Places,
    kind: str,
    key: str,
    sha256: str,
    version_id: str,
    size_bytes: int,
    retain_until: datetime,
    now: datetime,
) -> StoredObject:
    return StoredObject(
        vault=places.vault,
        domain=places.domain,
        session_id=places.domain.pk,
        kind=kind,
        key=key,
        size_bytes=size_bytes,
        sha256=sha256,
        md5_base64="",
        status=StoredObject.Status.STORED,
        version_id=version_id,
        retain_until=retain_until,
        granted_at=now,
    )


def _add_if_whole(
    bucket: Bucket,
    manifest: _Manifest,
    map_key: bytes,
    places: Places,
    known: dict[bytes, int],
    result: DomainResult,
    now: datetime,
) -> None:
    key = manifest.place.versions[0].key
    if Backup.objects.filter(manifest__key=key, vault=places.vault).exists():
        return
    missing = {name for name in manifest.names if name not in known}
    with told_in(result.problems, key):
        cover = _cover(bucket, manifest, map_key, places, missing, now) if missing else Cover()
        if len(cover.gone) != len(missing):
            result.problems.append(f"{key}: {len(missing)} of its objects are not in the bucket")
            return
        _add_backup(manifest, places, known, cover, result, now)


def _cover(
    bucket: Bucket, manifest: _Manifest, map_key: bytes, places: Places, missing: set[bytes], now: datetime
) -> Cover:
    """What stands in for packs that were moved and are gone; empty when nothing does."""
    packs = {object_name(ObjectKind.PACK, entry.sha256): entry for entry in manifest.info.body.packs}
    if missing - packs.keys():
        return Cover()
    gone = {packs[name].sha256: packs[name] for name in missing}
    try:
        mapped = mapped_records(manifest=manifest.info, object_source=BucketSource(bucket), map_key=map_key)
        return find_cover(places.vault, places.domain, mapped, gone, now=now) or Cover()
    except StoreError as error:
        if error.transient:
            raise
        return Cover()
    except EngineError:
        return Cover()


def _add_backup(
    manifest: _Manifest,
    places: Places,
    known: dict[bytes, int],
    cover: Cover,
    result: DomainResult,
    now: datetime,
) -> None:
    key = manifest.place.versions[0].key
    is_new = False
    with transaction.atomic():
        sha256, until = manifest.place.sha256, manifest.promised_until
        row = StoredObject.objects.filter(vault=places.vault, key=key).first()
        if row is None:
            row = _row(places, "m", key, sha256, manifest.version_id, manifest.size_bytes, until, now)
            row.save(force_insert=True)
            is_new = True
        note_cover(places.vault, row, cover)
        standing = StoredObject.objects.filter(pk__in=[found.pk for found in cover.stand_ins])
        standing.filter(retain_until__lt=until).update(retain_until=until)
        ids = [known[name] for name in manifest.names if name in known] + [found.pk for found in cover.stand_ins]
        uses = (ObjectUse(manifest=row, needed_id=pk) for pk in dict.fromkeys(ids))
        for part in _parts(uses):
            ObjectUse.objects.bulk_create(part, ignore_conflicts=True)
        backup = _backup(manifest, places, row)
        backup.save(force_insert=True)
        # Retention and people go by when it was made, not by when it was found again.
        Backup.objects.filter(pk=backup.pk).update(created_at=manifest.claims.created_at)
    result.object_count += is_new
    result.backup_count += 1


def _add_moves(places: Places, result: DomainResult) -> None:
    """What relocation objects lead to; one that cannot be read is told, and stays in the ledger as it is."""
    rows = StoredObject.objects.filter(
        domain=places.domain, kind=ObjectKind.RELOCATION, status=StoredObject.Status.STORED, relocated_packs=None
    )
    for row in rows.select_related("domain").order_by("key"):
        with told_in(result.problems, row.key):
            adopt_relocation(places.vault, row)


def _backup(manifest: _Manifest, places: Places, row: StoredObject) -> Backup:
    claims = manifest.claims
    disk = places.disks.get(manifest.info.body.source_id)
    if disk is not None and claims.content == CONTENT_TREE:
        note_tree(disk)
    return Backup(
        tenant_id=places.server.tenant_id,
        vault=places.vault,
        server=places.server,
        disk=disk,
        name=claims.name,
        server_name=claims.server_name or places.server.name,
        disk_number=disk.number if disk is not None else 0,
        status=BackupStatus.OK,
        note=NOTE,
        finished_at=claims.created_at,
        size_bytes=claims.size_bytes,
        read_bytes=claims.read_bytes,
        changed_bytes=claims.changed_bytes,
        content=claims.content,
        counts=claims.counts,
        sequence=free_sequence(claims, disk),
        manifest=row,
        immutable_until=manifest.promised_until,
    )


def _parts(items: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(items)
    while part := list(islice(remaining, _ROWS_AT_ONCE)):
        yield part
