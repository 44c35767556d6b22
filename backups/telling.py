"""What people and programs are told of jobs and backups: thin calls of `publish`, in the transaction of the change."""

from __future__ import annotations

from datetime import datetime, timedelta

from backups.models import Backup, Job
from backups.states import BackupHealth, JobKind, JobState
from definitions.models import Definition
from definitions.schedule import next_run
from tenants.notices import publish

# A run may wait for its turn; what starts later than that is told of.
LATE_AFTER = timedelta(minutes=15)
_EVENTS = {
    (JobKind.BACKUP, JobState.OK): "backup.ok",
    (JobKind.BACKUP, JobState.FAILED): "backup.failed",
    (JobKind.RESTORE, JobState.RUNNING): "restore.started",
    (JobKind.RESTORE, JobState.OK): "restore.done",
    (JobKind.RESTORE, JobState.FAILED): "restore.failed",
}
_BAD = (BackupHealth.DAMAGED, BackupHealth.MISSING)


def tell_of_job(job: Job, *, state: JobState, now: datetime, code: str = "", message: str = "") -> None:
    """The job began, is done or failed. Nothing is told of what a person canceled himself, and of checks."""
    event = _EVENTS.get((JobKind(job.kind), state))
    if event is None:
        return
    facts = {
        "server": job.disk.server.name if job.disk else "",
        "definition": job.definition.name if job.definition else "",
        "backup": job.backup_name,
        "job": str(job.pk),
        "code": code,
        "message": message,
        "requested_by": str(job.requested_by or ""),
    }
    is_backup = job.kind == JobKind.BACKUP
    cause = _cause(job.definition_id or job.disk_id) if is_backup else ""
    name = str(job.disk or job.backup_name)
    publish(event=event, tenant=job.tenant, subject=job, facts=facts, cause=cause, name=name, at=now)


def tell_of_late_run(definition: Definition, *, slot_at: datetime, now: datetime) -> None:
    """A run begins long after its time; when a later time has come meanwhile, one was left out."""
    if now - slot_at < LATE_AFTER:
        return
    following = next_run(cron=definition.cron, time_zone=definition.time_zone, after=slot_at)
    event = "backup.missed" if following is not None and following <= now else "backup.late"
    facts = {
        "server": definition.disk.server.name,
        "definition": definition.name,
        "message": f"It was due at {slot_at:%Y-%m-%d %H:%M} UTC.",
    }
    publish(
        event=event,
        tenant=definition.tenant,
        subject=definition,
        facts=facts,
        cause=_cause(definition.pk),
        name=str(definition.disk),
        at=now,
    )


def tell_of_health(backup: Backup, *, before: str, after: BackupHealth, damaged_bytes: int) -> None:
    """A backup became damaged, or whole again."""
    if (before in _BAD) == (after in _BAD):
        return
    facts = {
        "server": backup.server_name,
        "backup": backup.name,
        "health": str(after),
        "damaged_bytes": damaged_bytes,
    }
    event = "verify.damaged" if after in _BAD else "verify.whole"
    name = f"{backup.server_name} disk {backup.disk_number}"
    cause = f"backup:{backup.pk}"
    publish(event=event, tenant=backup.tenant, subject=backup, facts=facts, cause=cause, name=name)


def _cause(of: object) -> str:
    return f"backups:{of}"
