"""What a session opens with: the work message of a backup or a restore. Runs only in the signer process.

A backup gets no key that opens earlier backups; a restore gets the keys of just the sessions that its manifest needs.
"""

from __future__ import annotations

import logging
import os

import msgspec
from django.conf import settings
from django.db import transaction
from django.db.models import Max, Q
from django.utils import timezone

from agents.models import Disk, Server, WriterKey
from agents.protocol import BackupWork, DiskMessage, ObjectMessage, RestoreWork, Work
from backups.copies.opening import open_copy
from backups.models import Backup, Session
from backups.moved_packs import fallen_packs_of, moved_packs_of
from backups.moves import moves_for
from backups.points import good_backups, kept_points, safety_name, why_no_point
from backups.promises import lock_rule_of
from backups.resuming import resumable_sessions
from backups.services import refuse_unready
from backups.states import JobKind
from backups.transitions import DISK_MADE, mark_incomplete
from common.errors import ConflictError
from engine.store.base import ObjectKind
from tenants import quotas
from tenants.models import QuotaKind
from tenants.services import require_active
from vaults.custody import active_key, opens_with_key_in_use, session_data_keys, sessions_of
from vaults.damage import Damage
from vaults.keys import unwrap_key
from vaults.models import Domain, StoredObject, Vault
from vaults.provisioner import ID_KEY_PURPOSE, MAP_KEY_PURPOSE, new_domain
from vaults.storage import Credential, store_time

logger = logging.getLogger(__name__)

BLOCK_SIZE_BYTES = 64 * 1024
COMPRESSION_LEVEL = 1


def open_session(session: Session, *, tells_target: bool = True) -> Work:
    """The work of the session. May be called again: sequence, base and lock date stay as they were."""
    if session.job.backup is not None and session.job.backup.is_copy:
        return _open_copy(session)
    if session.job.kind == JobKind.RESTORE:
        work = _open_restore(session)
        if not tells_target:
            mark_incomplete(session.job.disk_id, now=timezone.now())
        return work
    return _open_backup(session)


def _open_copy(session: Session) -> Work:
    job = session.job
    if job.kind == JobKind.BACKUP and job.definition is not None:
        refuse_unready(job.definition)
        if session.fence == 1:
            _admit(session)
    return open_copy(session, disk=disk_message(job.disk) if job.disk is not None else None)


def _open_backup(session: Session) -> BackupWork:
    job, backup = session.job, session.job.backup
    if backup is None or job.definition is None:
        raise ConflictError("The definition of this backup was deleted meanwhile.", code="definition_deleted")
    refuse_unready(job.definition)
    _admit(session)
    vault = backup.vault
    domain = _domain_of(job.disk.server, vault)
    if session.retain_until is None:
        _settle(session, vault)
    key = active_key(job.tenant_id)
    now = timezone.now()
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
        trusted_writers=trusted_writers(domain),
        base=object_message(session.base.manifest) if session.base and session.base.manifest else None,
        resumable=resumable_sessions(session, now),
        distrusted=_distrusted(session.base),
        bandwidth_bytes_per_second=min(
            filter(None, (job.definition.bandwidth_limit, job.granted_bandwidth)), default=0
        ),
        base_point=session.base.point if session.base is not None and not session.full_reason else "",
        kept_points=sorted(kept_points(job.disk.server.disks.all(), now=now)),
        new_point=session.new_point,
        freeze=job.definition.freeze_filesystem,
    )


def _admit(session: Session) -> None:
    """Whether the tenant may start this. Asked once per job: what runs, or is taken over, is never broken by it."""
    if Session.objects.filter(job=session.job, retain_until__isnull=False).exists():
        return
    tenant = session.job.tenant
    require_active(tenant)
    with transaction.atomic():
        quotas.check_room(tenant=tenant, kind=QuotaKind.BYTES)


def _distrusted(base: Backup | None) -> list[str]:
    """What the base needs and the vault has not, or not whole: the new backup stores it again."""
    if base is None:
        return []
    needed = StoredObject.objects.filter(used_by__manifest=base.manifest, kind__in=[ObjectKind.PACK, ObjectKind.INDEX])
    damaged = Q(damaged_since__isnull=False) & ~Q(damage=Damage.SHORT_LOCK)
    bad = damaged | ~Q(status__in=[StoredObject.Status.STORED, StoredObject.Status.CONDEMNED])
    fallen = fallen_packs_of(base.manifest) if base.manifest is not None else StoredObject.objects.none()
    return sorted({*needed.filter(bad).values_list("sha256", flat=True), *fallen.values_list("sha256", flat=True)})


