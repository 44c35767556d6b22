"""Checks with keys: which backup is due, and one check from its start to its note. Runs in the checks' worker.

    deep_verify(backup_id=..., clock=timezone.now, ends_at=..., asked_at=None) -> Verdict
    request_verification(backup=..., now=...)      for interfaces: the work is done in the background
    backups_to_verify(now=...) -> list[UUID]       the newest of each disk that had no check for a month

`verified_at` is when every block was opened last. What a customer's own key seals cannot be opened here: of such a
backup it is when the map was walked and every object hashed.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Max

from backups.checking import Outcome, Verdict, Watch, check_backup
from backups.models import Backup
from backups.queue import hint_verification
from backups.services import shown_status
from backups.states import BackupStatus
from common.errors import ConflictError, UnavailableError
from engine.errors import CanceledError, StoreError
from vaults.scrubber import Clock

logger = logging.getLogger(__name__)

VERIFY_AGAIN_AFTER = timedelta(days=30)
LONGEST_CHECK = timedelta(hours=6)
MOST_AT_ONCE = 50
_GOOD = (BackupStatus.OK, BackupStatus.RESTORE)


def deep_verify(*, backup_id: str | UUID, clock: Clock, ends_at: datetime, asked_at: datetime | None = None) -> Verdict:
    """Check one backup and note in its row what came of it. May run again; a check since `asked_at` is an answer."""
    backup = Backup.objects.select_related("manifest__domain", "vault__endpoint").filter(pk=backup_id).first()
    if backup is None or backup.removed_at is not None or backup.status not in _GOOD:
        return Verdict(Outcome.SKIPPED, "There is no such good backup.")
    if asked_at is not None and backup.verified_at is not None and backup.verified_at >= asked_at:
        return Verdict(Outcome.SKIPPED, "It was checked meanwhile.")
    try:
        verdict = check_backup(backup, Watch(backup.pk, clock, ends_at))
    except CanceledError:
        verdict = Verdict(Outcome.CANCELED, "Its time was over, or the backup was removed.")
    except UnavailableError as error:
        verdict = Verdict(Outcome.PUT_OFF, error.message)
    except StoreError as error:
        if not error.transient:
            raise
        verdict = Verdict(Outcome.PUT_OFF, error.message)
    facts = {"outcome": str(verdict.outcome), "reason": verdict.message}
    logger.info("backup checked", extra={"backup": str(backup.pk), **facts})
    return verdict


def request_verification(*, backup: Backup, now: datetime) -> None:
    """Ask for a check of a good backup. Requests that wait together are answered by one check."""
    if backup.removed_at is not None or backup.status not in _GOOD:
        raise ConflictError(
            f"The backup {backup.name} cannot be checked: it is {shown_status(backup)}.", code="backup_not_ok"
        )
    hint_verification(backup.pk, asked_at=now)


def request_due_verifications(*, now: datetime) -> int:
    """The daily run: ask for what is due, a bounded number at once. Returns how many."""
    due = backups_to_verify(now=now)[:MOST_AT_ONCE]
    for backup_id in due:
        hint_verification(backup_id, asked_at=now)
    return len(due)


def backups_to_verify(*, now: datetime) -> list[UUID]:
    """The newest good backup of each disk of which none was checked within 30 days; the longest unchecked first."""
    good = Backup.objects.in_catalogue().filter(status__in=_GOOD, disk__isnull=False, sequence__isnull=False)
    per_disk = good.order_by().values("disk").annotate(newest=Max("sequence"), checked=Max("verified_at"))
    due = [row for row in per_disk if row["checked"] is None or row["checked"] <= now - VERIFY_AGAIN_AFTER]
    due.sort(key=lambda row: (row["checked"] is not None, row["checked"] or now))
    newest = {(disk_id, sequence): pk for disk_id, sequence, pk in good.values_list("disk", "sequence", "pk")}
    return [newest[row["disk"], row["newest"]] for row in due if (row["disk"], row["newest"]) in newest]
