"""Removal and reconciling over all vaults, and the fence after a database was restored."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db.models import F, Q

from backups.removal.disowning import disown_running_repacks, disown_running_sessions
from backups.removal.reconcile import MAY_STOP, STOPPED_BY_US, reconcile
from backups.removal.repacking import repack_vault
from backups.removal.run import remove_unneeded
from common.errors import BackupsiteError
from vaults.alarms import clear_alarm, raise_alarm
from vaults.models import Vault

logger = logging.getLogger(__name__)

RECONCILE_EVERY = timedelta(hours=20)
RECONCILING_FAILED, REMOVAL_FAILED, REPACKING_FAILED = "reconciling_failed", "removal_failed", "repacking_failed"


def remove_everywhere(*, now: datetime) -> None:
    """A run over every vault that is in order; trouble with one does not keep the others waiting."""
    for vault in Vault.objects.filter(status=Vault.Status.READY, removal_stopped=""):
        _in_its_turn(vault, remove_unneeded, failed_alarm=REMOVAL_FAILED, now=now)


def repack_everywhere(*, now: datetime) -> None:
    """The same for what is mostly dead and would stay for the sake of a little that is live."""
    for vault in Vault.objects.filter(status=Vault.Status.READY, removal_stopped=""):
        _in_its_turn(vault, repack_vault, failed_alarm=REPACKING_FAILED, now=now)


def reconcile_everywhere(*, now: datetime) -> None:
    """A pass over every vault that has had none for most of a day, or that waits for one to go on removing."""
    due = Q(reconciled_at=None) | Q(reconciled_at__lte=now - RECONCILE_EVERY)
    for vault in Vault.objects.filter(due).exclude(status=Vault.Status.PENDING):
        _in_its_turn(vault, reconcile, failed_alarm=RECONCILING_FAILED, now=now)


def _in_its_turn(vault: Vault, run: Callable[..., object], *, failed_alarm: str, now: datetime) -> None:
    """Whatever goes wrong with this vault, a fault of the program included, is told, and the next one has its turn."""
    try:
        run(vault_id=str(vault.pk), now=now)
    except Exception as error:
        logger.exception("a round over a vault failed", extra={"vault": vault.name, "alarm": failed_alarm})
        # The text of a foreign error may hold anything; it is in the log.
        told = error.message if isinstance(error, BackupsiteError) else f"{type(error).__name__}; see the worker's log."
        raise_alarm(vault, code=failed_alarm, message=told, now=now)
    else:
        clear_alarm(vault, code=failed_alarm, now=now)


def fence_after_database_restore(*, now: datetime) -> int:
    """Stop removal in all vaults until each was reconciled, and begin a new epoch. Returns how many vaults.

    To be run before any worker starts: backups that the copy takes for running are ended, for only the vault knows what
    came of them.
    """
    reason = f"{STOPPED_BY_US}the database was restored; the vault has not been compared with it yet."
    Vault.objects.filter(MAY_STOP).update(removal_stopped=reason)
    disown_running_sessions(now=now)
    disown_running_repacks()
    return Vault.objects.update(epoch=F("epoch") + 1, reconciled_at=None)
