"""The end of a session whose backup is a copy: what its mover says becomes true, while the session has its job."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone

from agents.protocol import CopyChecked, CopyDone
from backups.copies.places import snapshot_name
from backups.models import Backup, Session
from backups.points import told_facts
from backups.queue import hint_next, hint_nodes, hint_retention
from backups.states import BackupHealth, BackupStatus, JobKind, JobState
from backups.telling import tell_of_health
from backups.transitions import end_session_job, finish_job
from common.errors import InvalidInputError
from definitions.models import Definition

LONGEST_PLACE = 400
_CATALOGUED = (BackupStatus.OK, BackupStatus.RESTORE, BackupStatus.LOST)


_SEEN = {
    "file": "their SHA-256 was taken as they were written",
    "dataset": "both sides have a snapshot of the same guid",
}


_FOUND = {
    "file": "its SHA-256 is that of the backup",
    "dataset": "ZFS found each block as it was written",
}


def settle_copy(session: Session, done: CopyDone) -> bool:
    """The backup is `ok`: its file has its name and is on the medium. False when the session has lost its job."""
    job, backup, now = session.job, session.job.backup, timezone.now()
    if job.kind != JobKind.BACKUP or backup is None or not backup.is_copy:
        raise InvalidInputError("Only a copy ends like this.", code="not_a_copy")
    told = {**told_facts(session, done.facts), "point": "", **_place_of(backup, done)}

    def also() -> None:
        Backup.objects.filter(pk=backup.pk).update(
            status=BackupStatus.OK,
            sha256=done.sha256,
            size_bytes=done.size_bytes,
            read_bytes=done.read_bytes,
            changed_bytes=done.read_bytes,
            stored_bytes=done.file_bytes,
            unique_bytes=done.file_bytes,
            finished_at=now,
            duration_seconds=int((now - (job.started_at or now)).total_seconds()),
            **told,
        )

    finished = finish_job(
        session,
        now=now,
        message=f"{done.file_bytes} bytes are on {backup.storage}; {_SEEN[backup.type]}.",
        usage=done.usage,
        also=also,
        stored_bytes=done.file_bytes,
    )
    if finished:
        hint_retention(job.definition_id)
    hint_next(job.disk_id)
    return finished


def _place_of(backup: Backup, done: CopyDone) -> dict[str, str]:
    """Where it lies, which for a dataset its mover says: within its storage and by its own snapshot alone."""
    if done.file_bytes < 0 or done.size_bytes < 0:
        raise InvalidInputError("A copy has a size.", code="invalid_message")
    if backup.type != Definition.Type.DATASET:
        if len(done.sha256) != 64:
            raise InvalidInputError("A copy has a SHA-256.", code="invalid_message")
        return {"full_reason": ""}
    inside = done.place.startswith(f"{backup.storage.path}/") and ".." not in done.place
    if not inside or not done.place.endswith(f"@{snapshot_name(backup)}") or len(done.place) > LONGEST_PLACE:
        raise InvalidInputError("The place is not that of this backup.", code="invalid_message")
    if not done.sha256.removeprefix("guid:").isdigit() or len(done.sha256) > 64:
        raise InvalidInputError("A snapshot has a guid.", code="invalid_message")
    return {"place": done.place, "full_reason": done.facts.full_reason[:64]}


def settle_check(session: Session, checked: CopyChecked) -> bool:
    """What reading the copy again found. False when the session has lost its job."""
    job, now = session.job, timezone.now()
    if job.kind != JobKind.VERIFY or job.backup is None:
        raise InvalidInputError("Only a check ends like this.", code="not_a_check")
    if checked.outcome == "ok":
        told = f"All of it was read again: {_FOUND[job.backup.type]}."
        also = lambda: note_health(job.backup, BackupHealth.VERIFIED, now=now)  # noqa: E731  # one expression
        ended = finish_job(session, now=now, message=told, usage=checked.usage, also=also, done_bytes=job.total_bytes)
    else:
        health = BackupHealth.MISSING if checked.outcome == "missing" else BackupHealth.DAMAGED
        message = checked.message[:2000]
        ended = end_session_job(session, state=JobState.FAILED, code="backup_damaged", message=message, now=now)
        if ended:
            note_health(job.backup, health, now=now)
    if job.node_id is not None:
        hint_nodes({job.node_id: 1})
    return ended


def note_health(backup: Backup, health: BackupHealth, *, now: datetime) -> bool:
    """What is known of the copy now, and who wants to know is told. Whether it was something else before.

    What is missing is `lost`; it is `ok` again as soon as it is back.
    """
    lost = health == BackupHealth.MISSING
    damaged_bytes = 0 if health in {BackupHealth.VERIFIED, BackupHealth.UNVERIFIED} else backup.size_bytes
    catalogued = Backup.objects.in_catalogue().filter(pk=backup.pk, status__in=_CATALOGUED)
    before = catalogued.values_list("health", "status").first()
    if before is None:
        return False
    verified = {"verified_at": now} if health == BackupHealth.VERIFIED else {}
    catalogued.update(
        health=health,
        damaged_bytes=damaged_bytes,
        damage=[[0, backup.size_bytes]] if damaged_bytes else [],
        **verified,
    )
    moves = {BackupStatus.OK: BackupStatus.LOST} if lost else {BackupStatus.LOST: BackupStatus.OK}
    for old, new in moves.items():
        catalogued.filter(status=old).update(status=new)
    tell_of_health(backup, before=before[0], after=health, damaged_bytes=damaged_bytes)
    after = catalogued.values_list("health", "status").first()
    return after != before
