"""Finds work that a lost message, worker or broker left behind. Runs every few seconds; each step can run twice."""

from __future__ import annotations

import logging
import random
from contextlib import suppress
from datetime import datetime, timedelta

from django.db import IntegrityError
from django.db.models import Count, Exists, F, Max, OuterRef, Q

from backups.agent_jobs import sweep_agents
from backups.lost_claims import MOST_IN_VAIN, why_given_up
from backups.models import Job, Session
from backups.queue import create_retry, hint_commit, hint_job, hint_next_check, hint_nodes
from backups.retrying import is_retried, pause_before_retry
from backups.states import ON_A_NODE, JobKind, JobState
from backups.transitions import claimable, end_job
from definitions.models import Definition
from tenants.models import Tenant

logger = logging.getLogger(__name__)

HINT_AGAIN_AFTER = timedelta(seconds=20)
# A node that does not report itself: its messages only lie there.
SILENT_AFTER = timedelta(minutes=5)
HINT_SILENT_AGAIN_AFTER = timedelta(minutes=5)
RETRY_WITHIN = timedelta(hours=1)
MOST_RETRIES_AT_ONCE = 200
CHECK_HINT_AGAIN_AFTER = timedelta(minutes=1)
ORPHAN_HINT_AFTER = timedelta(seconds=10)
COMMIT_HINT_AFTER = timedelta(seconds=15)
# Without any progress: a commit of hundreds of thousands of objects may well take longer.
COMMIT_GIVE_UP_AFTER = timedelta(minutes=15)


def sweep(*, now: datetime) -> None:
    _sweep_failed(now)
    _sweep_pending(now)
    _sweep_checks(now)
    sweep_agents(now=now)
    _sweep_orphaned(now)
    _sweep_commits(now)


def _sweep_pending(now: datetime) -> None:
    """Where jobs wait and no hint was given lately, one for each worker that may be idle: all others would pile up."""
    due = Q(not_before=None) | Q(not_before__lte=now)
    waiting = Job.objects.filter(due, state=JobState.PENDING, node__isnull=False).order_by()
    busy = set(Job.objects.filter(state=JobState.RUNNING, node__isnull=False).values_list("node_id", flat=True))
    hints = {}
    by_node = waiting.values("node_id", "node__last_seen_at").annotate(hinted=Max("hinted_at"), count=Count("pk"))
    for row in by_node:
        seen = row["node__last_seen_at"]
        silent = seen is not None and seen <= now - SILENT_AFTER
        again_after = HINT_SILENT_AGAIN_AFTER if silent else HINT_AGAIN_AFTER
        if row["hinted"] is None or row["hinted"] <= now - again_after:
            # A node that works takes the next one by itself.
            hints[row["node_id"]] = 1 if silent or row["node_id"] in busy else row["count"]
    hint_nodes(hints)


def _sweep_failed(now: datetime) -> None:
    """What failed for a reason that may go away is tried again, unless a later run of the definition is there."""
    later = Job.objects.filter(definition=OuterRef("definition"), created_at__gt=OuterRef("created_at"))
    failed = Job.objects.filter(
        ~Exists(later),
        state=JobState.FAILED,
        kind=JobKind.BACKUP,
        finished_at__gt=now - RETRY_WITHIN,
        created_at__gt=now - timedelta(days=2),
        slot_at__isnull=False,
        retry=None,
        definition__active=True,
        tenant__status=Tenant.Status.ACTIVE,
    )
    for job in failed.order_by("finished_at")[:MOST_RETRIES_AT_ONCE]:
        if is_retried(code=job.code, attempt=job.attempt, scheduled=True):
            pause = pause_before_retry(attempt=job.attempt, spread=random.random())  # noqa: S311  # no secret
            # Another sweep was first, or the definition is gone.
            with suppress(IntegrityError, Definition.DoesNotExist):
                create_retry(job, not_before=now + pause, now=now)


def _sweep_checks(now: datetime) -> None:
    """Each queue's worker takes them one after the other, for hours each, and hints at the next at the end of each.

    So a hint is needed only when none was given lately and no check of the queue runs; all others would only pile up.
    """
    lately = Q(state=JobState.RUNNING) | Q(hinted_at__gt=now - CHECK_HINT_AGAIN_AFTER)
    for asked in (True, False):
        checks = Job.objects.filter(kind=JobKind.VERIFY, node=None, requested_by__isnull=not asked).active()
        if not checks.filter(lately).exists():
            hint_next_check(asked=asked)


def _sweep_orphaned(now: datetime) -> None:
    orphaned = claimable(now).filter(state=JobState.RUNNING)
    # Those of agents have a longer time, see there.
    of_agents = Q(node=None, kind__in=ON_A_NODE)
    for job in orphaned.exclude(of_agents, fence__lt=MOST_IN_VAIN).select_related("node", "backup"):
        why = why_given_up(job.with_loss(), age=now - (job.started_at or now))
        still_orphaned = claimable(now).filter(state=JobState.RUNNING, fence=job.fence)
        if job.cancel_requested:
            end_job(still_orphaned, job=job, state=JobState.CANCELED, code="canceled", message="Canceled.", now=now)
        elif why:
            message = f"{why} See its log."
            end_job(still_orphaned, job=job, state=JobState.FAILED, code="worker_lost", message=message, now=now)
        elif job.node is None and job.kind in ON_A_NODE:
            # Its agent asks for it by itself.
            continue
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
