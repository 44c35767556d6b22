"""The commit: the control plane looks at every object itself, and only then says `ok`. Runs in the control worker."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec
from django.utils import timezone

from agents.models import WriterKey
from agents.protocol import CommitRequest, ObjectMessage
from backups.models import Backup, Session
from backups.queue import hint_next, hint_retention
from backups.states import BackupStatus, JobState
from backups.transitions import end_session_job, finish_job
from common.errors import UnavailableError
from engine.errors import EngineError
from engine.manifest import ManifestBody, parse_manifest
from vaults.keeper import UnverifiedObjectError, keep_locked, verify_stored
from vaults.models import ObjectUse, StoredObject, Vault
from vaults.storage import Credential, read_object, store_time

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checked:
    """What the control plane found in the vault for one session."""

    manifest: StoredObject
    new: list[StoredObject]
    reused: list[StoredObject]
    at: datetime


def commit_session(*, session_id: str) -> None:
    """Check the session's objects in the vault and make its backup `ok`, or fail the job and say why.

    May run many times and at once: the last transaction counts only for the session that still has the job. Store
    trouble changes nothing; the sweep asks again.
    """
    session = Session.objects.select_related("job__backup__vault__endpoint", "job__backup__disk__server").get(
        pk=session_id
    )
    job = session.job
    if (
        session.commit_request is None
        or job.state != JobState.RUNNING
        or job.fence != session.fence
        or job.backup is None
    ):
        return
    request = msgspec.convert(session.commit_request, CommitRequest)
    try:
        checked = _check(session, job.backup.vault, request)
    except UnavailableError as error:
        logger.warning("commit waits for the vault", extra={"job": str(job.pk), "reason": error.message})
        return
    except (UnverifiedObjectError, EngineError) as error:
        logger.error("commit refused", extra={"job": str(job.pk), "code": error.code, "reason": error.message})
        end_session_job(session, state=JobState.FAILED, code=error.code, message=error.message, now=timezone.now())
        hint_next(job.disk_id)
        return
    if _make_ok(session, job.backup, request, checked):
        hint_retention(job.definition_id)
    hint_next(job.disk_id)


def _check(session: Session, vault: Vault, request: CommitRequest) -> Checked:
    new = _rows(session, request.new_objects, session_id=session.pk)
    reused = _rows(session, request.reused_objects, status=StoredObject.Status.STORED)
    versions = {message.key: message.version_id for message in request.new_objects}
    new = verify_stored(vault, new, claimed_versions=versions)
    manifest = next((row for row in new if row.key == request.manifest.key), None)
    if manifest is None:
        raise UnverifiedObjectError("The manifest is not among the objects of this session.")
    body = _read_manifest(session, vault, manifest)
    _compare_needs(body, manifest, [*new, *reused])
    now = store_time(vault, Credential.KEEPER)
    keep_locked(vault, [*new, *reused], rule=vault.lock_rule, now=now)
    return Checked(manifest=manifest, new=new, reused=reused, at=now)


def _rows(session: Session, messages: Iterable[ObjectMessage], **conditions: object) -> list[StoredObject]:
    """The ledger's rows of the objects named; an object that is not ours, or of another domain, does not count."""
    keys = [message.key for message in messages]
    domain_id = session.job.disk.server.domain_id
    found: list[StoredObject] = []
    for start in range(0, len(keys), 500):
        part = StoredObject.objects.filter(domain_id=domain_id, key__in=keys[start : start + 500], **conditions)
        found.extend(part.select_related("vault__endpoint"))
    missing = set(keys) - {row.key for row in found}
    if missing:
        raise UnverifiedObjectError(
            f"{len(missing)} objects named by the writer are not of this session: {min(missing)}."
        )
    return found


def _read_manifest(session: Session, vault: Vault, manifest: StoredObject) -> ManifestBody:
    data = read_object(vault, key=manifest.key, version_id=manifest.version_id, credential=Credential.KEEPER)
    trusted = WriterKey.objects.filter(node_id=session.job.node_id).values_list("public_key", flat=True)
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise UnverifiedObjectError("The manifest in the vault is not what its name says.")
    body = parse_manifest(data, trusted_writers=[bytes(key) for key in trusted]).body
    told = (body.tenant, body.domain, body.source_id, body.sequence)
    disk = session.job.disk
    if told != (str(session.job.tenant_id), str(disk.server.domain_id), str(disk.pk), session.sequence):
        raise UnverifiedObjectError("The manifest is of another tenant, domain, disk or session.")
    return body


def _compare_needs(body: ManifestBody, manifest: StoredObject, rows: list[StoredObject]) -> None:
    """What the manifest needs must be exactly what was looked at, by name, size and version."""
    seen = {row.key: row for row in rows if row.pk != manifest.pk}
    needed = body.needed_refs()
    for ref in needed:
        row = seen.get(ref.key)
        if row is None or row.sha256 != ref.sha256 or row.size_bytes != ref.size_bytes:
            raise UnverifiedObjectError(f"The manifest needs {ref.key}, which the writer did not name.")
        if ref.version_id and ref.version_id != row.version_id:
            raise UnverifiedObjectError(f"The manifest names another version of {ref.key} than the vault holds.")
    if set(seen) - {ref.key for ref in needed}:
        raise UnverifiedObjectError("The writer named objects that the manifest does not need.")


def _make_ok(session: Session, backup: Backup, request: CommitRequest, checked: Checked) -> bool:
    def also() -> None:
        StoredObject.objects.bulk_update([*checked.new, *checked.reused], ["status", "version_id", "retain_until"], 200)
        uses = [
            ObjectUse(manifest=checked.manifest, needed=row)
            for row in [*checked.new, *checked.reused]
            if row.pk != checked.manifest.pk
        ]
        ObjectUse.objects.bulk_create(uses, batch_size=300)
        _fill_backup(session, backup.pk, request, checked)

    return finish_job(
        session,
        now=timezone.now(),
        message=f"{len(checked.new)} new and {len(checked.reused)} reused objects were seen in the vault, locked.",
        usage=request.usage,
        also=also,
        stored_bytes=request.stored_bytes,
    )


def _fill_backup(session: Session, backup_id: UUID, request: CommitRequest, checked: Checked) -> None:
    job, now = session.job, timezone.now()
    rule = job.backup.vault.lock_rule if job.backup else None
    Backup.objects.filter(pk=backup_id).update(
        status=BackupStatus.OK,
        manifest=checked.manifest,
        sequence=session.sequence,
        finished_at=now,
        duration_seconds=int((now - (job.started_at or now)).total_seconds()),
        read_bytes=request.read_bytes,
        changed_bytes=request.changed_bytes,
        stored_bytes=request.stored_bytes,
        immutable_until=rule.promised_until(checked.at) if rule else None,
    )
