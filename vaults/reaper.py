"""The reaper: deletes the versions that the journal orders, and nothing else. Runs in a process of its own.

It holds only the right to delete one version, and no right to get past a lock.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import F, Q

from vaults.ledger import settle_removal
from vaults.models import Removal, StoredObject
from vaults.storage import StorageRefusedError, StorageUnreachableError, delete_version

logger = logging.getLogger(__name__)

LARGEST_BATCH = 500
_FIRST_PAUSE = timedelta(minutes=10)
_LONGEST_PAUSE = timedelta(days=1)
_SILENT_PAUSE = timedelta(minutes=2)


def reap(*, now: datetime) -> int:
    """Carry out open orders; returns how many versions are gone. May be killed anywhere and run again.

    A refusal means a lock that is longer than the ledger knew: the order is tried again later, never forced.
    """
    due = Removal.objects.filter(Q(try_after=None) | Q(try_after__lte=now), done_at=None)
    # Whoever stops removal in a vault stops what was ordered there as well.
    due = due.filter(stored_object__vault__removal_stopped="")
    chosen = due.select_related("stored_object__vault__endpoint").order_by("ordered_at", "pk")[:LARGEST_BATCH]
    done = 0
    silent: set[UUID] = set()
    for removal in chosen:
        row = removal.stored_object
        if row.vault_id in silent:
            continue
        if row.status != StoredObject.Status.DELETING or not row.version_id:
            logger.error("the journal orders what the ledger does not", extra={"key": row.key, "status": row.status})
            continue
        try:
            delete_version(row.vault, key=row.key, version_id=row.version_id)
        except StorageRefusedError as error:
            _put_off(removal, refusal=str(error.extra.get("store_code", error.code)), now=now)
            continue
        except StorageUnreachableError as error:
            logger.warning("the vault does not answer the reaper", extra={"reason": error.message})
            silent.add(row.vault_id)
            _put_off_vault(row.vault_id, now=now)
            continue
        settle_removal(removal, now=now)
        done += 1
    return done


def _put_off_vault(vault_id: UUID, *, now: datetime) -> None:
    """Let the orders of other vaults come first until this one is tried again."""
    waiting = Removal.objects.filter(stored_object__vault_id=vault_id, done_at=None)
    waiting.update(try_after=now + _SILENT_PAUSE)


def _put_off(removal: Removal, *, refusal: str, now: datetime) -> None:
    pause = min(_FIRST_PAUSE * 2 ** min(removal.attempts, 10), _LONGEST_PAUSE)
    Removal.objects.filter(pk=removal.pk).update(
        attempts=F("attempts") + 1, last_refusal=refusal[:64], try_after=now + pause
    )
    logger.info("the store keeps a version", extra={"key": removal.stored_object.key, "refusal": refusal})
