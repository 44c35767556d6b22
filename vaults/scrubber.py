"""The scrub: every stored byte is read and hashed once in 30 days, new objects within a day. No key is needed.

What looks wrong is looked at once more over a fresh connection before it is called damaged; trouble with the store is
never damage. Nothing is deleted or replaced. Two processes may scrub one vault at once: that costs reads only.

    scrub_vault(vault_id=..., clock=timezone.now, limits=ScrubLimits()) -> ScrubResult
    look_again(vault, rows, clock=...) -> dict[int, Damage | None]      at once, whatever is due
"""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from django.db.models import F
from django.db.models.functions import Coalesce, Substr

from engine.throttle import Throttle
from engine.waiting import never_cancel
from vaults import scrub_alarms
from vaults.catalogue_seam import catalogue
from vaults.damage import PRESENT, Damage
from vaults.looking import Look, look_at
from vaults.models import StoredObject, Vault
from vaults.storage import Credential, StorageRefusedError, StorageUnreachableError, extend_lock, store_time
from vaults.stripes import is_due

logger = logging.getLogger(__name__)

PARALLEL_READS = 2
_OBJECTS_AT_ONCE = 16
_ROWS_AT_ONCE = 5000

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class ScrubLimits:
    """How fast one run may read and how long it may take; a part that has begun is finished."""

    bytes_per_second: int = 64 * 1024 * 1024
    longest: timedelta = timedelta(minutes=8)


@dataclass(slots=True)
class ScrubResult:
    """What one run did; the lists hold ids of objects that became damaged, and of those found whole again."""

    looked_at: int = 0
    read_bytes: int = 0
    damaged: list[int] = field(default_factory=list)
    mended: list[int] = field(default_factory=list)
    # Looked at without a clear answer: they stay due.
    put_off: int = 0
    is_complete: bool = True


def scrub_vault(
    *,
    vault_id: str,
    clock: Clock,
    limits: ScrubLimits | None = None,
    seconds: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ScrubResult:
    """Read what is due until it is done or the time is over. May be killed anywhere and run again.

    Raises UnavailableError when the store does not answer at all; what was read until then counts.
    """
    limits = limits or ScrubLimits()
    vault = Vault.objects.select_related("endpoint").get(pk=vault_id)
    throttle = Throttle(bytes_per_second=limits.bytes_per_second, clock=seconds, sleep=sleep, cancel=never_cancel)
    ends_at = clock() + limits.longest
    result = ScrubResult()
    try:
        for ids in _parts(due_objects(vault, now=clock())):
            if clock() >= ends_at:
                result.is_complete = False
                break
            _scrub_part(vault, ids, throttle=throttle, clock=clock, result=result)
    finally:
        scrub_alarms.settle(vault, now=clock())
    counts = {"objects": result.looked_at, "bytes": result.read_bytes, "put_off": result.put_off}
    logger.info("scrub", extra={"vault": vault.name, **counts})
    return result


def due_objects(vault: Vault, *, now: datetime) -> Sequence[int]:
    """Ids of the objects to read: those never read first, both in the order in which they were written."""
    rows = StoredObject.objects.filter(vault=vault, status__in=PRESENT).order_by("pk")
    facts = rows.values_list("pk", Substr("sha256", 1, 8), "read_at", "damaged_since")
    never, again = array("q"), array("q")
    for pk, sha256, read_at, damaged_since in facts.iterator(chunk_size=_ROWS_AT_ONCE):
        if is_due(sha256=sha256, read_at=read_at, is_damaged=damaged_since is not None, now=now):
            (never if read_at is None else again).append(pk)
    return never + again


def look_again(vault: Vault, rows: Iterable[StoredObject], *, clock: Clock) -> dict[int, Damage | None]:
    """Read these objects now and note what is found, as the scrub does. Those without a clear answer are left out."""
    found: dict[int, Damage | None] = {}
    for row in rows:
        look = look_at(vault, row, now=clock())
        look = look if look.is_good else look_at(vault, row, now=clock(), fresh_connection=True)
        if look.is_clear:
            _note(vault, row, look, now=clock(), result=ScrubResult())
            found[row.pk] = look.damage
    scrub_alarms.settle(vault, now=clock())
    return found


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), _OBJECTS_AT_ONCE):
        yield ids[start : start + _OBJECTS_AT_ONCE]


