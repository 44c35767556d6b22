"""Finds work that a lost message, worker or broker left behind. Runs every few seconds; each step can run twice."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db.models import F, Q

from backups.models import Job, Session
from backups.queue import hint_commit, hint_job, hint_next_check
from backups.states import ON_A_NODE, JobKind, JobState
from backups.transitions import claimable, end_job

logger = logging.getLogger(__name__)

HINT_AGAIN_AFTER = timedelta(seconds=20)
CHECK_HINT_AGAIN_AFTER = timedelta(minutes=1)
ORPHAN_HINT_AFTER = timedelta(seconds=10)
COMMIT_HINT_AFTER = timedelta(seconds=15)
# Without any progress: a commit of hundreds of thousands of objects may well take longer.
COMMIT_GIVE_UP_AFTER = timedelta(minutes=15)
MOST_CLAIMS = 4


def sweep(*, now: datetime) -> None:
    _sweep_pending(now)
    _sweep_checks(now)
    _sweep_orphaned(now)
    _sweep_commits(now)


def _sweep_pending(now: datetime) -> None:
    stale = Q(hinted_at=None) | Q(hinted_at__lte=now - HINT_AGAIN_AFTER)
    for job in Job.objects.filter(stale, state=JobState.PENDING, kind__in=ON_A_NODE).select_related("node"):
        hint_job(job)


def _sweep_checks(now: datetime) -> None:
    """One worker takes them one after the other, for hours each, and hints at the next at the end of each.

    So a hint is needed only when none was given lately and no check runs; all others would only pile up.
    """
    checks = Job.objects.filter(kind=JobKind.VERIFY).active()
    lately = Q(state=JobState.RUNNING) | Q(hinted_at__gt=now - CHECK_HINT_AGAIN_AFTER)
    if not checks.filter(lately).exists():
        hint_next_check()


def _sweep_orphaned(now: datetime) -> None:
    for job in claimable(now).filter(state=JobState.RUNNING).select_related("node"):
        still_orphaned = claimable(now).filter(state=JobState.RUNNING, fence=job.fence)
        if job.cancel_requested:
            end_job(still_orphaned, job=job, state=JobState.CANCELED, code="canceled", message="Canceled.", now=now)
        elif job.fence >= MOST_CLAIMS:
            message = f"The worker was lost {job.fence} times while it had this job. See the node's log."
            end_job(still_orphaned, job=job, state=JobState.FAILED, code="worker_lost", message=message, now=now)
        elif job.hinted_at is None or job.hinted_at <= now - ORPHAN_HINT_AFTER:
            logger.warning("lease ran out; asking for another worker", extra={"job": str(job.pk)})
            hint_job(job)


def _sweep_commits(now: datetime) -> None:
    """While the lease runs a committer is at work, or the writer has only just gone."""
    waiting = Session.objects.filter(
        job__state=JobState.RUNNING,
        job__fence=F("fence"),
        job__lease_until__lte=now,
        commit_requested_at__lte=now - COMMIT_HINT_AFTER,
    )
    for session in waiting.select_related("job"):
        if not _end_stalled(session, now):
            hint_commit(session.pk)


def _end_stalled(session: Session, now: datetime) -> bool:
    """Give the commit up, unless its committer got on with it lately or does so at this moment."""
    long_ago = now - COMMIT_GIVE_UP_AFTER
    if session.commit_requested_at is None or session.commit_requested_at > long_ago:
        return False
    stalled = Job.objects.filter(state=JobState.RUNNING, fence=session.fence, lease_until__lte=long_ago)
    message = "Checking the uploaded objects in the vault made no progress for 15 minutes; the backup does not count."
    return end_job(stalled, job=session.job, state=JobState.FAILED, code="commit_timeout", message=message, now=now)
