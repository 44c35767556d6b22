"""What an earlier attempt at a backup left in the vault for the next one to go on with. Used by the signer process."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db.models import Exists, OuterRef, QuerySet

from agents.protocol import ObjectMessage, ResumableMessage
from backups.lost_claims import MOST_CLAIMS
from backups.models import Session
from engine.store.base import ObjectKind
from vaults.custody import customer_key_since
from vaults.locks import LONGEST_SESSION
from vaults.models import StoredObject

# A writer goes on with the newest attempts; what older ones left is removed after its lock. Were these fewer than the
# claims that a job may have, a job that is lost often would send again and again what its first claims had stored.
MOST_ATTEMPTS = MOST_CLAIMS
_USABLE = [StoredObject.Status.GRANTED, StoredObject.Status.STORED, StoredObject.Status.CONDEMNED]


def resumable_objects(session: Session, now: datetime) -> QuerySet[StoredObject]:
    """Packs and envelopes that attempts at the same disk stored within the last day and no backup needs.

    Nobody knows yet whether they arrived: the writer looks, and the commit looks again.
    """
    disk_id, domain_id = session.job.disk_id, session.job.disk.server.domain_id
    left = Exists(StoredObject.objects.filter(session_id=OuterRef("pk")))
    attempts = Session.objects.filter(left, job__disk_id=disk_id).exclude(pk=session.pk)
    since = customer_key_since(session.job.tenant_id)
    if since is not None:
        # Sealed to the customer's key before this one, an attempt would make a backup that needs both.
        attempts = attempts.filter(created_at__gt=since)
    newest = list(attempts.order_by("-created_at").values_list("pk", flat=True)[:MOST_ATTEMPTS])
    return StoredObject.objects.filter(
        domain_id=domain_id,
        session_id__in=newest,
        kind__in=[ObjectKind.PACK, ObjectKind.KEY],
        status__in=_USABLE,
        granted_at__gt=now - LONGEST_SESSION,
        used_by=None,
        damaged_since=None,
    )


def resumable_sessions(session: Session, now: datetime) -> list[ResumableMessage]:
    """The same for the writer: per attempt its envelope and its packs in the order they were granted."""
    envelopes: dict[UUID, StoredObject] = {}
    packs: dict[UUID, list[StoredObject]] = {}
    for row in resumable_objects(session, now).order_by("pk"):
        if row.kind == ObjectKind.KEY:
            envelopes[row.session_id] = row
        else:
            packs.setdefault(row.session_id, []).append(row)
    return [
        ResumableMessage(
            # The writer's own session id is inside of the envelope; this one only tells attempts apart.
            session_id=attempt.hex,
            envelope=_message(envelopes[attempt]),
            packs=[_message(row) for row in rows],
        )
        for attempt, rows in packs.items()
        if attempt in envelopes
    ]


def _message(row: StoredObject) -> ObjectMessage:
    return ObjectMessage(key=row.key, sha256=row.sha256, size_bytes=row.size_bytes, version_id=row.version_id or None)
