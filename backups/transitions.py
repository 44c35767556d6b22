"""Every change of a job's state, each one conditional update with its event. Nothing else writes these columns."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Case, Exists, F, OuterRef, Q, Value, When
from django.db.models.functions import Coalesce

from agents.models import Disk
from agents.protocol import MoverUsage, Progress
from backups.admission import admit_job
from backups.models import Backup, DefinitionStanding, Job, JobEvent, JobQuerySet, Session
from backups.points import point_name
from backups.states import ON_A_NODE, READING, BackupStatus, JobKind, JobState, states_before
from backups.telling import tell_of_job
from common.ids import hash_token, new_secret_token
from common.transitions import change_status
from definitions.honest_states import State
from tenants.audit import record

WAITING = "waiting"
DISK_BUSY = "another job works on this disk"
CHECKING = "checking"
DISK_MADE = "disk_made"


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker has the job: with the token its mover speaks for this claim, and for no other. A check has no mover."""

    job: Job
    fence: int
    token: str
    point: str = ""
    bandwidth: int | None = None

    @property
    def job_id(self) -> UUID:
        return self.job.pk

    def __repr__(self) -> str:
        return f"Claim(job_id={self.job_id}, fence={self.fence})"


# Who speaks for a claim of a job: both carry the job and the fence of their claim.
Holder: TypeAlias = Session | Claim


# Nobody but the agent itself can take its job over; a network that is lost for half a minute costs nothing then.
AGENT_LEASE = timedelta(seconds=90)


def lease_length() -> timedelta:
    return timedelta(seconds=settings.CONFIG.lease_seconds)


def _lease_from(now: datetime) -> Case:
    """When a lease that is given now runs out, by whose job it is."""
    agents = max(lease_length(), AGENT_LEASE)
    return Case(When(node=None, kind__in=ON_A_NODE, then=Value(now + agents)), default=Value(now + lease_length()))


def claim_job(
    *, job_id: UUID | str, now: datetime, kinds: Collection[JobKind] = ON_A_NODE, leader: Claim | None = None
) -> Claim | None:
    """Take the job, or take it over when its lease ran out. None when it is not to be had: others, or not its turn.

    `kinds` is what this worker is there for: the checks' worker moves no disk. With a `leader` the claim is to be of
    one moment with that one: it leaves the same point, and goes on within what budgets gave the leader.
    """
    job = claimable(now).filter(pk=job_id, kind__in=kinds).select_related("definition__disk__server").first()
    if job is None:
        return None
    token = new_secret_token()
    try:
        with transaction.atomic():
            # What is taken over was let in once already.
            pending = job.state == JobState.PENDING
            admission = admit_job(job, now=now, asks_budgets=leader is None) if pending else None
            if admission is not None and admission.waits:
                return None
            bandwidth = leader.bandwidth if leader else admission.bandwidth if admission else job.granted_bandwidth
            point = leader.point if leader else point_name()
            if not _take(job, token=token, point=point, now=now, bandwidth=bandwidth):
                return None
    except IntegrityError:
        # Another job runs on this disk. This one waits its turn; the end of the other hints at it.
        Job.objects.filter(pk=job.pk, state=JobState.PENDING).update(phase=WAITING, waits=DISK_BUSY)
        return None
    return Claim(job=job, fence=job.fence + 1, token=token, point=point, bandwidth=bandwidth)


def claimable(now: datetime) -> JobQuerySet:
    """Jobs that wait, and jobs whose worker is gone. One that asked for its commit has no worker and needs none."""
    committing = Session.objects.filter(job=OuterRef("pk"), fence=OuterRef("fence"), commit_requested_at__isnull=False)
    orphaned = Q(state=JobState.RUNNING, lease_until__lte=now) & ~Exists(committing)
    waiting = Q(state=JobState.PENDING) & (Q(not_before=None) | Q(not_before__lte=now))
    return Job.objects.filter(waiting | orphaned)


