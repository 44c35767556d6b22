"""What a session opens with: the work message of a backup or a restore. Runs only in the signer process.

A backup gets no key that opens earlier backups; a restore gets the keys of just the sessions that its manifest needs.
"""

from __future__ import annotations

import logging
import os
from datetime import timedelta

import msgspec
from django.conf import settings
from django.db import transaction
from django.db.models import Max, Q
from django.utils import timezone

from agents.drivers.registry import content_of
from agents.models import Disk, Server
from agents.protocol import BackupWork, DiskMessage, DrillWork, ObjectMessage, RestoreWork, ServeWork, Work
from backups.copies.opening import open_copy
from backups.file_restores import of_job, path_bytes
from backups.models import Backup, Job, Session
from backups.moved_packs import fallen_packs_of, moved_packs_of
from backups.moves import moves_for
from backups.points import good_backups, kept_points, safety_name, why_no_point
from backups.promises import lock_rule_of
from backups.resuming import resumable_sessions
from backups.services import refuse_unready
from backups.states import JobKind
from backups.transitions import DISK_MADE, mark_incomplete, note_event
from backups.unmade import scratch_name
from backups.writer_keys import writer_keys_of
from common.errors import ConflictError
from definitions.excludes import exclude_lines
from engine.manifest import CONTENT_STREAM, CONTENT_TREE
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
    if session.job.kind == JobKind.VERIFY and session.job.drill_storage is not None:
        return _open_drill(session)
    if session.job.backup is not None and session.job.backup.is_copy:
        return _open_copy(session)
    if session.job.kind == JobKind.RESTORE:
        work = _open_restore(session)
        if not tells_target and session.job.replaces_target:
            mark_incomplete(session.job.disk_id, now=timezone.now())
        return work
    if session.job.kind == JobKind.SERVE:
        return _open_serving(session)
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
        note_place(job, vault)
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
        excludes=exclude_lines(job.definition.excludes),
        base_files=_files_before(job.disk),
    )


def _files_before(disk: Disk) -> int:
    """How many files the last good backup of the tree has, wherever it lies."""
    trees = good_backups([disk.pk]).filter(content=CONTENT_TREE).order_by("-created_at")
    counts = trees.values_list("counts", flat=True).first() or {}
    return int(counts.get("files", 0)) + int(counts.get("hard_links", 0))


def note_place(job: Job, vault: Vault) -> None:
    """A vault in the server's own region is lost together with it. What moved there later is still backed up, for that
    is better than nothing; it is on the job and in the audit, each time.
    """
    region = job.disk.server.region_id if job.disk is not None else None
    if region is not None and region == vault.endpoint.region_id:
        message = f"Server and vault {vault.name} are both in {region}: the backup is lost together with the server."
        note_event(job, at=timezone.now(), code="same_region", message=message)


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
        content=content_of(disk.driver),
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
    wish = of_job(job.files)
    is_new = job.creates_disk or bool(wish.folder)
    is_resumed = job.events.filter(code=DISK_MADE).exists() if is_new else job.disk.incomplete_since is not None
    disk = disk_message(job.disk)
    return msgspec.structs.replace(
        # A disk that is only made belongs to no server on the node yet.
        _reads(backup, msgspec.structs.replace(disk, server="") if job.creates_disk else disk),
        # After a cut, what is on the target already is neither fetched nor written again. A tree that is there is
        # always compared: that is how its files are replaced. What takes a stream may be written over: its name was
        # typed by somebody who was told that all data on it is destroyed.
        differential=is_resumed or (backup.content in {CONTENT_TREE, CONTENT_STREAM} and not is_new),
        create=is_new and not is_resumed,
        defines=bool(job.new_server),
        attach_to=disk.server if job.creates_disk and not job.new_server else "",
        # What a cut restore left there is worth no snapshot; the first attempt made one of what was there before.
        safety_point="" if is_new or is_resumed else safety_name(job.pk),
        paths=[path_bytes(path) for path in wish.paths],
        folder=wish.folder,
        delete_extra=wish.delete_extra,
    )


def _open_drill(session: Session) -> DrillWork:
    job, backup = session.job, session.job.backup
    if backup is None or backup.manifest is None or job.drill_storage is None:
        raise ConflictError("The backup is not there any more.", code="backup_not_ok")
    disk = DiskMessage("image", job.drill_storage.path, scratch_name(job), backup.size_bytes)
    return DrillWork(restore=_reads(backup, disk))


def _open_serving(session: Session) -> ServeWork:
    job, backup = session.job, session.job.backup
    if backup is None or backup.manifest is None:
        raise ConflictError("The backup is not there any more.", code="backup_not_ok")
    begun_at = job.started_at or timezone.now()
    left = timedelta(seconds=job.serve_seconds or 0) - (timezone.now() - begun_at)
    return ServeWork(
        reads=_reads(backup, DiskMessage("", "", "", backup.size_bytes)),
        name=f"serve-{job.pk}",
        seconds=max(0, int(left.total_seconds())),
    )


def _reads(backup: Backup, disk: DiskMessage) -> RestoreWork:
    """What to read the backup with: the keys of the sessions whose blocks it needs, and where lost ones are."""
    manifest = backup.manifest
    domain, moves = manifest.domain, moves_for(manifest)
    return RestoreWork(
        disk=disk,
        tenant=str(domain.tenant_id),
        domain=str(domain.pk),
        manifest=object_message(manifest),
        id_key=_domain_key(domain, domain.wrapped_id_key, ID_KEY_PURPOSE),
        map_key=_domain_key(domain, domain.wrapped_map_key, MAP_KEY_PURPOSE),
        data_keys=_keys_for(domain, manifest, moves),
        trusted_writers=trusted_writers(domain),
        relocations=[object_message(row) for row in moves],
        gone_packs=_gone(manifest) if moves else [],
        size_bytes=backup.size_bytes,
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
    """Public keys of whoever may write in the domain, or wrote there."""
    keys = writer_keys_of(domain).order_by("pk").values_list("public_key", flat=True)
    return [bytes(key) for key in dict.fromkeys(keys)]


def disk_message(disk: Disk) -> DiskMessage:
    return DiskMessage(
        driver=disk.driver,
        # An agent's disk is its whole server.
        storage_path=disk.storage.path if disk.storage is not None else "",
        path=disk.path,
        size_bytes=disk.size_bytes,
        server=disk.server.source_name,
    )


def object_message(row: StoredObject) -> ObjectMessage:
    return ObjectMessage(key=row.key, sha256=row.sha256, size_bytes=row.size_bytes, version_id=row.version_id)


def _domain_key(domain: Domain, wrapped: bytes, purpose: str) -> bytes:
    return unwrap_key(master_key=settings.CONFIG.master_key_bytes, wrapped=wrapped, purpose=purpose, owner=domain.pk)
