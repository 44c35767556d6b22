"""Taking backups out of the catalogue, by rule or by a person: one way, with what it does to the accounts."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from functools import partial
from uuid import UUID

from django.db import transaction

from backups.accounting import account_removal, hold_accounts
from backups.models import Backup
from backups.queue import hint_tending
from backups.states import BackupStatus


def take_out(ids: Collection[UUID], *, statuses: Collection[BackupStatus], now: datetime) -> list[UUID]:
    """Mark the backups as removed that are still in the catalogue with one of the statuses. Returns their ids.

    Their bytes stay until nothing needs them and their locks are over. May run twice.
    """
    with transaction.atomic():
        free = Backup.objects.in_catalogue().filter(pk__in=list(ids), status__in=list(statuses))
        hold_accounts(set(free.exclude(manifest=None).values_list("manifest__domain_id", flat=True)))
        chosen = list(free.select_for_update(of=("self",)).values_list("pk", "manifest_id"))
        Backup.objects.filter(pk__in=[pk for pk, _ in chosen]).update(removed_at=now)
        account_removal([manifest_id for _, manifest_id in chosen if manifest_id is not None])
        copies = Backup.objects.filter(pk__in=[pk for pk, _ in chosen]).exclude(storage=None).order_by()
        for storage_id, queue in {*copies.values_list("storage", "storage__node__name")}:
            transaction.on_commit(partial(hint_tending, storage_id, queue))
    return [pk for pk, _ in chosen]
