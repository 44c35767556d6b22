"""Checks with keys, each a job of the kind `verify`: asking for one, which are due, and running one to its end.

    request_verification(backup=..., actor=..., now=...) -> Job    the one that waits or runs already, if there is one
    request_due_verifications(now=...) -> int
    backups_to_verify(now=...) -> list[UUID]       the newest of each disk that had no check for a month
    verify_backup(job_id=..., clock=timezone.now) -> Verdict | None     in the checks' worker

`verified_at` is when every block was opened last. What a customer's own key seals cannot be opened here: of such a
backup it is when the map was walked and every object hashed.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Max, Q

from agents.protocol import MoverUsage, Progress
from backups.checking import Outcome, Verdict, Watch, check_backup, note_good
from backups.heartbeat import BEAT_SECONDS, Heartbeat
from backups.models import Backup, Job, JobQuerySet
from backups.queue import create_verify_job, hint_job, hint_next_check
from backups.services import shown_status
from backups.states import BackupStatus, JobKind, JobState
from backups.transitions import Claim, claim_job, end_session_job, finish_job
from common.errors import BackupsiteError, ConflictError, UnavailableError
from engine.errors import CanceledError, EngineError, StoreError
from tenants.models import Person
from vaults.scrubber import Clock

logger = logging.getLogger(__name__)

VERIFY_AGAIN_AFTER = timedelta(days=30)
LONGEST_CHECK = timedelta(hours=6)
MOST_AT_ONCE = 50
_GOOD = (BackupStatus.OK, BackupStatus.RESTORE)
_WORDS = {
    Outcome.VERIFIED: "Every block was read and opened.",
    Outcome.VERIFIED_WITHOUT_KEY: "The map was walked and every object hashed; only the customer's own key opens more.",
}
# How a job ends that found no backup to be whole: state and code.
_ENDS = {
    Outcome.DAMAGED: (JobState.FAILED, "backup_damaged"),
    Outcome.PUT_OFF: (JobState.FAILED, "store_unavailable"),
    Outcome.BROKEN: (JobState.FAILED, "unexpected_error"),
    Outcome.TIMED_OUT: (JobState.FAILED, "check_timeout"),
    Outcome.CANCELED: (JobState.CANCELED, "canceled"),
    Outcome.SKIPPED: (JobState.CANCELED, "backup_not_ok"),
}


# --- asking -----------------------------------------------------------------------------------------------------------


def request_verification(*, backup: Backup, actor: Person | None, now: datetime) -> Job:
    """The job that checks a good backup. May be called twice: one that waits or runs already answers both."""
    if backup.removed_at is not None or backup.status not in _GOOD:
        raise ConflictError(
            f"The backup {backup.name} cannot be checked: it is {shown_status(backup)}.", code="backup_not_ok"
        )
    job = active_check(backup)
    if job is not None:
        return _asked_by(job, actor)
    try:
        return create_verify_job(backup=backup, now=now, requested_by=actor)
    except IntegrityError:
        # Another click was first. That one may even have ended since: it is an answer all the same.
        return _checks(backup)[0]


def _asked_by(job: Job, actor: Person | None) -> Job:
    """A nightly check that waits and that a person asks for now goes where persons' checks are run."""
    unasked = Job.objects.filter(pk=job.pk, state=JobState.PENDING, requested_by=None)
    if actor is not None and unasked.update(requested_by=actor):
        job.requested_by = actor
        transaction.on_commit(partial(hint_job, job))
    return job


def active_check(backup: Backup) -> Job | None:
    """The check of the backup that waits or runs."""
    return _checks(backup).active().first()


def _checks(backup: Backup) -> JobQuerySet:
    return Job.objects.filter(backup=backup, kind=JobKind.VERIFY).order_by("-created_at", "-pk")


def request_due_verifications(*, now: datetime) -> int:
    """The daily run: ask for what is due, a bounded number at once. Returns how many."""
    due = [*backups_to_verify(now=now)[:MOST_AT_ONCE], *copies_to_verify(now=now)[:MOST_AT_ONCE]]
    backups = Backup.objects.in_bulk(due)
    for backup_id in due:
        request_verification(backup=backups[backup_id], actor=None, now=now)
    return len(due)


