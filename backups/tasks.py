"""Tasks: load, call, return. A task carries ids only, and one that is lost is sent again by the sweep."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from backups import committer, dispatcher, retainer, runner, sweeper


@shared_task
def run_job(*, job_id: str, **_: object) -> None:
    """Sent to the queue of a node."""
    runner.run_job(job_id=job_id)


@shared_task
def commit_session(*, session_id: str, **_: object) -> None:
    committer.commit_session(session_id=session_id)


@shared_task(expires=60)
def dispatch_due(**_: object) -> None:
    dispatcher.dispatch_due(now=timezone.now())


@shared_task(expires=60)
def sweep(**_: object) -> None:
    sweeper.sweep(now=timezone.now())


@shared_task
def apply_retention(*, definition_id: str, **_: object) -> None:
    retainer.apply_retention(definition_id=definition_id, now=timezone.now())


@shared_task
def apply_retention_everywhere(**_: object) -> None:
    retainer.apply_retention_everywhere(now=timezone.now())
