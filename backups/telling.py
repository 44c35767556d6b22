"""What people and programs are told of jobs and backups: thin calls of `publish`, in the transaction of the change."""

from __future__ import annotations

from datetime import datetime, timedelta

from backups.models import Backup, Job
from backups.retrying import is_retried
from backups.states import BackupHealth, JobKind, JobState
from definitions.honest_states import Finding, State
from definitions.models import Definition
from definitions.schedule import next_run
from tenants.models import NoticeEvent
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
_DRILLS = {JobState.OK: "drill.passed", JobState.FAILED: "drill.failed"}
_BAD = (BackupHealth.DAMAGED, BackupHealth.MISSING)


def tell_of_job(job: Job, *, state: JobState, now: datetime, code: str = "", message: str = "") -> None:
    """The job began, is done or failed. Nothing is told of what a person canceled himself, and of checks but drills."""
    is_drill = job.kind == JobKind.VERIFY and job.drill_storage_id is not None
    event = _DRILLS.get(state) if is_drill else _EVENTS.get((JobKind(job.kind), state))
    if event is None or (state == JobState.FAILED and _is_tried_again(job, code)):
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
    cause = _cause(job.definition_id or job.disk_id) if is_backup else f"drills:{job.tenant_id}" if is_drill else ""
    name = str(job.disk or job.backup_name)
    told = publish(event=event, tenant=job.tenant, subject=job, facts=facts, cause=cause, name=name, at=now)
    if event == "restore.started":
        _tell_the_source(job, facts, besides=told, now=now)


def _tell_the_source(job: Job, facts: dict[str, str], *, besides: NoticeEvent | None, now: datetime) -> None:
    """A backup is restored onto another server: who sees the backup, but not the target, is told that it was read."""
    backup, target = job.backup, job.disk.server if job.disk else None
    if backup is None or target is None or backup.server_id == target.pk:
        return
    known = {name: facts[name] for name in ("backup", "code")}
    message = "It is restored onto another server."
    publish(
        event="restore.started",
        tenant=backup.tenant,
        subject=backup,
        facts={**known, "server": backup.server_name, "message": message},
        name=f"another server, of a backup of {backup.server_name}",
        at=now,
        besides=[besides],
    )


def _is_tried_again(job: Job, code: str) -> bool:
    """Then only the end of the last attempt is told."""
    active = job.definition is not None and job.definition.active
    return active and is_retried(code=code, attempt=job.attempt, scheduled=job.slot_at is not None)


def tell_of_late_run(definition: Definition, *, slot_at: datetime, now: datetime) -> None:
    """A run begins long after its time; when a later time has come meanwhile, one was left out.

    `alerting` may have told of this run already. Whoever tells holds the definition's row, so that one of them does.
    """
    if now - slot_at < LATE_AFTER:
        return
    following = next_run(cron=definition.cron, time_zone=definition.time_zone, after=slot_at)
    event = "backup.missed" if following is not None and following <= now else "backup.late"
    if _stands(event, definition, cause=_cause(definition.pk), since=slot_at):
        return
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


def tell_of_standing(definition: Definition, finding: Finding, *, now: datetime) -> None:
    """Something is wrong with how the definition protects. Late and missed runs may have been told of by dispatch."""
    event = f"backup.{finding.state}"
    cause = _standing_cause(definition, finding.state)
    since = finding.since if finding.state in {State.LATE, State.MISSED} else None
    if _stands(event, definition, cause=cause, since=since):
        return
    facts = {"server": definition.disk.server.name, "definition": definition.name, "message": finding.sentence}
    publish(
        event=event,
        tenant=definition.tenant,
        subject=definition,
        facts=facts,
        cause=cause,
        name=str(definition.disk),
        at=now,
    )


def tell_that_protected(definition: Definition, state: str, *, now: datetime) -> None:
    """That is over. The end of late and missed runs is told of with the good backup itself."""
    if state in {State.LATE, State.MISSED}:
        return
    facts = {"server": definition.disk.server.name, "definition": definition.name, "code": state}
    publish(
        event="backup.protected",
        tenant=definition.tenant,
        subject=definition,
        facts=facts,
        cause=_standing_cause(definition, state),
        name=str(definition.disk),
        at=now,
    )


def _stands(event: str, definition: Definition, *, cause: str, since: datetime | None) -> bool:
    """Whether it was told, to this tenant and since that run was due, and is not over.

    Of what was missed nobody needs to hear that it is late.
    """
    as_bad = {event, "backup.missed"} if event == "backup.late" else {event}
    told = NoticeEvent.objects.filter(cause=cause, code__in=as_bad, open=True, tenant_id=definition.tenant_id)
    return (told if since is None else told.filter(at__gte=since)).exists()


def _standing_cause(definition: Definition, state: str) -> str:
    return _cause(definition.pk) if state in {State.LATE, State.MISSED} else f"standing:{state}:{definition.pk}"


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