def backups_to_verify(*, now: datetime) -> list[UUID]:
    """The newest good backup of each disk of which none was checked within 30 days; the longest unchecked first."""
    good = Backup.objects.in_catalogue().filter(status__in=_GOOD, disk__isnull=False, sequence__isnull=False)
    per_disk = good.order_by().values("disk").annotate(newest=Max("sequence"), checked=Max("verified_at"))
    due = [row for row in per_disk if row["checked"] is None or row["checked"] <= now - VERIFY_AGAIN_AFTER]
    due.sort(key=lambda row: (row["checked"] is not None, row["checked"] or now))
    newest = {(disk_id, sequence): pk for disk_id, sequence, pk in good.values_list("disk", "sequence", "pk")}
    return [newest[row["disk"], row["newest"]] for row in due if (row["disk"], row["newest"]) in newest]


def copies_to_verify(*, now: datetime) -> list[UUID]:
    """Every copy that was not read again within 30 days: a file has nothing in common with another one."""
    good = Backup.objects.in_catalogue().filter(status__in=_GOOD, storage__isnull=False)
    unread = good.filter(Q(verified_at=None) | Q(verified_at__lte=now - VERIFY_AGAIN_AFTER))
    return list(unread.order_by(F("verified_at").asc(nulls_first=True), "created_at").values_list("pk", flat=True))


# --- running ----------------------------------------------------------------------------------------------------------


def verify_backup(
    *,
    job_id: str | UUID,
    clock: Clock,
    longest: timedelta = LONGEST_CHECK,
    beat_seconds: float = BEAT_SECONDS,
) -> Verdict | None:
    """Claim the check and run it to its end. None when it is not to be had: the message was only a hint.

    A worker that is killed or stopped leaves a lease that runs out; the next one starts anew. What a worker finds
    after it lost its job is not noted.
    """
    claim = claim_job(job_id=job_id, now=clock(), kinds=[JobKind.VERIFY])
    if claim is None:
        return None
    facts = {"job": str(claim.job_id), "backup": claim.job.backup_name}
    logger.info("check claimed", extra=facts)
    opening = Progress(phase="opening", total_bytes=claim.job.total_bytes)
    ends_at = clock() + longest
    try:
        with Heartbeat(claim=claim, clock=clock, progress=opening, beat_seconds=beat_seconds) as heartbeat:
            verdict = _verdict(claim, Watch(heartbeat, clock, ends_at))
    except Exception:
        # Not of what stops the worker: that job is for the next one.
        _end(claim, Verdict(Outcome.BROKEN, "The check ended unexpectedly. The worker's log says why."), now=clock())
        hint_next_check(asked=claim.job.requested_by_id is not None)
        raise
    is_noted = _end(claim, verdict, now=clock())
    hint_next_check(asked=claim.job.requested_by_id is not None)
    logger.info("backup checked", extra={**facts, "outcome": str(verdict.outcome), "noted": is_noted})
    return verdict


def _verdict(claim: Claim, watch: Watch) -> Verdict:
    backups = Backup.objects.in_catalogue().select_related("manifest__domain", "vault__endpoint")
    backup = backups.filter(pk=claim.job.backup_id, status__in=_GOOD).first()
    if backup is None:
        return Verdict(Outcome.SKIPPED, "There is no such good backup any more.")
    try:
        return check_backup(backup, watch)
    except CanceledError:
        return _ended_early(watch)
    except UnavailableError as error:
        return Verdict(Outcome.PUT_OFF, error.message)
    except StoreError as error:
        outcome = Outcome.PUT_OFF if error.transient else Outcome.BROKEN
        return Verdict(outcome, error.message)
    except (BackupsiteError, EngineError) as error:
        logger.exception("check failed", extra={"backup": str(backup.pk)})
        return Verdict(Outcome.BROKEN, error.message)


def _ended_early(watch: Watch) -> Verdict:
    if watch.heartbeat.lost:
        return Verdict(Outcome.LOST, "The lease was over; another worker has the job, or nobody.")
    if watch.heartbeat.canceled:
        return Verdict(Outcome.CANCELED, "Canceled.")
    if watch.heartbeat.removed:
        return Verdict(Outcome.SKIPPED, "The backup was removed.")
    return Verdict(Outcome.TIMED_OUT, "The check took too long and was ended.")


def _end(claim: Claim, verdict: Verdict, *, now: datetime) -> bool:
    """Write the job's end, and what was found in the same transaction. False when the claim has lost its job."""
    if verdict.outcome in _ENDS:
        state, code = _ENDS[verdict.outcome]
        return end_session_job(claim, state=state, code=code, message=verdict.message, now=now)
    if verdict.outcome not in _WORDS or claim.job.backup_id is None:
        return False
    backup_id = claim.job.backup_id
    return finish_job(
        claim,
        now=now,
        message=_WORDS[verdict.outcome],
        usage=MoverUsage(),
        also=lambda: note_good(backup_id, verdict.outcome, now=now),
        done_bytes=claim.job.total_bytes,
    )
