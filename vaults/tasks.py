"""Tasks of the control worker for vaults: load, call, return."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task
from django.utils import timezone

from vaults import drift, extra_versions, probe_runs, provisioner, reaper, rotation


@shared_task
def prepare_vault(*, vault_id: str, **_: object) -> None:
    provisioner.prepare_vault(vault_id=vault_id)


@shared_task
def prepare_pending_vaults(**_: object) -> None:
    provisioner.prepare_pending_vaults()


@shared_task(expires=60)
def probe_next_due(**_: object) -> None:
    provisioner.probe_next_due(now=timezone.now())


@shared_task
def check_drift_everywhere(**_: object) -> None:
    drift.check_drift_everywhere(now=timezone.now())


@shared_task
def look_for_extra_versions(**_: object) -> None:
    extra_versions.look_for_extra_versions_everywhere(now=timezone.now())


@shared_task
def check_rights(**_: object) -> None:
    """Sent to the queue of the reaper: the control worker's own rights are part of each probe."""
    probe_runs.check_rights_here(now=timezone.now())


@shared_task
def rewrap_keys(*, tenant_id: str, **_: object) -> None:
    rotation.rewrap(UUID(tenant_id), now=timezone.now())


@shared_task
def rewrap_keys_everywhere(**_: object) -> None:
    rotation.rewrap_everywhere(now=timezone.now())


@shared_task(expires=60)
def reap(**_: object) -> None:
    """Sent to the queue of the reaper, which alone may delete."""
    reaper.reap(now=timezone.now())
