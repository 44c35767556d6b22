"""One check of one backup: a restore to nowhere, or map and hashes where the keys are with the customer.

What is found wrong is noted as damage of objects; the health of all backups that need them follows from there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from uuid import UUID

from django.db.models import F
from django.db.models.functions import Coalesce

from agents.protocol import Progress
from backups.content import Content, open_content
from backups.damage import lost_objects, review_backup
from backups.heartbeat import Heartbeat
from backups.models import Backup
from backups.nowhere import read_everything, walk_map
from backups.states import BackupHealth
from backups.suspects import envelopes_that_do_not_open
from common.errors import ConflictError
from engine.errors import CanceledError, EngineError, KeyMismatchError, StoreError
from engine.fetching import RestoreKeys
from engine.restore import RestoreProgress
from engine.store.base import ObjectKind
from vaults.custody import CustomerKeyNeededError, session_data_keys
from vaults.damage import PRESENT, Damage
from vaults.models import StoredObject
from vaults.scrubber import Clock, look_again
from vaults.storage import Credential

logger = logging.getLogger(__name__)

_WHOLE = (None, Damage.SHORT_LOCK)


class Outcome(StrEnum):
    VERIFIED = "verified"
    # Map and hashes only: the blocks open with the customer's key alone.
    VERIFIED_WITHOUT_KEY = "verified_without_key"
    DAMAGED = "damaged"
    CANCELED = "canceled"
    # The store had trouble: nothing is known that was not known before.
    PUT_OFF = "put_off"
    SKIPPED = "skipped"
    TIMED_OUT = "timed_out"
    # Another worker has the job: what this one found does not count.
    LOST = "lost"
    # Neither the backup nor the store can be blamed.
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    message: str = ""


@dataclass(slots=True)
class Watch:
    """Ends a check whose time is over or that is not wanted any more, and says how far it is."""

    heartbeat: Heartbeat
    clock: Clock
    ends_at: datetime

    def is_over(self) -> bool:
        """Asked by the engine's threads: needs no database."""
        return self.heartbeat.stopped() or self.clock() >= self.ends_at

    def check(self) -> None:
        if self.is_over():
            raise CanceledError("the check was ended")

    def tell(self, phase: str, done_bytes: int, total_bytes: int) -> None:
        self.heartbeat.tell(Progress(phase=phase, done_bytes=done_bytes, total_bytes=total_bytes))


def check_backup(backup: Backup, watch: Watch) -> Verdict:
    """Check a good backup that comes with manifest, domain, vault and endpoint, and note what is damaged.

    That all is well is for the caller to note, by `note_good`, where nobody else can have the job any more.
    Raises CanceledError, and StoreError (transient) or UnavailableError for trouble of the store.
    """
    if backup.manifest is None:
        return Verdict(Outcome.SKIPPED, "A pending backup has nothing to check.")
    try:
        content = open_content(backup)
    except EngineError as error:
        if isinstance(error, StoreError) and error.transient:
            raise
        return _blame(backup, watch, [backup.manifest], error.message)
    sessions = {session.session_id.hex() for session in content.body.sessions if session.use_count}
    try:
        data_keys = session_data_keys(backup.manifest.domain, sessions, credential=Credential.KEEPER)
    except CustomerKeyNeededError:
        return _check_without_key(backup, content, watch)
    except ConflictError as error:
        return _blame(backup, watch, envelopes_that_do_not_open(backup.manifest.domain, sessions), error.message)
    keys = RestoreKeys(content.keys, {bytes.fromhex(session): key for session, key in data_keys.items()})
    return _check_with_keys(backup, content, keys, watch)


def _check_with_keys(backup: Backup, content: Content, keys: RestoreKeys, watch: Watch) -> Verdict:
    """What does not open though all bytes are right is tried a second time from the start before it is believed."""
    lost = {bytes.fromhex(row.sha256) for row in lost_objects(backup) if row.kind == ObjectKind.PACK}
    for phase in ("reading", "reading again"):
        try:
            found = read_everything(
                content, keys=keys, gone_packs=lost, tell=partial(_tell, watch, phase), cancel=watch.is_over
            )
        except KeyMismatchError as error:
            return _blame(backup, watch, needed_objects(backup, kind=ObjectKind.KEY), error.message)
        if found is None:
            return Verdict(Outcome.VERIFIED)
        looked = look_again(backup.vault, found.suspects, clock=watch.clock)
        if any(damage not in _WHOLE for damage in looked.values()):
            break
    return _blame(backup, watch, found.suspects, f"{found.lost_bytes} bytes do not open.")


def _tell(watch: Watch, phase: str, progress: RestoreProgress) -> None:
    watch.tell(phase, progress.done_bytes, progress.size_bytes)


def _check_without_key(backup: Backup, content: Content, watch: Watch) -> Verdict:
    lost_pages = walk_map(content, check=watch.check)
    if lost_pages is not None:
        return _blame(backup, watch, lost_pages.suspects, "A page of the map does not open.")
    rows = needed_objects(backup)
    total_bytes, done_bytes = sum(row.size_bytes for row in rows), 0
    for row in rows:
        watch.check()
        watch.tell("hashing", done_bytes, total_bytes)
        done_bytes += row.size_bytes
        looked = look_again(backup.vault, [row], clock=watch.clock)
        if row.pk not in looked:
            return Verdict(Outcome.PUT_OFF, "The vault did not answer for every object.")
        if looked[row.pk] not in _WHOLE:
            return _blame(backup, watch, [], f"{row.key} is damaged.")
    return Verdict(Outcome.VERIFIED_WITHOUT_KEY)


def needed_objects(backup: Backup, *, kind: str = "") -> list[StoredObject]:
    """What the backup's manifest names and the vault has; of one kind, or all."""
    rows = StoredObject.objects.filter(used_by__manifest=backup.manifest, status__in=PRESENT).order_by("pk")
    return list(rows.filter(kind=kind) if kind else rows)


def note_good(backup_id: UUID, outcome: Outcome, *, now: datetime) -> None:
    """The backup is whole, and so are the objects that did not open before."""
    does_not_open = StoredObject.objects.filter(used_by__manifest__backup=backup_id, damage=Damage.DOES_NOT_OPEN)
    if outcome is Outcome.VERIFIED:
        does_not_open.update(damage="", damaged_since=None)
    Backup.objects.in_catalogue().filter(pk=backup_id).update(
        verified_at=now, health=BackupHealth.VERIFIED, damage=[], damaged_bytes=0
    )


def _blame(backup: Backup, watch: Watch, suspects: Iterable[StoredObject], message: str) -> Verdict:
    """Note what is wrong with the suspects: other bytes by their hash; the right bytes, that they do not open."""
    watch.check()
    rows = {row.pk: row for row in suspects}
    looked = look_again(backup.vault, rows.values(), clock=watch.clock)
    right = [pk for pk, damage in looked.items() if damage in _WHOLE]
    StoredObject.objects.filter(pk__in=right, status__in=PRESENT).update(
        damage=Damage.DOES_NOT_OPEN, damaged_since=Coalesce(F("damaged_since"), watch.clock())
    )
    review_backup(backup_id=backup.pk)
    logger.error("backup does not verify", extra={"backup": str(backup.pk), "reason": message, "objects": len(rows)})
    return Verdict(Outcome.DAMAGED, message)