def _settle(session: Session, vault: Vault) -> None:
    """Fix what this session writes under: its lock date by the store's clock, its sequence number and its base."""
    disk_id = session.job.disk_id
    now = store_time(vault, Credential.SIGNER)
    with transaction.atomic():
        # Under the vault's row lock: a removal run that begins after this sees the session as older than itself.
        session.epoch = Vault.objects.select_for_update().values_list("epoch", flat=True).get(pk=vault.pk)
        used = Session.objects.filter(job__disk_id=disk_id).aggregate(last=Max("sequence"))["last"]
        taken = Backup.objects.filter(disk_id=disk_id).aggregate(last=Max("sequence"))["last"]
        session.sequence = max(used or 0, taken or 0) + 1
        session.retain_until = lock_rule_of(session.job).lock_until(now)
        session.base = _base_for(session.job.disk, vault)
        session.full_reason = why_no_point(session.base, session.job.disk)
        session.save(update_fields=["epoch", "sequence", "retain_until", "base", "full_reason", "changed_at"])


def _base_for(disk: Disk, vault: Vault) -> Backup | None:
    good = good_backups([disk.pk]).filter(
        vault=vault,
        manifest__domain=disk.server.domain,
        # A manifest that cannot be read is no base; one that was adopted beside another has no place in the order.
        manifest__damaged_since=None,
        sequence__isnull=False,
    )
    newest = good.select_related("manifest__domain").order_by("-sequence").first()
    # What is built on blocks that only an earlier key of the customer's opens would need two recovery keys.
    return newest if newest is not None and opens_with_key_in_use(newest.manifest) else None


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
    moves = moves_for(backup.manifest)
    is_resumed = job.disk.incomplete_since is not None
    if job.creates_disk:
        is_resumed = job.events.filter(code=DISK_MADE).exists()
    disk = disk_message(job.disk)
    return RestoreWork(
        # A disk that is only made belongs to no server on the node yet.
        disk=msgspec.structs.replace(disk, server="") if job.creates_disk else disk,
        tenant=str(domain.tenant_id),
        domain=str(domain.pk),
        manifest=object_message(backup.manifest),
        id_key=_domain_key(domain, domain.wrapped_id_key, ID_KEY_PURPOSE),
        map_key=_domain_key(domain, domain.wrapped_map_key, MAP_KEY_PURPOSE),
        data_keys=_keys_for(domain, backup.manifest, moves),
        trusted_writers=trusted_writers(domain),
        # After a cut, what is on the target already is neither fetched nor written again.
        differential=is_resumed,
        relocations=[object_message(row) for row in moves],
        gone_packs=_gone(backup.manifest) if moves else [],
        size_bytes=backup.size_bytes,
        create=job.creates_disk and not is_resumed,
        defines=bool(job.new_server),
        # What a cut restore left there is worth no snapshot; the first attempt made one of what was there before.
        safety_point="" if job.creates_disk or is_resumed else safety_name(job.pk),
    )


def _gone(manifest: StoredObject) -> list[str]:
    """Packs that need not even be tried. One that is only damaged may still hold most of its blocks."""
    needed = StoredObject.objects.filter(used_by__manifest=manifest, kind=ObjectKind.PACK)
    gone = Q(damage=Damage.MISSING) | ~Q(status__in=[StoredObject.Status.STORED, StoredObject.Status.CONDEMNED])
    moved = moved_packs_of(manifest)
    return sorted({*needed.filter(gone).values_list("sha256", flat=True), *moved.values_list("sha256", flat=True)})


def _keys_for(domain: Domain, manifest: StoredObject, moves: list[StoredObject]) -> dict[str, bytes]:
    """Session -> data key. Those of the manifest must open; those of blocks that were stored again only help."""
    own = sessions_of(manifest)
    keys = session_data_keys(domain, own)
    for session in set().union(*(sessions_of(row) for row in moves)) - own:
        try:
            keys |= session_data_keys(domain, [session])
        except ConflictError as error:
            logger.warning("a relocation's key does not open", extra={"domain": str(domain.pk), "code": error.code})
    return keys


def trusted_writers(domain: Domain) -> list[bytes]:
    """Keys of the nodes that may write for the domain's tenant, and of those that wrote what is in it."""
    allowed = Q(node__tenants=domain.tenant_id) | Q(
        node__in=Backup.objects.filter(manifest__domain=domain).values("node")
    )
    keys = WriterKey.objects.filter(allowed).order_by("pk").values_list("public_key", flat=True)
    return [bytes(key) for key in dict.fromkeys(keys)]


def disk_message(disk: Disk) -> DiskMessage:
    return DiskMessage(
        driver=disk.driver,
        storage_path=disk.storage.path,
        path=disk.path,
        size_bytes=disk.size_bytes,
        server=disk.server.source_name,
    )


def object_message(row: StoredObject) -> ObjectMessage:
    return ObjectMessage(key=row.key, sha256=row.sha256, size_bytes=row.size_bytes, version_id=row.version_id)


def _domain_key(domain: Domain, wrapped: bytes, purpose: str) -> bytes:
    return unwrap_key(master_key=settings.CONFIG.master_key_bytes, wrapped=wrapped, purpose=purpose, owner=domain.pk)
