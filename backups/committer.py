"""The commit: the control plane looks at every object itself, and only then says `ok`. Runs in the control worker."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings
from django.utils import timezone

from agents.models import Disk
from agents.protocol import CommitRequest, ObjectMessage
from backups.accounting import account_commit, hold_accounts
from backups.models import Backup, Session
from backups.moved_packs import moved_packs_of, note_moved, stand_ins
from backups.moves import Moves, read_moves, write_moves
from backups.points import told_facts
from backups.promises import lock_rule_of
from backups.queue import hint_description, hint_next, hint_retention
from backups.removal.claims import tree_counts
from backups.states import BackupStatus, JobState
from backups.transitions import commit_progress, end_session_job, finish_job
from backups.writer_keys import writer_keys_for
from common.errors import UnavailableError
from engine.errors import EngineError
from engine.manifest import CONTENT_DISK, ManifestBody, parse_manifest
from engine.store.base import ObjectKind
from vaults.custody import check_envelope, companion_envelopes, record_envelope
from vaults.damage import Damage
from vaults.keeper import UnverifiedObjectError, keep_locked, verify_stored
from vaults.ledger import ObjectRemovedError, hold_for_commit
from vaults.models import ObjectUse, StoredObject, Vault
from vaults.removal_rules import SKEW
from vaults.storage import Credential, read_object, store_time

logger = logging.getLogger(__name__)

# A condemned object is still whole: a commit that needs it takes it back.
_USABLE = [StoredObject.Status.STORED, StoredObject.Status.CONDEMNED]
# Of 100,000 blocks each; a larger loss is healed by the backups after this one.
MOST_RELOCATIONS = 16
# What a manifest tells is a writer's word: no larger size goes into a column.
LARGEST_SIZE_BYTES = 1 << 60
_SETTLED_FIELDS = ["status", "version_id", "retain_until", "condemned_epoch", "condemned_at"]


class SeenEnvelope(NamedTuple):
    """A key envelope that opens what the session wrote."""

    row: StoredObject
    writer_session: bytes
    recipient: bytes


@dataclass(frozen=True, slots=True)
class Checked:
    """What the control plane found in the vault for one session."""

    manifest: StoredObject
    new: list[StoredObject]
    reused: list[StoredObject]
    body: ManifestBody
    envelopes: list[SeenEnvelope]
    moves: list[Moves]
    # Packs that the manifest names as its base does, and that a repack moved for the base.
    moved_packs: list[StoredObject]
    at: datetime


def commit_session(*, session_id: str) -> None:
    """Check the session's objects in the vault and make its backup `ok`, or fail the job and say why.

    May run many times and at once: the last transaction counts only for the session that still has the job. Store
    trouble changes nothing, and the sweep asks again; until the time for that is over (`commit_retry_seconds`).
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
    if _is_too_late(session):
        _give_up(session, reason="")
        return
    request = msgspec.convert(session.commit_request, CommitRequest)
    try:
        checked = _check(session, job.backup.vault, request)
    except UnavailableError as error:
        logger.warning("commit waits for the vault", extra={"job": str(job.pk), "reason": error.message})
        if _is_too_late(session):
            _give_up(session, reason=error.message)
        return
    except (UnverifiedObjectError, EngineError) as error:
        logger.error("commit refused", extra={"job": str(job.pk), "code": error.code, "reason": error.message})
        end_session_job(session, state=JobState.FAILED, code=error.code, message=error.message, now=timezone.now())
        hint_next(job.disk_id)
        return
    try:
        made = _make_ok(session, job.backup, request, checked)
    except ObjectRemovedError as error:
        logger.error("commit refused", extra={"job": str(job.pk), "code": error.code, "reason": error.message})
        end_session_job(session, state=JobState.FAILED, code=error.code, message=error.message, now=timezone.now())
        made = False
    if made:
        hint_retention(job.definition_id)
        hint_description(job.disk.server.domain_id)
    hint_next(job.disk_id)


def _is_too_late(session: Session) -> bool:
    """Whether an attempt may not begin any more. One that is getting on is never cut off."""
    longest = timedelta(seconds=settings.CONFIG.commit_retry_seconds)
    return session.commit_requested_at is not None and session.commit_requested_at + longest <= timezone.now()


def _give_up(session: Session, *, reason: str) -> None:
    """The job fails. What it stored stays in the ledger as it is, so the next backup of the disk goes on with it."""
    hours = settings.CONFIG.commit_retry_seconds / 3600
    last = f" The last time: {reason}" if reason else ""
    message = (
        f"The vault could not be relied on for {hours:g} hours, in which what was uploaded had to be checked.{last} "
        "The backup does not count. Nothing is lost: the next one goes on with what is stored already. Run it again "
        "when the vault answers steadily."
    )
    logger.error("commit given up", extra={"job": str(session.job_id), "reason": reason})
    end_session_job(session, state=JobState.FAILED, code="commit_expired", message=message, now=timezone.now())
    hint_next(session.job.disk_id)