def _take(job: Job, *, token: str, point: str, now: datetime, bandwidth: int | None) -> bool:
    taken_over = job.state == JobState.RUNNING
    fence = job.fence + 1
    lost = job.with_loss() if taken_over else None

    def record() -> None:
        if job.node_id is not None or job.kind != JobKind.VERIFY:
            Session.objects.create(job=job, fence=fence, token_hash=hash_token(token), new_point=point)
        if taken_over:
            message = "The worker was lost; another one starts anew."
            note_event(job, at=now, code="taken_over", message=message)
            tell_of_job(job, state=JobState.RUNNING, now=now, code="taken_over", message=message)
        else:
            note_event(job, at=now, code="started")
            tell_of_job(job, state=JobState.RUNNING, now=now)
        if job.kind in READING:
            Backup.objects.filter(pk=job.backup_id, status=BackupStatus.OK).update(status=BackupStatus.RESTORE)

    return change_status(
        queryset=claimable(now).filter(pk=job.pk, fence=job.fence, state=job.state),
        changes={
            "state": JobState.RUNNING,
            "fence": fence,
            "lease_until": _lease_from(now),
            "started_at": Coalesce(F("started_at"), now),
            "phase": "starting",
            "waits": "",
            **({} if taken_over else {"granted_bandwidth": bandwidth}),
            **({"lost_in_vain": lost.in_vain, "furthest_bytes": lost.furthest_bytes} if lost is not None else {}),
            "done_bytes": 0,
            "stored_bytes": 0,
        },
        record=record,
    )


def renew_lease(holder: Holder, *, progress: Progress, now: datetime) -> bool:
    """Heartbeat: note how far the work is and keep the lease. False when the holder has lost its job."""
    held = _held_by(holder).filter(lease_until__gt=now)
    return (
        held.update(
            lease_until=_lease_from(now),
            phase=progress.phase[:24],
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
            stored_bytes=progress.stored_bytes,
        )
        == 1
    )


def request_commit(session: Session, *, request: dict[str, Any], now: datetime) -> bool:
    """The writer says that it is done; from now on the committer has the job. False when the session lost it."""

    def record() -> None:
        Session.objects.filter(pk=session.pk).update(commit_request=request, commit_requested_at=now)
        note_event(session.job, at=now, code="commit_requested")

    return change_status(
        queryset=_held_by(session).filter(lease_until__gt=now),
        changes={"phase": CHECKING},
        record=record,
    )


def renew_commit(session: Session, *, now: datetime) -> bool:
    """The committer gets on with the session's objects: keep the lease. False when the session has lost its job."""
    return _held_by(session).update(lease_until=now + lease_length()) == 1


def commit_progress(session: Session, *, clock: Callable[[], datetime]) -> Callable[[], None]:
    """What a committer calls for each object that it is done with; it costs a statement a few times per lease only."""
    told_at: datetime | None = None

    def progress() -> None:
        nonlocal told_at
        now = clock()
        if told_at is None or now >= told_at + lease_length() / 4:
            told_at = now
            renew_commit(session, now=now)

    return progress


def finish_job(
    holder: Holder, *, now: datetime, message: str, usage: MoverUsage, also: Any = lambda: None, **fields: Any
) -> bool:
    """RUNNING -> OK for the holder that has the job; `also` runs in the same transaction."""

    def record() -> None:
        also()
        _release_backup(holder.job)
        note_event(holder.job, at=now, code="ok", message=message)
        tell_of_job(holder.job, state=JobState.OK, now=now, message=message)
        if holder.job.kind == JobKind.BACKUP:
            _look_again(holder.job, now=now)

    return change_status(
        queryset=_held_by(holder),
        changes={
            "state": JobState.OK,
            "phase": "",
            "message": message,
            "finished_at": now,
            "lease_until": None,
            "mover_wall_seconds": usage.wall_seconds,
            "mover_cpu_seconds": usage.cpu_seconds,
            "mover_peak_memory_bytes": usage.peak_memory_bytes,
            **fields,
        },
        record=record,
    )


