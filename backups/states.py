"""States of jobs, statuses of backups, and which change may follow which. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum


class JobState(StrEnum):
    """A job's life: PENDING -> RUNNING -> OK / FAILED / CANCELED. A retry is a new job."""

    PENDING = "pending"
    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    CANCELED = "canceled"


class JobKind(StrEnum):
    """BACKUP and RESTORE are a node's work on a disk; VERIFY is the checks' worker's, on a backup.

    SERVE lets a node read a backup for some hours; it touches no disk.
    """

    BACKUP = "backup"
    RESTORE = "restore"
    VERIFY = "verify"
    SERVE = "serve"


class Priority(IntEnum):
    """Which waiting job of a node goes first: the greater, the sooner."""

    SCHEDULED = 1
    MANUAL = 2
    RESTORE = 3


class BackupStatus(StrEnum):
    """What a person sees of a backup. `ok` only after the control plane has seen every object with its lock."""

    PENDING = "pending"
    OK = "ok"
    RESTORE = "restore"
    LOST = "lost"


class BackupHealth(StrEnum):
    """What is known about the stored objects of a backup."""

    UNVERIFIED = "unverified"
    VERIFIED = "verified"
    DAMAGED = "damaged"
    MISSING = "missing"


ON_A_NODE = frozenset({JobKind.BACKUP, JobKind.RESTORE})
# While one of these runs the backup shows `restore`, and nothing of it is removed.
READING = frozenset({JobKind.RESTORE, JobKind.SERVE})
ACTIVE = frozenset({JobState.PENDING, JobState.RUNNING})
FINAL = frozenset(JobState) - ACTIVE

_FOLLOWING: Mapping[JobState, frozenset[JobState]] = {
    # RUNNING may follow RUNNING: a job whose lease ran out is taken over by another worker.
    JobState.PENDING: frozenset({JobState.RUNNING, JobState.CANCELED, JobState.FAILED}),
    JobState.RUNNING: frozenset({JobState.RUNNING, JobState.OK, JobState.FAILED, JobState.CANCELED}),
    JobState.OK: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELED: frozenset(),
}

JOB_STATE_CHOICES = [(str(state), str(state)) for state in JobState]
JOB_KIND_CHOICES = [(str(kind), str(kind)) for kind in JobKind]
HEALTH_CHOICES = [(str(health), str(health)) for health in BackupHealth]
BACKUP_STATUS_CHOICES = [(str(status), str(status)) for status in BackupStatus]


def may_follow(before: JobState, after: JobState) -> bool:
    return after in _FOLLOWING[before]


def states_before(after: JobState) -> list[str]:
    """From which states `after` can be reached, for a conditional update."""
    return [str(before) for before in JobState if may_follow(before, after)]
