"""Taking in what the vault has and the database does not know: objects into the ledger, backups into the catalogue.

Used when a database was restored from an older copy, and when all rows are made again from the bucket.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import transaction

from agents.models import Disk, WriterKey
from backups.accounting import account_commit
from backups.models import Backup
from backups.states import BackupStatus
from common.errors import BackupsiteError
from engine.errors import EngineError
from engine.manifest import ManifestBody, ManifestInfo, parse_manifest
from engine.store.base import ObjectKind
from vaults.envelopes import record_missing
from vaults.keys import unwrap_key
from vaults.models import Domain, ObjectUse, StoredObject, Vault
from vaults.provisioner import MAP_KEY_PURPOSE
from vaults.storage import Credential, ListedVersion, read_object, see_object

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 500
Status = StoredObject.Status


class NotAdoptableError(BackupsiteError):
    """A manifest of the vault cannot stand in the catalogue; the message says why."""

    code = "not_adoptable"


@dataclass(slots=True)
class AdoptionResult:
    unknown_count: int = 0
    backup_count: int = 0
    refused: list[str] = field(default_factory=list)


def adopt(vault: Vault, versions: Collection[ListedVersion], *, now: datetime) -> AdoptionResult:
    """Rows for unknown objects of known domains; then a backup for each manifest that is whole. May run again."""
    result = AdoptionResult(unknown_count=len(versions))
    domains = {domain.pk: domain for domain in Domain.objects.filter(vault=vault)}
    rows = []
    for version in _oldest_per_key(versions):
        domain = domains.get(_domain_id(version.key))
        if domain is None:
            result.refused.append(f"{version.key} belongs to no domain that is known")
        else:
            rows.append(_row(vault, domain, version, now))
    StoredObject.objects.bulk_create(rows, batch_size=_ROWS_AT_ONCE, ignore_conflicts=True)
    keys = [row.key for row in rows if row.kind == ObjectKind.MANIFEST]
    for manifest in StoredObject.objects.filter(vault=vault, key__in=keys).select_related("vault__endpoint", "domain"):
        try:
            adopt_manifest(vault, manifest, now=now)
            result.backup_count += 1
        except NotAdoptableError as error:
            result.refused.append(error.message)
    for domain in {row.domain for row in rows if row.kind == ObjectKind.KEY}:
        record_missing(domain, credential=Credential.KEEPER)
    return result


def _oldest_per_key(versions: Iterable[ListedVersion]) -> list[ListedVersion]:
    """The version that was written first: whoever may only add versions cannot pass off another."""
    oldest: dict[str, ListedVersion] = {}
    for version in versions:
        known = oldest.get(version.key)
        if known is None or version.modified_at < known.modified_at:
            oldest[version.key] = version
    return list(oldest.values())


def _domain_id(key: str) -> UUID | None:
    parts = key.split("/")
    try:
        return UUID(parts[3]) if len(parts) > 5 and parts[0] == "t" and parts[2] == "d" else None
    except ValueError:
        return None


def _row(vault: Vault, domain: Domain, version: ListedVersion, now: datetime) -> StoredObject:
    seen = see_object(vault, key=version.key, version_id=version.version_id)
    parts = version.key.split("/")
    return StoredObject(
        vault=vault,
        domain=domain,
        session_id=domain.pk,
        kind=parts[4][:1],
        key=version.key,
        size_bytes=version.size_bytes,
        sha256=parts[-1].rpartition("-")[2],
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


def adopt_manifest(vault: Vault, manifest: StoredObject, *, now: datetime) -> Backup:
    """A backup in the catalogue for a manifest whose objects are all there. Raises NotAdoptableError."""
    info = _read(vault, manifest)
    needed = _needed_rows(info.body, manifest)
    with transaction.atomic():
        uses = [ObjectUse(manifest=manifest, needed=row) for row in needed]
        ObjectUse.objects.bulk_create(uses, batch_size=_ROWS_AT_ONCE, ignore_conflicts=True)
        backup, made = Backup.objects.get_or_create(
            manifest=manifest, defaults=_backup_fields(vault, info, [manifest, *needed], now)
        )
        if made:
            # Retention and people go by when it was made, not by when it was found again.
            created = datetime.fromisoformat(info.body.created_at)
            Backup.objects.filter(pk=backup.pk).update(created_at=created)
            account_commit(manifest.pk)
    if made:
        logger.warning("backup taken into the catalogue again", extra={"backup": backup.name, "vault": vault.name})
    return backup


def _read(vault: Vault, manifest: StoredObject) -> ManifestInfo:
    data = read_object(vault, key=manifest.key, version_id=manifest.version_id, credential=Credential.KEEPER)
    trusted = [bytes(key) for key in WriterKey.objects.values_list("public_key", flat=True)]
    domain = manifest.domain
    map_key = unwrap_key(
        master_key=settings.CONFIG.master_key_bytes,
        wrapped=domain.wrapped_map_key,
        purpose=MAP_KEY_PURPOSE,
        owner=domain.pk,
    )
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise NotAdoptableError(f"{manifest.key} is not what its name says")
    try:
        info = parse_manifest(data, trusted_writers=trusted, map_key=map_key)
    except EngineError as error:
        raise NotAdoptableError(f"{manifest.key} cannot be read: {error.message}") from error
    if (info.body.tenant, info.body.domain) != (str(vault.tenant_id), str(domain.pk)):
        raise NotAdoptableError(f"{manifest.key} is of another tenant or domain")
    return info


def _needed_rows(body: ManifestBody, manifest: StoredObject) -> list[StoredObject]:
    refs = {ref.key: ref for ref in body.needed_refs()}
    keys = sorted(refs)
    found: list[StoredObject] = []
    for start in range(0, len(keys), _ROWS_AT_ONCE):
        part = StoredObject.objects.filter(domain_id=manifest.domain_id, key__in=keys[start : start + _ROWS_AT_ONCE])
        found += part.filter(status__in=[Status.STORED, Status.CONDEMNED])
    whole = [row for row in found if row.size_bytes == refs[row.key].size_bytes]
    if len(whole) != len(refs):
        raise NotAdoptableError(f"{manifest.key} needs {len(refs) - len(whole)} objects that are not in the vault")
    return whole


def _backup_fields(vault: Vault, info: ManifestInfo, rows: list[StoredObject], now: datetime) -> dict[str, object]:
    body, facts = info.body, info.source_facts or {}
    disk = Disk.objects.select_related("server").filter(pk=body.source_id, server__tenant=vault.tenant_id).first()
    created = datetime.fromisoformat(body.created_at)
    taken = disk is not None and Backup.objects.filter(disk=disk, sequence=body.sequence).exists()
    return {
        "tenant_id": vault.tenant_id,
        "vault": vault,
        "server": disk.server if disk is not None else None,
        "disk": disk,
        "name": str(facts.get("backup", ""))[:40] or f"recovered-{created:%Y%m%d_%H%M%S}",
        "server_name": str(facts.get("server", ""))[:128] or "unknown",
        "disk_number": disk.number if disk is not None else _number(facts.get("disk")),
        "status": BackupStatus.OK,
        "note": "Taken into the catalogue again from the vault.",
        "finished_at": created,
        "size_bytes": body.size_bytes,
        "read_bytes": body.counters.get("read_bytes"),
        "changed_bytes": body.counters.get("changed_bytes"),
        "sequence": None if taken else body.sequence,
        "immutable_until": min(row.retain_until for row in rows),
    }


def _number(text: object) -> int:
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 5 else 0
