"""Points that drivers leave on nodes: how they are named, and which of them a later backup may still need.

A point belongs to one backup. Until the next backup of its disk is `ok` it is kept; whatever else of ours is found on
the node is a leftover.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import F

from agents.drivers.base import POINT_PREFIX
from agents.models import Disk
from agents.protocol import FactsMessage, WarnedMessage
from backups.models import Backup, BackupQuerySet, Job, Session
from backups.states import BackupStatus, JobKind, JobState
from common.ids import new_id

FIRST = "first_backup"
RESTORED = "restored_since"
NO_POINT = "no_point"
LONGEST_NAME = 80
SAFETY_KEPT_FOR = timedelta(days=7)
_MOST_WARNINGS = 20


def point_name() -> str:
    """A name that no point has yet."""
    return f"{POINT_PREFIX}{new_id().hex}"


def safety_name(job_id: UUID) -> str:
    """What a restore calls the snapshot of what was on its target before."""
    return f"{POINT_PREFIX}before-{job_id.hex}"


def good_backups(disk_ids: Collection[UUID]) -> BackupQuerySet:
    """Backups of the disks that can be restored."""
    good: BackupQuerySet = Backup.objects.in_catalogue().filter(
        disk__in=disk_ids, status__in=[BackupStatus.OK, BackupStatus.RESTORE]
    )
    return good


def why_no_point(base: Backup | None, disk: Disk) -> str:
    """A stable code for why nothing on the node can tell what changed since the base; empty when its point can."""
    if base is None:
        return FIRST
    if not base.point:
        return NO_POINT
    restores = Job.objects.filter(disk=disk, kind=JobKind.RESTORE, started_at__gte=base.created_at)
    return RESTORED if restores.exists() else ""


def kept_points(disks: Collection[Disk], *, now: datetime) -> set[str]:
    """What is not to be removed: points of the newest good backups, and of sessions that may still become some; and
    snapshots of what was on a disk before a restore, for a week.

    One list for all disks of a server: a point can be of several disks at once.
    """
    ids = [disk.pk for disk in disks]
    kept = set()
    for disk_id in ids:
        with_point = good_backups([disk_id]).exclude(point="")
        # Backups in another place, or of another type, have a base of their own.
        for place in with_point.order_by().values("type", "vault", "storage").distinct():
            newest = with_point.filter(**place).order_by("-created_at").values_list("point", flat=True)
            kept |= set(newest[:1])
    return kept | _points_under_way(ids) | _safety_points(ids, now)


def _safety_points(disk_ids: Collection[UUID], now: datetime) -> set[str]:
    """Also of restores whose writer was lost before it could say that there is one."""
    restores = Job.objects.filter(disk__in=disk_ids, kind=JobKind.RESTORE, created_at__gt=now - SAFETY_KEPT_FOR)
    return {safety_name(job_id) for job_id in restores.values_list("pk", flat=True)}


def _points_under_way(disk_ids: Collection[UUID]) -> set[str]:
    """A writer is done and its commit is not: its point is the base of the next backup, should it become `ok`."""
    running = Session.objects.filter(
        job__disk__in=disk_ids, job__state=JobState.RUNNING, job__fence=F("fence"), commit_requested_at__isnull=False
    )
    requests = running.values_list("new_point", "commit_request")
    return {(request or {}).get("facts", {}).get("point") or named for named, request in requests} - {""}


def told_facts(session: Session, facts: FactsMessage) -> dict[str, object]:
    """The backup's columns for what its mover says the driver said, within bounds. A foreign point is none."""
    own = facts.point == session.new_point or facts.point.startswith(f"{session.new_point}-")
    point = facts.point if session.new_point and own and len(facts.point) <= LONGEST_NAME else ""
    return {
        "frozen": facts.frozen,
        "point": point,
        # A driver that leaves no points reads everything each time: no reason has to be given for that.
        "full_reason": (facts.full_reason or (session.full_reason if point else ""))[:64],
        "has_configuration": facts.has_configuration,
        "warnings": bounded_warnings(facts.warnings),
    }


def bounded_warnings(warnings: Sequence[WarnedMessage]) -> list[dict[str, str]]:
    """Words of another machine: never more than shown."""
    return [{"code": one.code[:64], "message": one.message[:500]} for one in warnings[:_MOST_WARNINGS]]
