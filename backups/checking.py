"""One check of one backup: a restore to nowhere, or map and hashes where the keys are with the customer.

What is found wrong is noted as damage of objects; the health of all backups that need them follows from there.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from django.db.models import F
from django.db.models.functions import Coalesce

from backups.content import Content, open_content, relocations_of
from backups.damage import lost_objects, review_backup
from backups.models import Backup
from backups.states import BackupHealth
from backups.suspects import envelopes_that_do_not_open, objects_under
from common.errors import ConflictError
from engine.errors import CanceledError, DamagedError, EngineError, KeyMismatchError, StoreError
from engine.fetching import RestoreKeys
from engine.manifest import CONTENT_DISK
from engine.ranges import ByteRange
from engine.repository import walk_leaves
from engine.restore import RestoreProgress, restore_disk
from engine.store.base import ObjectKind
from vaults.custody import CustomerKeyNeededError, session_data_keys
from vaults.damage import PRESENT, Damage
from vaults.models import StoredObject
from vaults.scrubber import Clock, look_again
from vaults.storage import Credential

logger = logging.getLogger(__name__)

_LOOK_AROUND_EVERY = timedelta(seconds=10)
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


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    message: str = ""


@dataclass(slots=True)
class Nowhere:
    """A target that takes a restore and keeps nothing."""

    size_bytes: int

    def write(self, offset: int, data: bytes) -> None: ...

    def zero(self, offset: int, length: int) -> None: ...

    def flush(self) -> None: ...


@dataclass(slots=True)
class Watch:
    """Ends a check whose time is over or whose backup was removed, and says how far it is."""

    backup_id: UUID
    clock: Clock
    ends_at: datetime
    is_removed: bool = False
    looked_at: datetime | None = None

    def is_over(self) -> bool:
        """Asked by the engine's threads: needs no database."""
        return self.is_removed or self.clock() >= self.ends_at

    def check(self) -> None:
        if self.is_over():
            raise CanceledError("the check was ended")

    def look_around(self, progress: RestoreProgress) -> None:
        now = self.clock()
        if self.looked_at is not None and now < self.looked_at + _LOOK_AROUND_EVERY:
            return
        self.looked_at = now
        self.is_removed = not Backup.objects.in_catalogue().filter(pk=self.backup_id).exists()
        facts = {"done_bytes": progress.done_bytes, "size_bytes": progress.size_bytes}
        logger.info("checking a backup", extra={"backup": str(self.backup_id), **facts})


def check_backup(backup: Backup, watch: Watch) -> Verdict:
    """Check a good backup that comes with manifest, domain, vault and endpoint, and note what came of it.

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
    if content.body.content != CONTENT_DISK:
        return Verdict(Outcome.SKIPPED, "Only disk images are checked in this version.")
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
    for is_last in (False, True):
        try:
            ranges = _restore_nowhere(backup, content, keys, watch)
        except KeyMismatchError as error:
            return _blame(backup, watch, needed_objects(backup, kind=ObjectKind.KEY), error.message)
        if not ranges:
            return _note_good(backup, watch, Outcome.VERIFIED)
        suspects = objects_under(content, ranges)
        looked = look_again(backup.vault, suspects, clock=watch.clock)
        if is_last or any(damage not in _WHOLE for damage in looked.values()):
            break
    total_bytes = sum(length for _, length in ranges)
    return _blame(backup, watch, suspects, f"{total_bytes} bytes in {len(ranges)} ranges do not open.")


def _restore_nowhere(backup: Backup, content: Content, keys: RestoreKeys, watch: Watch) -> Collection[ByteRange]:
    """The ranges that cannot be restored; none when the backup is whole."""
    lost = {bytes.fromhex(row.sha256) for row in lost_objects(backup) if row.kind == ObjectKind.PACK}
    try:
        restore_disk(
            manifest_ref=content.ref,
            object_source=content.source,
            keys=keys,
            trusted_writers=[content.info.writer_public_key],
            target=Nowhere(content.body.size_bytes),
            relocations=relocations_of(content),
            gone_packs=lost,
            progress=watch.look_around,
            cancel=watch.is_over,
        )
    except DamagedError as error:
        return error.ranges
    return ()


def _check_without_key(backup: Backup, content: Content, watch: Watch) -> Verdict:
    for span in walk_leaves(content.map_reader()):
        watch.check()
        if span.entries is None:
            pages = objects_under(content, [(span.offset, span.length)])
            return _blame(backup, watch, pages, "A page of the map does not open.")
    for row in needed_objects(backup):
        watch.check()
        looked = look_again(backup.vault, [row], clock=watch.clock)
        if row.pk not in looked:
            return Verdict(Outcome.PUT_OFF, "The vault did not answer for every object.")
        if looked[row.pk] not in _WHOLE:
            return _blame(backup, watch, [], f"{row.key} is damaged.")
    return _note_good(backup, watch, Outcome.VERIFIED_WITHOUT_KEY)


def needed_objects(backup: Backup, *, kind: str = "") -> list[StoredObject]:
    """What the backup's manifest names and the vault has; of one kind, or all."""
    rows = StoredObject.objects.filter(used_by__manifest=backup.manifest, status__in=PRESENT).order_by("pk")
    return list(rows.filter(kind=kind) if kind else rows)


def _note_good(backup: Backup, watch: Watch, outcome: Outcome) -> Verdict:
    does_not_open = StoredObject.objects.filter(used_by__manifest=backup.manifest, damage=Damage.DOES_NOT_OPEN)
    if outcome is Outcome.VERIFIED:
        does_not_open.update(damage="", damaged_since=None)
    Backup.objects.in_catalogue().filter(pk=backup.pk).update(
        verified_at=watch.clock(), health=BackupHealth.VERIFIED, damage=[], damaged_bytes=0
    )
    return Verdict(outcome)


def _blame(backup: Backup, watch: Watch, suspects: Iterable[StoredObject], message: str) -> Verdict:
    """Note what is wrong with the suspects: other bytes by their hash; the right bytes, that they do not open."""
    rows = {row.pk: row for row in suspects}
    looked = look_again(backup.vault, rows.values(), clock=watch.clock)
    right = [pk for pk, damage in looked.items() if damage in _WHOLE]
    StoredObject.objects.filter(pk__in=right, status__in=PRESENT).update(
        damage=Damage.DOES_NOT_OPEN, damaged_since=Coalesce(F("damaged_since"), watch.clock())
    )
    review_backup(backup_id=backup.pk)
    logger.error("backup does not verify", extra={"backup": str(backup.pk), "reason": message, "objects": len(rows)})
    return Verdict(Outcome.DAMAGED, message)
