"""Removal and reconciling over all vaults, and the fence after a database was restored."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db.models import F, Q

from backups.removal.reconcile import STOPPED_BY_US, reconcile
from backups.removal.run import remove_unneeded
from common.errors import BackupsiteError
from vaults.alarms import clear_alarm, raise_alarm
from vaults.models import Vault

logger = logging.getLogger(__name__)

RECONCILE_EVERY = timedelta(hours=20)
FAILED_ALARM = "reconciling_failed"


def remove_everywhere(*, now: datetime) -> None:
    """A run over every vault that is in order; trouble with one does not keep the others waiting."""
    for vault_id in Vault.objects.filter(status=Vault.Status.READY, removal_stopped="").values_list("pk", flat=True):
        try:
            remove_unneeded(vault_id=str(vault_id), now=now)
        except BackupsiteError as error:
            logger.warning("removal run failed", extra={"vault": str(vault_id), "reason": error.message})


def reconcile_everywhere(*, now: datetime) -> None:
    """A pass over every vault that has had none for most of a day, or that waits for one to go on removing."""
    due = Q(reconciled_at=None) | Q(reconciled_at__lte=now - RECONCILE_EVERY)
    for vault in Vault.objects.filter(due).exclude(status=Vault.Status.PENDING):
        try:
            reconcile(vault_id=str(vault.pk), now=now)
        except BackupsiteError as error:
            raise_alarm(vault, code=FAILED_ALARM, message=error.message, now=now)
        else:
            clear_alarm(vault, code=FAILED_ALARM, now=now)


def fence_after_database_restore() -> int:
    """Stop removal in all vaults until each was reconciled, and begin a new epoch. Returns how many vaults."""
    reason = f"{STOPPED_BY_US}the database was restored; the vault has not been compared with it yet."
    return Vault.objects.update(removal_stopped=reason, epoch=F("epoch") + 1, reconciled_at=None)
