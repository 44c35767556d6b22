"""What a backup promises: the lock rule that its definition and its vault give together, and what was promised."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from django.db.models import Max, Q

from backups import accounting
from backups.models import Backup, Job
from vaults import catalogue_seam
from vaults.locks import LockRule


def lock_rule_of(job: Job) -> LockRule:
    """The rule of the job's vault, or of its definition when that promises longer; on shared packs too.

    The job must have its backup.
    """
    if job.backup is None:
        raise ValueError("a job without a backup promises nothing")
    days = job.backup.vault.immutable_days
    if job.definition is not None and job.definition.immutable_days is not None:
        days = max(days, job.definition.immutable_days)
    return LockRule(promised=timedelta(days=days))


def promised_until(object_id: int, *, now: datetime) -> datetime | None:
    """The latest date until which a backup that needs the object, removed or not, was promised; None without one.

    A backup that says to be from the future was promised nothing: only a host that lies can have dated it.
    """
    needing = Backup.objects.filter(Q(manifest=object_id) | Q(manifest__uses__needed=object_id), finished_at__lte=now)
    latest: datetime | None = needing.aggregate(latest=Max("immutable_until"))["latest"]
    return latest


class _Catalogue:
    """The catalogue as `vaults` asks it."""

    def add_uses(self, needed_id: int, manifest_ids: Collection[int]) -> None:
        accounting.add_uses(needed_id, manifest_ids)

    def promised_until(self, object_id: int, *, now: datetime) -> datetime | None:
        return promised_until(object_id, now=now)


def register_catalogue() -> None:
    """Called once, when the application starts."""
    catalogue_seam.register(_Catalogue())
