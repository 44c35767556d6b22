"""Restore drills: each week a random good backup of each tenant is restored for real, to a scratch file, and compared.

    request_due_drills(now=..., choose=...) -> list[Job]     hourly; does something in the hour of drills only
    request_drill(backup=..., actor=..., now=...) -> Job     now
    settle_drill(session, done) -> bool                      it passed

A drill is a check of its backup, run by a node on a storage that is set aside for that and attached to the tenant. It
reads the vault and writes the scratch file; nothing else is touched. Only what is a disk image in a vault is drilled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.utils import timezone

from agents.models import Node, Storage
from agents.protocol import RestoreDone
from backups.models import Backup, BackupQuerySet, Job, Session
from backups.queue import announce_restore
from backups.services import refuse_source
from backups.states import BackupStatus, JobKind, Priority
from backups.transitions import finish_job
from common.errors import BackupsiteError, ConflictError
from engine.manifest import CONTENT_DISK
from tenants.models import Person, Tenant

logger = logging.getLogger(__name__)

EVERY = timedelta(days=7)
# An hour's run may begin a little earlier than that of a week ago.
SLACK = timedelta(hours=1)
# Of a tenant some backups cannot be drilled: so many are tried.
MOST_TRIED = 10


def request_due_drills(*, now: datetime, hour: int, choose: Callable[[int], int]) -> list[Job]:
    """Ask for a drill of each tenant that had none for a week, when it is the hour (UTC; negative: never).

    `choose(n)` gives a number below n. May run twice.
    """
    if now.hour != hour:
        return []
    drilled = Job.objects.filter(drill_storage__isnull=False, created_at__gt=now - EVERY + SLACK)
    tenants = Tenant.objects.filter(status=Tenant.Status.ACTIVE, storages__for_drills=True).distinct()
    jobs = (
        _drill_one(tenant, now=now, choose=choose)
        for tenant in tenants.exclude(pk__in=drilled.values("tenant")).order_by("pk")
    )
    return [job for job in jobs if job is not None]


def _drill_one(tenant: Tenant, *, now: datetime, choose: Callable[[int], int]) -> Job | None:
    good = drillable().filter(tenant=tenant).order_by("pk")
    count = good.count()
    for _ in range(min(count, MOST_TRIED)):
        backup = good[choose(count)]
        try:
            return request_drill(backup=backup, actor=None, now=now)
        except BackupsiteError as error:
            logger.info("a backup is not drilled", extra={"backup": str(backup.pk), "reason": error.message})
    return None


def drillable() -> BackupQuerySet:
    """Disk images in vaults, good ones."""
    good: BackupQuerySet = Backup.objects.in_catalogue().filter(
        status=BackupStatus.OK, content=CONTENT_DISK, vault__isnull=False, manifest__isnull=False
    )
    return good.select_related("tenant", "manifest__domain")


def can_be_drilled(backup: Backup) -> bool:
    """Whether asking for a drill is worth a try: the kind of backup, and a storage that is set aside."""
    places = Storage.objects.filter(for_drills=True, tenants=backup.tenant_id)
    return places.exists() and drillable().filter(pk=backup.pk).exists()


@transaction.atomic
def request_drill(*, backup: Backup, actor: Person | None, now: datetime) -> Job:
    """Raises ConflictError for what cannot be drilled, and where no storage is set aside with room for it."""
    refuse_source(backup)
    if not drillable().filter(pk=backup.pk).exists():
        raise ConflictError("Only disk images in a vault are drilled.", code="not_drilled")
    storage = _place_for(backup)
    try:
        with transaction.atomic():
            job = Job.objects.create(
                kind=JobKind.VERIFY,
                tenant_id=backup.tenant_id,
                node=storage.node,
                disk_id=backup.disk_id,
                backup=backup,
                backup_name=backup.name,
                requested_by=actor,
                total_bytes=backup.size_bytes,
                priority=Priority.SCHEDULED if actor is None else Priority.MANUAL,
                drill_storage=storage,
            )
    except IntegrityError as error:
        message = "A check of this backup is under way. Try again after it."
        raise ConflictError(message, code="check_under_way") from error
    announce_restore(job, now=now)
    return job


def _place_for(backup: Backup) -> Storage:
    """The one with most room. A tenant's data is written only where the tenant is attached."""
    places = Storage.objects.filter(
        for_drills=True, tenants=backup.tenant_id, path__startswith="/", node__status=Node.Status.ONLINE
    )
    places = places.filter(free_bytes__gt=backup.size_bytes).select_related("node")
    storage = places.order_by("-free_bytes", "pk").first()
    if storage is None:
        raise ConflictError(
            "No storage is set aside for restore drills that is on a node that is online, attached to the backup's "
            f"tenant, and has {backup.size_bytes} bytes free. Set one aside on the page of its node.",
            code="no_drill_storage",
        )
    return storage


def settle_drill(session: Session, done: RestoreDone) -> bool:
    """False when the session has lost its job."""
    job, now = session.job, timezone.now()
    return finish_job(
        session,
        now=now,
        message=f"{done.written_bytes} bytes were restored to a scratch file, read again, compared and removed.",
        usage=done.usage,
        also=lambda: Backup.objects.filter(pk=job.backup_id).update(drilled_at=now),
        done_bytes=job.total_bytes,
    )
