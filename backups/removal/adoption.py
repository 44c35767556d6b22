"""Taking in what the vault has and the database does not know: objects into the ledger, backups into the catalogue.

Used when a database was restored from an older copy. Every step may be broken off and run again: what is left to do is
found from the ledger, never from what a pass had in hand.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import DataError, IntegrityError, transaction
from django.db.models import Exists, F, OuterRef, QuerySet

from agents.models import Disk, WriterKey
from backups.accounting import account_commit, hold_accounts
from backups.models import Backup, Session
from backups.moved_packs import note_moved
from backups.moves import Moves, open_relocations, write_moves
from backups.removal.claims import NotAdoptableError, free_sequence, read_claims
from backups.removal.covering import Cover, find_cover
from backups.states import BackupStatus
from common.errors import BackupsiteError, UnavailableError
from engine.codec import OBJECT_SIZE_MAX
from engine.errors import EngineError, StoreError
from engine.manifest import ManifestInfo, parse_manifest
from engine.map_survey import mapped_records
from engine.store.base import ObjectKind, object_key
from vaults.custody import domain_keys_of
from vaults.damage import Damage
from vaults.envelopes import record_missing
from vaults.ledger import hold_for_commit
from vaults.models import Domain, ObjectUse, StoredObject, Vault
from vaults.own_objects import NO_SESSION
from vaults.reading import KeeperSource
from vaults.storage import (
    Credential,
    ListedVersion,
    StorageRefusedError,
    StorageUnreachableError,
    read_object,
    see_object,
)

logger = logging.getLogger(__name__)

NOTE = "Taken into the catalogue again from the vault."
_ROWS_AT_ONCE = 500
# t/<tenant>/d/<domain>/<kind>/..., by the names in docs/format.md, section 2.
_KEY = re.compile(r"t/([^/]+)/d/([^/]+)/(?:m/[^/]+/[0-9]{20}-|[pikcr]/)([0-9a-f]{64})", re.ASCII)
_GONE_CODES = frozenset({"404", "NoSuchKey", "NoSuchVersion", "NotFound"})
Status = StoredObject.Status
_PRESENT = (Status.STORED, Status.CONDEMNED)


@dataclass(slots=True)
class AdoptionResult:
    unknown_count: int = 0
    backup_count: int = 0
    relocation_count: int = 0
    # What stays in the vault without its place in the catalogue, and why; the next pass tries it again.
    refused: list[str] = field(default_factory=list)
    # The same of objects that a person has acknowledged: nothing waits for them.
    known_bad: list[str] = field(default_factory=list)
    acknowledged: frozenset[str] = frozenset()

    def problems_of(self, key: str) -> list[str]:
        return self.known_bad if key in self.acknowledged else self.refused

    @property
    def is_idle(self) -> bool:
        """Whether ledger and vault agreed, so that there was nothing to do."""
        return not (self.unknown_count or self.backup_count or self.relocation_count or self.refused)


def adopt(
    vault: Vault,
    versions: Collection[ListedVersion],
    *,
    now: datetime,
    acknowledged: frozenset[str] = frozenset(),
) -> AdoptionResult:
    """Rows for unknown objects of known domains; then each manifest and relocation that has no place yet gets its own.

    One that cannot be taken in is told and does not keep the others; `acknowledged` are keys that a person knows to be
    bad. `now` is the store's time. Raises UnavailableError
    for store trouble; the next pass goes on from there.
    """
    unknown_count = sum(version.key not in acknowledged for version in versions)
    result = AdoptionResult(unknown_count=unknown_count, acknowledged=acknowledged)
    _record(vault, versions, result, now)
    # A repack of our own that was broken off left relocations that nobody needs.
    relocations = _ownerless(vault, ObjectKind.RELOCATION).exclude(session_id=NO_SESSION)
    for relocation in relocations.filter(relocated_packs=None):
        with told_in(result.problems_of(relocation.key), relocation.key):
            result.relocation_count += adopt_relocation(vault, relocation)
    for manifest in _ownerless(vault, ObjectKind.MANIFEST).filter(backup=None):
        with told_in(result.problems_of(manifest.key), manifest.key):
            adopt_manifest(vault, manifest, now=now)
            result.backup_count += 1
    _record_envelopes(vault, result)
    return result


def _ownerless(vault: Vault, kind: ObjectKind) -> QuerySet[StoredObject]:
    """Present objects that no session of this database granted: what our own sessions did not commit is not ours."""
    own = Session.objects.filter(pk=OuterRef("session_id"))
    rows = StoredObject.objects.filter(~Exists(own), vault=vault, kind=kind, status__in=_PRESENT)
    return rows.select_related("vault__endpoint", "domain").order_by("key")


@contextmanager
def told_in(problems: list[str], key: str) -> Iterator[None]:
    """Note why something could not be done with this object, and go on. Store trouble passes through."""
    try:
        yield
    except UnavailableError as error:
        if not is_gone(error):
            raise
        problems.append(f"{key} is not in the vault any more")
    except BackupsiteError as error:
        problems.append(error.message)
    except (ValueError, OverflowError, DataError, IntegrityError) as error:
        logger.exception("an object of the vault could not be taken in", extra={"key": key})
        problems.append(f"{key} could not be taken in ({type(error).__name__})")


def is_gone(error: UnavailableError) -> bool:
    """Whether the store says that there is no such object, and not that it has trouble."""
    return isinstance(error, StorageRefusedError) and error.extra.get("store_code") in _GONE_CODES


# --- rows of objects --------------------------------------------------------------------------------------------------


def _record(vault: Vault, versions: Iterable[ListedVersion], result: AdoptionResult, now: datetime) -> None:
    domains = {str(domain.pk): domain for domain in Domain.objects.filter(vault=vault)}
    rows: list[StoredObject] = []
    for version in _oldest_per_key(versions):
        match = _KEY.fullmatch(version.key)
        domain = domains.get(match[2]) if match is not None else None
        if match is None or domain is None or match[1] != str(vault.tenant_id):
            problems = result.problems_of(version.key)
            problems.append(f"{version.key} belongs to no domain that is known")
            continue
        with told_in(result.problems_of(version.key), version.key):
            rows.append(_row(vault, domain, version, match[3], now))
        if len(rows) == _ROWS_AT_ONCE:
            StoredObject.objects.bulk_create(rows, ignore_conflicts=True)
            rows = []
    StoredObject.objects.bulk_create(rows, ignore_conflicts=True)


def _oldest_per_key(versions: Iterable[ListedVersion]) -> list[ListedVersion]:
    """The version that was written first: whoever may only add versions cannot pass off another."""
    oldest: dict[str, ListedVersion] = {}
    for version in versions:
        known = oldest.get(version.key)
        if known is None or version.modified_at < known.modified_at:
            oldest[version.key] = version
    return list(oldest.values())


def _row(vault: Vault, domain: Domain, version: ListedVersion, sha256: str, now: datetime) -> StoredObject:
    seen = see_object(vault, key=version.key, version_id=version.version_id)
    return StoredObject(
        vault=vault,
        domain=domain,
        session_id=domain.pk,
        kind=version.key.split("/")[4],
        key=version.key,
        size_bytes=version.size_bytes,
        sha256=sha256,
        md5_base64=_md5_base64(version.etag),
        status=Status.STORED,
        version_id=version.version_id,
        retain_until=seen.retain_until or version.modified_at,
        granted_at=now,
    )


def _md5_base64(etag: str) -> str:
    """The etag of an object that was stored in one request is its MD5."""
    try:
        return base64.b64encode(bytes.fromhex(etag)).decode()[:24]
    except ValueError:
        return ""


def _record_envelopes(vault: Vault, result: AdoptionResult) -> None:
    """A restore asks the ledger whose key an envelope holds; that of adopted ones is read now."""
    unread = StoredObject.objects.filter(
        vault=vault, kind=ObjectKind.KEY, session_id=F("domain_id"), status__in=_PRESENT, envelope=None
    ).filter(used_by__isnull=False)
    for domain in Domain.objects.filter(pk__in=set(unread.values_list("domain_id", flat=True))).order_by("pk"):
        with told_in(result.refused, f"a key envelope of the domain {domain.pk}"):
            record_missing(domain, credential=Credential.KEEPER)


# --- manifests and relocations ----------------------------------------------------------------------------------------


def adopt_manifest(vault: Vault, manifest: StoredObject, *, now: datetime) -> Backup:
    """A backup in the catalogue for a manifest whose objects are all there.

    `now` is the vault's time. Raises NotAdoptableError, ObjectRemovedError, UnavailableError.
    """
    info = read_found(vault, manifest)
    claims = read_claims(info, key=manifest.key, sha256=manifest.sha256, now=now)
    cover = cover_of(vault, manifest, info, now=now)
    gone = {row.key for row in cover.gone}
    refs = [ref for ref in info.body.needed_refs() if ref.key not in gone]
    needed = [*_present(manifest, {ref.key: ref.size_bytes for ref in refs}), *cover.stand_ins]
    needed = list({row.pk: row for row in needed}.values())
    # Of the domain's own server: a host must not bring backups for disks of another.
    disks = Disk.objects.select_related("server").filter(server__domain_id=manifest.domain_id)
    disk = disks.filter(pk=info.body.source_id).first()
    with transaction.atomic():
        hold_accounts([manifest.domain_id])
        note_cover(vault, manifest, cover)
        hold_for_commit([manifest.pk, *(row.pk for row in needed)])
        uses = [ObjectUse(manifest=manifest, needed=row) for row in needed]
        ObjectUse.objects.bulk_create(uses, batch_size=_ROWS_AT_ONCE, ignore_conflicts=True)
        backup = Backup.objects.create(
            tenant_id=manifest.domain.held_for_id or vault.tenant_id,
            vault=vault,
            server=disk.server if disk is not None else None,
            disk=disk,
            manifest=manifest,
            name=claims.name,
            server_name=claims.server_name or "unknown",
            disk_number=disk.number if disk is not None else claims.disk_number,
            status=BackupStatus.OK,
            note=NOTE,
            finished_at=claims.created_at,
            size_bytes=claims.size_bytes,
            read_bytes=claims.read_bytes,
            changed_bytes=claims.changed_bytes,
            content=claims.content,
            counts=claims.counts,
            sequence=free_sequence(claims, disk),
            immutable_until=min(row.retain_until for row in [manifest, *needed]),
        )
        # Retention and people go by when it was made, not by when it was found again.
        Backup.objects.filter(pk=backup.pk).update(created_at=claims.created_at)
        account_commit(manifest.pk)
    logger.warning("backup taken into the catalogue again", extra={"backup": backup.name, "vault": vault.name})
    return backup


def cover_of(vault: Vault, manifest: StoredObject, info: ManifestInfo, *, now: datetime) -> Cover:
    """What stands in for packs that were moved and are gone. Empty when all is there, or when nothing does.

    Raises UnavailableError.
    """
    entries = {_key_of(manifest, ObjectKind.PACK, entry.sha256): entry for entry in info.body.packs}
    rows = _rows_of(manifest.domain_id, list(entries))
    there = {row.key for row in rows if row.status in _PRESENT and row.damage != Damage.MISSING}
    missing = {entry.sha256: entry for key, entry in entries.items() if key not in there}
    if not missing:
        return Cover()
    versions = {ref.key: ref.version_id for ref in info.body.needed_refs() if ref.version_id}
    rows = _rows_of(manifest.domain_id, [ref.key for ref in info.body.needed_refs()])
    source = KeeperSource(vault, versions=versions | {row.key: row.version_id for row in rows})
    try:
        map_key = domain_keys_of(manifest.domain).map_key
        mapped = mapped_records(manifest=info, object_source=source, map_key=map_key)
        return find_cover(vault, manifest.domain, mapped, missing, now=now) or Cover()
    except EngineError as error:
        if isinstance(error, StoreError) and error.transient:
            raise StorageUnreachableError(f"The map of {manifest.key} cannot be read now: {error.message}.") from error
        return Cover()


def note_cover(vault: Vault, manifest: StoredObject, cover: Cover) -> None:
    """In the transaction that takes a manifest in: rows of its packs that are gone, and what leads on from them.

    Raises NotAdoptableError, UnverifiedObjectError, ObjectRemovedError, UnavailableError.
    """
    for row in cover.gone:
        if row.pk is None:
            row.save(force_insert=True)
    for relocation in cover.relocations:
        adopt_relocation(vault, relocation)
    note_moved(manifest, cover.gone)


def read_found(vault: Vault, manifest: StoredObject) -> ManifestInfo:
    """The manifest, opened with the map key. Raises NotAdoptableError, UnavailableError."""
    _check_size(manifest)
    data = read_object(vault, key=manifest.key, version_id=manifest.version_id, credential=Credential.KEEPER)
    trusted = [bytes(key) for key in WriterKey.objects.values_list("public_key", flat=True)]
    domain = manifest.domain
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise NotAdoptableError(f"{manifest.key} is not what its name says")
    try:
        info = parse_manifest(data, trusted_writers=trusted, map_key=domain_keys_of(domain).map_key)
    except EngineError as error:
        raise NotAdoptableError(f"{manifest.key} cannot be read: {error.message}") from error
    if (info.body.tenant, info.body.domain) != (str(vault.tenant_id), str(domain.pk)):
        raise NotAdoptableError(f"{manifest.key} is of another tenant or domain")
    return info


def _check_size(row: StoredObject) -> None:
    if row.size_bytes > OBJECT_SIZE_MAX:
        raise NotAdoptableError(f"{row.key} is larger than any object of ours")


def adopt_relocation(vault: Vault, relocation: StoredObject) -> bool:
    """Note what a relocation object leads to; False when no pack is known that it moves blocks out of.

    Raises NotAdoptableError, UnverifiedObjectError, ObjectRemovedError, UnavailableError.
    """
    _check_size(relocation)
    found = open_relocations(vault, relocation)
    sizes = {_key_of(relocation, ObjectKind.PACK, pack.sha256): pack.size_bytes for pack in found.packs}
    for session in found.sessions:
        sizes[_key_of(relocation, ObjectKind.KEY, session.envelope.sha256)] = session.envelope.size_bytes
    needed = _present(relocation, sizes)
    old_packs = _rows_of(relocation.domain_id, [_key_of(relocation, ObjectKind.PACK, name) for name in found.old_packs])
    if not old_packs:
        return False
    with transaction.atomic():
        hold_for_commit([relocation.pk, *(row.pk for row in needed)])
        write_moves([Moves(relocation, old_packs, needed)])
    return True


def _key_of(row: StoredObject, kind: ObjectKind, sha256: bytes) -> str:
    return object_key(tenant=str(row.domain.tenant_id), domain=str(row.domain_id), kind=kind, sha256=sha256.hex())


def _present(row: StoredObject, sizes: Mapping[str, int]) -> list[StoredObject]:
    """The rows of all that `row` needs, by key and size. Raises NotAdoptableError unless each is in the vault."""
    found = _rows_of(row.domain_id, list(sizes))
    whole = [other for other in found if other.status in _PRESENT and other.size_bytes == sizes[other.key]]
    if len(whole) != len(sizes):
        raise NotAdoptableError(f"{row.key} needs {len(sizes) - len(whole)} objects that are not in the vault")
    return whole


def _rows_of(domain_id: UUID, keys: list[str]) -> list[StoredObject]:
    found: list[StoredObject] = []
    for start in range(0, len(keys), _ROWS_AT_ONCE):
        found += StoredObject.objects.filter(domain_id=domain_id, key__in=keys[start : start + _ROWS_AT_ONCE])
    return found
