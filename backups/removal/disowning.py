"""Sessions that were running when the database was copied: what they committed since is not ours to know any more.

The copy says that such a session runs; in truth its backup may have been committed since, by a database that is gone.
So its job is ended here, which takes its token and its commit from whoever still holds them, and the manifests and
relocations that it was granted count as found, like those that the copy never heard of: adoption looks at each. So it
is with relocations of a repack that was under way: the packs that it moved may have been removed since.
"""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import transaction
from django.db.models import F

from backups.models import Session
from backups.states import JobKind, JobState
from backups.transitions import end_session_job
from engine.store.base import ObjectKind
from vaults.models import StoredObject
from vaults.own_objects import NO_SESSION

logger = logging.getLogger(__name__)

ENDED_CODE = "database_restored"
_MESSAGE = (
    "The database was brought back from a copy that was made while this ran. If the backup was finished since, it is "
    "taken into the catalogue again from the vault; otherwise run it again."
)
# What may make a backup of the rest: adopted when it is whole. Packs and envelopes are taken up with it.
_TELLING = (ObjectKind.MANIFEST, ObjectKind.RELOCATION)


def disown_running_sessions(*, now: datetime) -> int:
    """End the backups that the copy takes for running; returns how many. May run twice."""
    running = Session.objects.filter(job__kind=JobKind.BACKUP, job__state=JobState.RUNNING, job__fence=F("fence"))
    return sum(_disown(session, now=now) for session in running.select_related("job"))


def disown_running_repacks() -> int:
    """Let relocations of our own by which nothing is moved yet count as found; returns how many. May run twice."""
    unnoted = StoredObject.objects.filter(session_id=NO_SESSION, kind=ObjectKind.RELOCATION, relocated_packs=None)
    return unnoted.update(session_id=F("domain_id"))


def _disown(session: Session, *, now: datetime) -> bool:
    with transaction.atomic():
        ended = end_session_job(session, state=JobState.FAILED, code=ENDED_CODE, message=_MESSAGE, now=now)
        if ended:
            telling = StoredObject.objects.filter(session_id=session.pk, kind__in=_TELLING)
            telling.update(session_id=F("domain_id"))
    if ended:
        logger.warning("a session of a database copy was ended", extra={"job": str(session.job_id)})
    return ended
