"""Due definitions become jobs. Any number of beats may run this at once: a slot is taken once."""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import IntegrityError, transaction

from backups.queue import create_backup_job
from backups.telling import tell_of_late_run
from definitions.models import Definition
from definitions.services import advance
from tenants.models import Tenant

logger = logging.getLogger(__name__)

LARGEST_BATCH = 500


def dispatch_due(*, now: datetime) -> int:
    """Write a job for every definition that is due and move its next run behind `now`. Returns how many were written.

    After an outage each definition gets one catch-up run, not one per missed time.
    """
    due = Definition.objects.filter(active=True, next_run_at__lte=now, tenant__status=Tenant.Status.ACTIVE)
    chosen = due.select_related("disk__server__node", "vault").order_by("next_run_at")[:LARGEST_BATCH]
    return sum(_dispatch(definition, now) for definition in chosen)


def _dispatch(definition: Definition, now: datetime) -> bool:
    slot_at = definition.next_run_at
    try:
        with transaction.atomic():
            if not advance(definition=definition, now=now):
                return False
            create_backup_job(definition=definition, now=now, slot_at=slot_at, requested_by=None)
            tell_of_late_run(definition, slot_at=slot_at, now=now)
    except IntegrityError:
        # The slot has its job; only the advance is left to do.
        advance(definition=definition, now=now)
        return False
    logger.info("definition dispatched", extra={"definition": str(definition.pk), "slot_at": str(slot_at)})
    return True
