"""The scrub of all vaults, each followed by what its findings mean for backups. Runs in the checks' worker."""

from __future__ import annotations

import logging
from dataclasses import replace

from backups.damage import review_damage
from common.errors import BackupsiteError
from vaults.models import Vault
from vaults.scrubber import Clock, ScrubLimits, scrub_vault

logger = logging.getLogger(__name__)


def scrub_everywhere(*, clock: Clock, limits: ScrubLimits) -> None:
    """One run over every vault; the run's time is shared evenly, and what one does not use is for the others.

    Trouble with one vault does not keep the others waiting.
    """
    ends_at = clock() + limits.longest
    vault_ids = list(Vault.objects.exclude(status=Vault.Status.PENDING).order_by("pk").values_list("pk", flat=True))
    for number, vault_id in enumerate(vault_ids):
        share = max(ends_at - clock(), limits.longest / 100) / (len(vault_ids) - number)
        try:
            scrub_vault(vault_id=str(vault_id), clock=clock, limits=replace(limits, longest=share))
        except BackupsiteError as error:
            logger.warning("scrub ended early", extra={"vault": str(vault_id), "reason": error.message})
        try:
            review_damage(vault_id=vault_id, now=clock())
        except BackupsiteError as error:
            logger.warning("damage not reviewed", extra={"vault": str(vault_id), "reason": error.message})
