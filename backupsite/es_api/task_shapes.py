"""Jobs as tasks of the es grammar."""

from __future__ import annotations

from typing import Any

from backups.models import Job
from backups.states import JobKind, JobState
from tenants.serializers import UtcDateTimeField

# The status of `GET /task/<id>/status`, and its word.
STATES: dict[str, tuple[int, str]] = {
    JobState.PENDING: (201, "PENDING"),
    JobState.RUNNING: (201, "PENDING"),
    JobState.OK: (200, "SUCCESS"),
    JobState.FAILED: (400, "FAILURE"),
    JobState.CANCELED: (410, "REVOKED"),
}
_DONE = {JobKind.BACKUP: "was created", JobKind.RESTORE: "was restored", JobKind.VERIFY: "was checked"}
_VERBS = {JobKind.BACKUP: "Create", JobKind.RESTORE: "Restore", JobKind.VERIFY: "Check"}


def moment(value: Any) -> str | None:
    """ISO 8601 in UTC, or None."""
    return None if value is None else UtcDateTimeField().to_representation(value)


def task_status(job: Job) -> tuple[int, dict[str, Any]]:
    """Status code and body."""
    code, word = STATES[job.state]
    return code, {"task_id": str(job.pk), "status": word, "result": _result(job) if code != 201 else None}


def _result(job: Job) -> dict[str, Any]:
    """`detail` is how its clients learn the name of what was made."""
    succeeded = job.state == JobState.OK
    told = (
        f"Backup {job.backup_name} {_DONE.get(JobKind(job.kind), 'is done')}." if succeeded else job.message or job.code
    )
    facts = {"message": told, "returncode": 0 if succeeded else 1, "detail": _about(job), "bkpname": job.backup_name}
    return facts if succeeded else {**facts, "code": job.code}


def _about(job: Job) -> str:
    """In the words of that grammar's task log."""
    target = "target_" if job.kind == JobKind.RESTORE else ""
    where = (f"'{job.disk.server.name}'", str(job.disk.number)) if job.disk else ("null", "null")
    return f"{target}hostname={where[0]}, bkpname='{job.backup_name}', {target}disk_id={where[1]}"


def task_details(job: Job) -> dict[str, Any]:
    """What the task is about and how far it is. Sizes in bytes."""
    return {
        "task_id": str(job.pk),
        "view": "vm_backup",
        "method": "POST" if job.kind == JobKind.BACKUP else "PUT",
        "hostname": job.disk.server.name if job.disk else None,
        "disk_id": job.disk.number if job.disk else None,
        "bkpname": job.backup_name,
        "status": STATES[job.state][1],
        "state": job.state,
        "phase": job.phase,
        "done_bytes": job.done_bytes,
        "total_bytes": job.total_bytes,
        "percent": job.percent(),
        "waits": job.waits,
        "created": moment(job.created_at),
        "started": moment(job.started_at),
    }


def log_line(job: Job) -> dict[str, Any]:
    """The job as a line of the task log."""
    return {
        "time": moment(job.finished_at or job.created_at),
        "task": str(job.pk),
        "status": STATES[job.state][1],
        "username": job.requested_by.username if job.requested_by else None,
        "msg": f"{_VERBS.get(JobKind(job.kind), 'Work on')} backup of server's disk",
        "detail": "; ".join(part for part in (_about(job), job.message) if part),
        "object_name": job.disk.server.name if job.disk else None,
        "object_alias": job.disk.server.name if job.disk else None,
        "object_type": "vm",
        "flag": None,
    }
