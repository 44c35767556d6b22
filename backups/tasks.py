"""Tasks: load, call, return. A task carries ids only, and one that is lost is sent again by the sweep."""

from __future__ import annotations

import secrets
from uuid import UUID

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from backups import (
    accounting,
    alerting,
    asked_restores,
    committer,
    damage,
    describing,
    dispatcher,
    drills,
    figures,
    leftovers,
    lock_coverage,
    node_load,
    queue,
    retainer,
    runner,
    scrubbing,
    sweeper,
    tenant_removal,
    vault_removal,
    verifier,
)
from backups.copies import tending
from backups.removal import rounds
from common.database_time import database_now
from definitions.zone_changes import follow_zone_changes
from vaults.scrubber import ScrubLimits


@shared_task
def run_job(*, job_id: str, **_: object) -> None:
    """Sent to the queue of a node."""
    runner.run_job(job_id=job_id)


@shared_task
def run_restore(*, job_id: str, **_: object) -> None:
    """Sent to the restore queue of a node, besides."""
    runner.run_restore(job_id=job_id)


@shared_task
def commit_session(*, session_id: str, **_: object) -> None:
    committer.commit_session(session_id=session_id)


@shared_task(expires=3600)
def sweep_node(*, node: str, **_: object) -> None:
    """Sent to the queue of a node."""
    leftovers.sweep_node(name=node, clock=database_now)


@shared_task(expires=600)
def sweep_nodes(**_: object) -> None:
    leftovers.request_sweeps_everywhere()


@shared_task(expires=60)
def dispatch_due(**_: object) -> None:
    now = database_now()
    follow_zone_changes(now=now)
    dispatcher.dispatch_due(now=now)


@shared_task(expires=60)
def sweep(**_: object) -> None:
    sweeper.sweep(now=database_now())


@shared_task(expires=60)
def look_at_definitions(**_: object) -> None:
    alerting.look_at_due(now=database_now())


@shared_task
def apply_retention(*, definition_id: str, **_: object) -> None:
    retainer.apply_retention(definition_id=definition_id, now=timezone.now())


@shared_task
def apply_retention_everywhere(*, after: str | None = None, **_: object) -> None:
    """The daily run, in parts that hand on to each other."""
    _, last = retainer.apply_retention_from(after=UUID(after) if after else None, now=timezone.now())
    if last is not None:
        queue.hint_rest_of_retention(last)


@shared_task
def remove_unneeded(**_: object) -> None:
    rounds.remove_everywhere(now=timezone.now())


@shared_task
def repack(**_: object) -> None:
    rounds.repack_everywhere(now=timezone.now())


@shared_task
def reconcile(**_: object) -> None:
    rounds.reconcile_everywhere(now=timezone.now())


@shared_task
def describe_domain(*, domain_id: str, **_: object) -> None:
    """Sent after a commit: a new writer or a new name must not wait for the night."""
    describing.describe_domain(UUID(domain_id), counts_sequences=False)


@shared_task
def describe_everywhere(**_: object) -> None:
    describing.describe_everywhere()


@shared_task(expires=3600)
def forget_asked_restores(**_: object) -> None:
    asked_restores.forget_asked_restores(now=timezone.now())


@shared_task
def scrub(**_: object) -> None:
    limits = ScrubLimits(bytes_per_second=settings.CONFIG.scrub_bytes_per_second)
    scrubbing.scrub_everywhere(clock=timezone.now, limits=limits)


@shared_task
def review_damage(**_: object) -> None:
    damage.review_everywhere(now=timezone.now(), everything=True)


@shared_task
def verify_backup(*, job_id: str, **_: object) -> None:
    """Sent to the queue of the checks' worker."""
    verifier.verify_backup(job_id=job_id, clock=timezone.now)


@shared_task
def tend_storage(*, storage_id: str, **_: object) -> None:
    """Sent to the queue of a node: it alone sees its storages."""
    tending.tend_storage(storage_id=storage_id, now=database_now())


@shared_task(expires=3600)
def tend_storages(**_: object) -> None:
    tending.hint_everywhere()


@shared_task(expires=1800)
def drill_due(**_: object) -> None:
    drills.request_due_drills(now=database_now(), hour=settings.CONFIG.drill_hour, choose=secrets.randbelow)


@shared_task
def verify_due(**_: object) -> None:
    verifier.request_due_verifications(now=timezone.now())


@shared_task
def check_locks(**_: object) -> None:
    lock_coverage.check_locks_everywhere(now=timezone.now())
    figures.count_everywhere(now=timezone.now())


@shared_task(expires=1800)
def count_loads(**_: object) -> None:
    node_load.count_loads(now=timezone.now())


@shared_task
def advance_deletions(**_: object) -> None:
    tenant_removal.advance_deletions(now=timezone.now())
    vault_removal.advance_vault_removals(now=timezone.now())


@shared_task
def recompute_usage(**_: object) -> None:
    accounting.recompute_everywhere()