def _scrub_part(vault: Vault, ids: Sequence[int], *, throttle: Throttle, clock: Clock, result: ScrubResult) -> None:
    rows = list(StoredObject.objects.filter(pk__in=list(ids), status__in=PRESENT).order_by("pk"))
    look = partial(look_at, vault, now=clock(), throttle=throttle)
    with ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="scrub") as pool:
        looks = list(pool.map(look, rows))
    for row, first in zip(rows, looks, strict=True):
        last = first if first.is_good else look(row, fresh_connection=True)
        result.looked_at += 1
        result.read_bytes += last.read_bytes
        if last.is_clear:
            _note(vault, row, last, now=clock(), result=result)
            continue
        result.put_off += 1
        # Trouble with one object is passed over; a store that does not answer at all ends the run.
        store_time(vault, Credential.KEEPER)


def _note(vault: Vault, row: StoredObject, look: Look, *, now: datetime, result: ScrubResult) -> None:
    """Write down what was found, unless the object is on its way out by now."""
    there = StoredObject.objects.filter(pk=row.pk, status__in=PRESENT)
    if look.damage is Damage.SHORT_LOCK:
        _lock_again(vault, row, look, now=now)
    if look.locked_until is not None and look.locked_until > row.retain_until:
        # A lock that was lengthened and not written down. Unless somebody writes a later date at this moment.
        there.filter(retain_until=row.retain_until).update(retain_until=look.locked_until)
    # Right bytes that do not open are for the check with keys to judge, and for nobody else.
    is_judged_by_keys = row.damage == Damage.DOES_NOT_OPEN and look.damage in {None, Damage.SHORT_LOCK}
    if is_judged_by_keys or (look.damage is None and row.damaged_since is None):
        there.update(read_at=now)
    elif look.damage is None:
        if there.update(read_at=now, damaged_since=None, damage=""):
            result.mended.append(row.pk)
            logger.warning("a damaged object is whole again", extra={"vault": vault.name, "key": row.key})
    elif there.update(read_at=now, damaged_since=Coalesce(F("damaged_since"), now), damage=look.damage):
        if row.damaged_since is None:
            result.damaged.append(row.pk)
        logger.error("damaged object", extra={"vault": vault.name, "key": row.key, "damage": str(look.damage)})


def _lock_again(vault: Vault, row: StoredObject, look: Look, *, now: datetime) -> None:
    """Ask for the date that the store had accepted. The mark stands until the next look, a day later, finds it kept.

    The ledger may be wrong and a lock cannot be taken back: a date that no rule gives is not asked for, and no other
    beyond what the vault itself promises from now on, or a backup that needs the object was promised. What the ledger
    has beyond both is reached step by step while the mark stands.
    """
    if row.retain_until > scrub_alarms.latest_lock(now):
        return
    until = min(row.retain_until, _vouched_until(vault, row, now=now))
    if look.locked_until is not None and look.locked_until >= until:
        return
    try:
        extend_lock(vault, key=row.key, version_id=row.version_id, until=until)
    except (StorageRefusedError, StorageUnreachableError) as error:
        logger.error("a lock could not be set again", extra={"vault": vault.name, "key": row.key, "code": error.code})


def _vouched_until(vault: Vault, row: StoredObject, *, now: datetime) -> datetime:
    """The latest date for which something beside the ledger's own row speaks."""
    rule = vault.lock_rule
    promised = catalogue().promised_until(row.pk, now=now)
    if promised is None:
        return rule.lock_until(now)
    return max(rule.lock_until(now), rule.longest_lock_for(promised))
