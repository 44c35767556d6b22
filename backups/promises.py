"""What a backup promises: the lock rule that its definition and its vault give together."""

from __future__ import annotations

from datetime import timedelta

from backups.models import Job
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