def _look_again(job: Job, *, now: datetime) -> None:
    """A good backup may have ended what was found against its definition: nobody should read the old state for long."""
    standing = DefinitionStanding.objects.filter(definition=job.definition_id).exclude(state=State.PROTECTED)
    standing.update(look_again_at=now)


def end_job(queryset: JobQuerySet, *, job: Job, state: JobState, code: str, message: str, now: datetime) -> bool:
    """To FAILED or CANCELED from where the queryset still finds it. Its pending backup goes."""

    def record() -> None:
        note_event(job, at=now, code=code, message=message, failed=state == JobState.FAILED)
        tell_of_job(job, state=state, now=now, code=code, message=message)
        _release_backup(job)
        if job.kind == JobKind.BACKUP:
            Backup.objects.filter(pk=job.backup_id, status=BackupStatus.PENDING).delete()

    return change_status(
        queryset=queryset.filter(pk=job.pk, state__in=states_before(state)),
        changes={
            "state": state,
            "code": code,
            "message": message,
            "finished_at": now,
            "lease_until": None,
            "phase": "",
        },
        record=record,
    )


def end_session_job(holder: Holder, *, state: JobState, code: str, message: str, now: datetime) -> bool:
    """As `end_job`, but only while the holder has the job."""
    return end_job(_held_by(holder), job=holder.job, state=state, code=code, message=message, now=now)


def note_event(job: Job, *, at: datetime, code: str, message: str = "", failed: bool = False) -> None:
    """The event of a change, and its audit record: asked for, begun, commit asked for, ended, whoever did it."""
    JobEvent.objects.create(job=job, at=at, code=code, message=message)
    outcome = "failed" if failed else "done"
    record(action=f"{job.kind}.{code}"[:64], subject=job, after={"message": message}, outcome=outcome)


def mark_incomplete(disk_id: UUID, *, now: datetime) -> None:
    """From here on the disk holds neither its old content nor the whole backup, until the restore is done."""
    Disk.objects.filter(pk=disk_id, incomplete_since=None).update(incomplete_since=now)


def note_target(session: Session, *, safety_point: str, warnings: list[dict[str, str]], now: datetime) -> bool:
    """The driver has the target of the session's restore. False when the session has lost its job."""
    with transaction.atomic():
        job = session.job
        told = {"warnings": [*job.warnings, *warnings], **({"safety_point": safety_point} if safety_point else {})}
        if not _held_by(session).filter(lease_until__gt=now).update(**told):
            return False
        if job.replaces_target:
            mark_incomplete(job.disk_id, now=now)
        folder = job.files.get("folder", "")
        if (job.creates_disk or folder) and not job.events.filter(code=DISK_MADE).exists():
            made = f"The folder {folder} of {job.disk}" if folder else str(job.disk)
            note_event(job, at=now, code=DISK_MADE, message=f"{made} is made.")
        if safety_point:
            note_event(job, at=now, code="safety_point", message=f"What was there before is kept as {safety_point}.")
    return True


def mark_restored(job: Job) -> None:
    """The restore is whole. One of single files, or into a folder, says nothing of the rest of the disk."""
    if job.replaces_target:
        Disk.objects.filter(pk=job.disk_id).update(incomplete_since=None)


def note_warnings(session: Session, warnings: list[dict[str, str]]) -> None:
    """What its mover says of single files; kept while the session has its job."""
    if warnings:
        _held_by(session).update(warnings=[*session.job.warnings, *warnings])


def _held_by(holder: Holder) -> JobQuerySet:
    return Job.objects.filter(pk=holder.job_id, fence=holder.fence, state=JobState.RUNNING)


def _release_backup(job: Job) -> None:
    """A backup shows `restore` as long as any restore of it runs, or it is served."""
    if job.kind not in READING or job.backup_id is None:
        return
    others = Job.objects.filter(backup_id=job.backup_id, kind__in=READING, state=JobState.RUNNING)
    if not others.exclude(pk=job.pk).exists():
        Backup.objects.filter(pk=job.backup_id, status=BackupStatus.RESTORE).update(status=BackupStatus.OK)
