"""When vaults are probed again, and what follows from it. Nothing is ever deleted or repaired because of a probe.

A store that breaks a promise closes its vault for new backups (`refused`, with the failing call) and raises the alarm
`probe_failed`; one that does not answer only raises it. The next good probe opens the vault again.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Protocol

from django.db.models import F, Q

from common.errors import BackupsiteError, UnavailableError
from vaults.alarms import clear_alarm, raise_alarm
from vaults.models import Vault
from vaults.probe import ProbeReport, probe_vault
from vaults.probe_rights import check_rights
from vaults.probe_subject import ProbeFailedError, Subject, real_clock

logger = logging.getLogger(__name__)

ALARM = "probe_failed"
RIGHTS_ALARM = "rights_too_wide"
PROBE_EVERY = timedelta(hours=23)
# Somebody is mending it and waits for the next probe.
REFUSED_EVERY = timedelta(hours=1)


class Probe(Protocol):
    """Fills the report; raises ProbeFailedError or ProbeUnansweredError."""

    def __call__(self, vault: Vault, report: ProbeReport) -> None: ...


def run_probe(vault: Vault, *, now: datetime, probe: Probe = probe_vault) -> None:
    """Probe the vault and write down what was found, also when it fails. Raises as the probe does."""
    report = ProbeReport()
    try:
        probe(vault, report)
    finally:
        found: dict[str, object] = {"probed_at": now, "probe_report": report.checks}
        if report.capabilities:
            found["capabilities"] = report.capabilities
        Vault.objects.filter(pk=vault.pk).update(**found)


def due_vault(now: datetime) -> Vault | None:
    """The vault whose probe is due and waits longest."""
    ready = Q(status=Vault.Status.READY) & (Q(probed_at=None) | Q(probed_at__lte=now - PROBE_EVERY))
    refused = Q(status=Vault.Status.REFUSED) & (Q(probed_at=None) | Q(probed_at__lte=now - REFUSED_EVERY))
    waiting = Vault.objects.filter(ready | refused).order_by(F("probed_at").asc(nulls_first=True), "pk")
    return waiting.first()


def probe_again(*, vault_id: str, now: datetime, probe: Probe = probe_vault) -> None:
    """Probe a vault that was ready before; close it, open it again, or only raise the alarm."""
    vault = Vault.objects.select_related("endpoint").get(pk=vault_id)
    try:
        run_probe(vault, now=now, probe=probe)
    except ProbeFailedError as error:
        _settle(vault, status=Vault.Status.REFUSED, refusal=error.message, now=now)
        raise_alarm(vault, code=ALARM, message=f"{error.message} No new backups are made in this vault.", now=now)
        return
    except UnavailableError as error:
        raise_alarm(vault, code=ALARM, message=error.message, now=now)
        return
    _settle(vault, status=Vault.Status.READY, refusal="", now=now)
    clear_alarm(vault, code=ALARM, now=now)


def _settle(vault: Vault, *, status: str, refusal: str, now: datetime) -> None:
    settled = {Vault.Status.READY, Vault.Status.REFUSED}
    changed = Vault.objects.filter(pk=vault.pk, status__in=settled).update(
        status=status, refusal=refusal, checked_at=now
    )
    if changed and status != vault.status:
        logger.warning("vault changed by its probe", extra={"vault": vault.name, "status": status, "reason": refusal})


def check_rights_here(*, now: datetime) -> None:
    """What the credentials of this very process may do to each ready vault, beyond their task."""
    for vault in Vault.objects.select_related("endpoint").filter(status=Vault.Status.READY):
        try:
            check_rights(Subject(vault, real_clock()))
        except ProbeFailedError as error:
            raise_alarm(vault, code=RIGHTS_ALARM, message=error.message, now=now)
        except BackupsiteError as error:
            logger.warning("rights were not checked", extra={"vault": vault.name, "reason": error.message})
        else:
            clear_alarm(vault, code=RIGHTS_ALARM, now=now)
