"""What a session opens with: the work message of a backup or a restore. Runs only in the signer process.

A backup gets no key that opens earlier backups; a restore gets the keys of just the sessions that its manifest needs.
"""

from __future__ import annotations

import os
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from agents.models import Disk, Server, WriterKey
from agents.protocol import BackupWork, DiskMessage, ObjectMessage, RestoreWork, Work
from backups.models import Backup, Session
from backups.services import refuse_unready
from backups.states import BackupStatus, JobKind
from common.errors import ConflictError
from engine.envelope import unwrap_envelope
from engine.store.base import ObjectKind
from vaults.keys import unwrap_key
from vaults.models import Domain, StoredObject, TenantKey, Vault
from vaults.provisioner import ID_KEY_PURPOSE, MAP_KEY_PURPOSE, TENANT_KEY_PURPOSE, new_domain
from vaults.storage import Credential, read_object, store_time

BLOCK_SIZE_BYTES = 64 * 1024
COMPRESSION_LEVEL = 1


def open_session(session: Session) -> Work:
    """The work of the session. May be called again: sequence, base and lock date stay as they were."""
    if session.job.kind == JobKind.RESTORE:
        return _open_restore(session)
    return _open_backup(session)


def _open_backup(session: Session) -> BackupWork:
    job, backup = session.job, session.job.backup
    if backup is None or job.definition is None:
        raise ConflictError("The definition of this backup was deleted meanwhile.", code="definition_deleted")
    refuse_unready(job.definition)
    vault = backup.vault
    domain = _domain_of(job.disk.server, vault)
    if session.retain_until is None:
        _settle(session, vault)
    key = TenantKey.objects.get(tenant_id=job.tenant_id, status=TenantKey.Status.ACTIVE)
    return BackupWork(
        disk=disk_message(job.disk),
        tenant=str(domain.tenant_id),
        domain=str(domain.pk),
        source_id=str(job.disk_id),
        sequence=session.sequence or 1,
        created_at=backup.created_at,
        id_key=_domain_key(domain, domain.wrapped_id_key, ID_KEY_PURPOSE),
        map_key=_domain_key(domain, domain.wrapped_map_key, MAP_KEY_PURPOSE),
        tenant_public_key=bytes(key.public_key),
        block_size_bytes=BLOCK_SIZE_BYTES,
        compression_level=COMPRESSION_LEVEL,
        source_facts={"server": job.disk.server.name, "disk": str(job.disk.number), "backup": backup.name},
        trusted_writers=trusted_writers(job.tenant_id),
        base=object_message(session.base.manifest) if session.base and session.base.manifest else None,
    )


def _settle(session: Session, vault: Vault) -> None:
    """Fix what this session writes under: its lock date by the store's clock, its sequence number and its base."""
    disk_id = session.job.disk_id
    now = store_time(vault, Credential.SIGNER)
    with transaction.atomic():
        used = Session.objects.filter(job__disk_id=disk_id).aggregate(last=Max("sequence"))["last"]
        taken = Backup.objects.filter(disk_id=disk_id).aggregate(last=Max("sequence"))["last"]
        session.sequence = max(used or 0, taken or 0) + 1
        session.retain_until = vault.lock_rule.lock_until(now)
        session.base = _base_for(session.job.disk, vault)
        session.save(update_fields=["sequence", "retain_until", "base", "changed_at"])


def _base_for(disk: Disk, vault: Vault) -> Backup | None:
    good = Backup.objects.in_catalogue().filter(
        disk=disk, vault=vault, status__in=[BackupStatus.OK, BackupStatus.RESTORE], manifest__domain=disk.server.domain
    )
    return good.order_by("-sequence").first()


def _domain_of(server: Server, vault: Vault) -> Domain:
    """The server's dedup domain; made with the first backup, once even when two sessions race."""
    with transaction.atomic():
        server = Server.objects.select_for_update().get(pk=server.pk)
        if server.domain is None:
            server.domain = new_domain(vault, random_bytes=os.urandom)
            server.save(update_fields=["domain", "changed_at"])
        return server.domain


def _open_restore(session: Session) -> RestoreWork:
    job, backup = session.job, session.job.backup
    if backup is None or backup.manifest is None:
        raise ConflictError("The backup is not there any more.", code="backup_not_ok")
    domain = backup.manifest.domain
    work = RestoreWork(
        disk=disk_message(job.disk),
        tenant=str(domain.tenant_id),
        domain=str(domain.pk),
        manifest=object_message(backup.manifest),
        id_key=_domain_key(domain, domain.wrapped_id_key, ID_KEY_PURPOSE),
        map_key=_domain_key(domain, domain.wrapped_map_key, MAP_KEY_PURPOSE),
        data_keys=_data_keys(backup.vault, backup.manifest),
        trusted_writers=trusted_writers(backup.tenant_id),
    )
    # From here on the target holds neither its old content nor the whole backup, until the restore is done.
    Disk.objects.filter(pk=job.disk_id, incomplete_since=None).update(incomplete_since=timezone.now())
    return work


def _data_keys(vault: Vault, manifest: StoredObject) -> dict[str, bytes]:
    """The data keys of the sessions that the manifest needs, opened with the tenant's private key."""
    tenant_key = TenantKey.objects.get(tenant_id=manifest.domain.tenant_id)
    private_key = unwrap_key(
        master_key=settings.CONFIG.master_key_bytes,
        wrapped=tenant_key.wrapped_private_key,
        purpose=TENANT_KEY_PURPOSE,
        owner=tenant_key.tenant_id,
    )
    keys: dict[str, bytes] = {}
    for row in StoredObject.objects.filter(used_by__manifest=manifest, kind=ObjectKind.KEY):
        data = read_object(vault, key=row.key, version_id=row.version_id, credential=Credential.SIGNER)
        opened = unwrap_envelope(
            data, tenant_private_key=private_key, tenant=str(manifest.domain.tenant_id), domain=str(manifest.domain_id)
        )
        keys[opened.session.session_id.hex()] = opened.session.data_key
    return keys


def trusted_writers(tenant_id: UUID) -> list[bytes]:
    """Keys of the nodes that may write for the tenant, present and past."""
    keys = WriterKey.objects.filter(node__tenants=tenant_id).values_list("public_key", flat=True)
    return [bytes(key) for key in keys]


def disk_message(disk: Disk) -> DiskMessage:
    return DiskMessage(driver=disk.driver, storage_path=disk.storage.path, path=disk.path, size_bytes=disk.size_bytes)


def object_message(row: StoredObject) -> ObjectMessage:
    return ObjectMessage(key=row.key, sha256=row.sha256, size_bytes=row.size_bytes, version_id=row.version_id)


def _domain_key(domain: Domain, wrapped: bytes, purpose: str) -> bytes:
    return unwrap_key(master_key=settings.CONFIG.master_key_bytes, wrapped=wrapped, purpose=purpose, owner=domain.pk)