def _check(session: Session, vault: Vault, request: CommitRequest) -> Checked:
    new = _rows(session, request.new_objects, session_id=session.pk) + _resumed_rows(session, request)
    moved_packs = _moved_packs(session, request)
    moved_keys = {row.key for row in moved_packs}
    reused = _rows(
        session, [message for message in request.reused_objects if message.key not in moved_keys], status__in=_USABLE
    )
    _refuse_unseen(reused)
    versions = {message.key: message.version_id for message in (*request.new_objects, *request.resumed_objects)}
    progress = commit_progress(session, clock=timezone.now)
    new = verify_stored(vault, new, claimed_versions=versions, progress=progress)
    manifest = next((row for row in new if row.key == request.manifest.key), None)
    if manifest is None:
        raise UnverifiedObjectError("The manifest is not among the objects of this session.")
    body = _read_manifest(session, vault, manifest)
    moved = [row for row in new if row.kind == ObjectKind.RELOCATION]
    _compare_needs(body, manifest, [row for row in (*new, *reused, *moved_packs) if row not in moved])
    if len(moved) > MOST_RELOCATIONS:
        raise UnverifiedObjectError(f"A backup brings at most {MOST_RELOCATIONS} relocation objects.")
    moves = read_moves(vault, moved, seen=[*new, *reused])
    envelopes = _check_envelopes(session, vault, body, new)
    reused += _stand_ins(session, moved_packs, reused)
    # What a key rotation made beside an envelope lives and is locked as long as the envelope itself.
    reused += companion_envelopes(row for row in reused if row.kind == ObjectKind.KEY)
    now = store_time(vault, Credential.KEEPER)
    keep_locked(vault, [*new, *reused], rule=lock_rule_of(session.job), now=now, progress=progress)
    progress()
    return Checked(
        manifest=manifest,
        new=new,
        reused=reused,
        body=body,
        envelopes=envelopes,
        moves=moves,
        moved_packs=moved_packs,
        at=now,
    )


def _moved_packs(session: Session, request: CommitRequest) -> list[StoredObject]:
    """Of what is reused, the packs that were moved for the base: their stand-ins are held and locked instead.

    A writer takes from a pack of its base only what the base's map has there, so what stands in for the base's need
    stands in for the new manifest's. The pack itself may be condemned or gone.
    """
    if session.base is None or session.base.manifest is None:
        return []
    keys = {message.key for message in request.reused_objects}
    return [row for row in moved_packs_of(session.base.manifest) if row.key in keys]


def _stand_ins(session: Session, moved: list[StoredObject], reused: list[StoredObject]) -> list[StoredObject]:
    if not moved or session.base is None or session.base.manifest is None:
        return []
    known = {row.pk for row in reused}
    found = [row for row in stand_ins(session.base.manifest, moved) if row.pk not in known]
    _refuse_unseen(found)
    gone = [row for row in found if row.status not in _USABLE]
    if gone:
        raise UnverifiedObjectError(
            f"{len(gone)} objects that packs of the base were moved to are gone: {gone[0].key}."
        )
    return found


def _refuse_unseen(reused: list[StoredObject]) -> None:
    """Only what a good backup has made part of itself was ever looked at, and only what is whole is good enough."""
    for start in range(0, len(reused), 500):
        part = [row.pk for row in reused[start : start + 500]]
        committed = set(ObjectUse.objects.filter(needed_id__in=part).values_list("needed_id", flat=True))
        if len(committed) != len(part):
            raise UnverifiedObjectError("The writer names as reused what no committed backup has.")
    damaged = [row for row in reused if row.damaged_since is not None and row.damage != Damage.SHORT_LOCK]
    if damaged:
        raise UnverifiedObjectError(f"{len(damaged)} objects of the base are damaged: {damaged[0].key}.")


def _resumed_rows(session: Session, request: CommitRequest) -> list[StoredObject]:
    """What earlier attempts at this disk's backup stored. It is looked at as closely as what is new."""
    attempts = Session.objects.filter(job__disk_id=session.job.disk_id).values_list("pk", flat=True)
    uncommitted = [StoredObject.Status.GRANTED, *_USABLE]
    return _rows(session, request.resumed_objects, session_id__in=list(attempts), status__in=uncommitted)


def _rows(session: Session, messages: Iterable[ObjectMessage], **conditions: object) -> list[StoredObject]:
    """The ledger's rows of the objects named; an object that is not ours, or of another domain, does not count."""
    keys = [message.key for message in messages]
    domain_id = session.job.disk.server.domain_id
    found: list[StoredObject] = []
    for start in range(0, len(keys), 500):
        part = StoredObject.objects.filter(domain_id=domain_id, key__in=keys[start : start + 500], **conditions)
        found.extend(part.select_related("vault__endpoint", "domain"))
    missing = set(keys) - {row.key for row in found}
    if missing:
        raise UnverifiedObjectError(
            f"{len(missing)} objects named by the writer are not of this session: {min(missing)}."
        )
    return found


