"""What a person saw of running jobs when he looked before: for the rate of late, and for jobs that stand still.

It is in the shared cache, one entry for a person: a row of a job says how far it is, not since when, and a write for
each beat of each mover would cost more than it tells. What is lost of it costs a rate for a few seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from django.core.cache import cache

from backups.models import Job
from backups.pace import Pace, Track, after_look, pace_at
from backups.states import JobKind, JobState
from backups.transitions import CHECKING
from tenants.models import Person

logger = logging.getLogger(__name__)

# Somebody who comes back within it is told since when nothing moves.
_KEPT_SECONDS = 3600
# As many as the longest list has rows, twice.
_MOST_TRACKS = 400
_Tracks: TypeAlias = dict[UUID, Track]


def paces_of(person: Person, jobs: Iterable[Job], *, now: datetime) -> dict[UUID, Pace]:
    """Of those that run. One read of the cache and one write; without a job that runs, none."""
    running = [(job, job.started_at) for job in jobs if job.state == JobState.RUNNING and job.started_at is not None]
    if not running:
        return {}
    before = _tracks(person)
    after = {
        job.pk: after_look(before.get(job.pk), fence=job.fence, done_bytes=job.done_bytes, now=now)
        for job, _ in running
    }
    _keep(person, {**before, **after})
    return {
        job.pk: pace_at(
            after[job.pk], started_at=started_at, total_bytes=job.total_bytes, now=now, is_moving=_is_moving(job)
        )
        for job, started_at in running
    }


def _is_moving(job: Job) -> bool:
    return job.kind != JobKind.SERVE and job.phase != CHECKING


def _key(person: Person) -> str:
    return f"watched-jobs:{person.pk}"


def _tracks(person: Person) -> _Tracks:
    try:
        found: _Tracks = cache.get(_key(person)) or {}
    except Exception as error:  # whatever the cache's library raises: the page comes, with means
        logger.warning("What was seen of running jobs cannot be read: %s", type(error).__name__)
        return {}
    return found


def _keep(person: Person, tracks: _Tracks) -> None:
    latest = sorted(tracks.items(), key=lambda item: item[1].seen[-1].at)[-_MOST_TRACKS:]
    try:
        cache.set(_key(person), dict(latest), timeout=_KEPT_SECONDS)
    except Exception as error:  # as above
        logger.warning("What was seen of running jobs cannot be kept: %s", type(error).__name__)
