"""Tasks of the control worker for vaults: load, call, return."""

from __future__ import annotations

from celery import shared_task

from vaults import provisioner


@shared_task
def prepare_vault(*, vault_id: str, **_: object) -> None:
    provisioner.prepare_vault(vault_id=vault_id)


@shared_task
def prepare_pending_vaults(**_: object) -> None:
    provisioner.prepare_pending_vaults()