def _read_manifest(session: Session, vault: Vault, manifest: StoredObject) -> ManifestBody:
    data = read_object(vault, key=manifest.key, version_id=manifest.version_id, credential=Credential.KEEPER)
    trusted = writer_keys_for(session.job).values_list("public_key", flat=True)
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise UnverifiedObjectError("The manifest in the vault is not what its name says.")
    body = parse_manifest(data, trusted_writers=[bytes(key) for key in trusted]).body
    told = (body.tenant, body.domain, body.source_id, body.sequence)
    disk = session.job.disk
    if told != (str(session.job.tenant_id), str(disk.server.domain_id), str(disk.pk), session.sequence):
        raise UnverifiedObjectError("The manifest is of another tenant, domain, disk or session.")
    if session.job.backup is not None and body.content != session.job.backup.content:
        raise UnverifiedObjectError(f"The manifest holds a {body.content}, and no {session.job.backup.content}.")
    _check_time(session, body)
    return body


def _check_time(session: Session, body: ManifestBody) -> None:
    """Whoever rebuilds a catalogue goes by this time: it must be about the time of the session."""
    try:
        told = datetime.fromisoformat(body.created_at)
    except ValueError:
        told = None
    job = session.job
    begun = job.backup.created_at if job.backup is not None else job.created_at
    if told is None or told.tzinfo is None or not begun - SKEW <= told <= timezone.now() + SKEW:
        raise UnverifiedObjectError("The manifest does not say the time of its session.")


def _check_envelopes(session: Session, vault: Vault, body: ManifestBody, new: list[StoredObject]) -> list[SeenEnvelope]:
    """Read every new envelope: one that the tenant's key cannot open would make a backup that nobody can restore."""
    rows = {row.sha256: row for row in new if row.kind == ObjectKind.KEY}
    found = []
    for entry in body.sessions:
        row = rows.get(entry.envelope.sha256.hex())
        if row is None:
            continue
        data = read_object(vault, key=row.key, version_id=row.version_id, credential=Credential.KEEPER)
        recipient = check_envelope(
            data,
            tenant=body.tenant,
            domain=body.domain,
            session=entry.session_id,
            commitment=entry.commitment,
            opened_at=session.created_at,
        )
        found.append(SeenEnvelope(row, entry.session_id, recipient))
    return found


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
        hold_accounts([checked.manifest.domain_id])
        hold_for_commit([row.pk for row in (*checked.new, *checked.reused)])
        for row in checked.new:
            row.status, row.condemned_epoch, row.condemned_at = StoredObject.Status.STORED, None, None
        StoredObject.objects.bulk_update(checked.new, _SETTLED_FIELDS, 200)
        own = {checked.manifest.pk, *(move.relocation.pk for move in checked.moves)}
        needed = [row for row in (*checked.new, *checked.reused) if row.pk not in own]
        uses = [ObjectUse(manifest=checked.manifest, needed=row) for row in needed]
        ObjectUse.objects.bulk_create(uses, batch_size=300)
        note_moved(checked.manifest, checked.moved_packs)
        write_moves(checked.moves)
        for envelope in checked.envelopes:
            record_envelope(envelope.row, writer_session=envelope.writer_session, recipient=envelope.recipient)
        _fill_backup(session, backup.pk, request, checked)
        account_commit(checked.manifest.pk)

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
    rule = lock_rule_of(job)
    Backup.objects.filter(pk=backup_id).update(
        status=BackupStatus.OK,
        manifest=checked.manifest,
        sequence=session.sequence,
        finished_at=now,
        duration_seconds=int((now - (job.started_at or now)).total_seconds()),
        read_bytes=request.read_bytes,
        changed_bytes=request.changed_bytes,
        stored_bytes=request.stored_bytes,
        immutable_until=rule.promised_until(checked.at),
        **told_facts(session, request.facts),
        **_measured(job.disk_id, checked.body),
    )


def _measured(disk_id: UUID, body: ManifestBody) -> dict[str, object]:
    """What only the backup itself shows: how large a file tree or stream is. Its disk has that size from now on."""
    if body.content == CONTENT_DISK:
        return {}
    size_bytes = min(max(0, body.size_bytes), LARGEST_SIZE_BYTES)
    # A disk has at least one byte, an empty tree none.
    Disk.objects.filter(pk=disk_id).update(size_bytes=max(1, size_bytes))
    return {"size_bytes": size_bytes, "counts": tree_counts(body)}
