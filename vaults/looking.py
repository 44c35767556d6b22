"""One look at one stored object: is every byte there, under its own version, and locked as the ledger says?

No key is needed and no database is used, so looks may run in threads.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from engine.throttle import Throttle
from vaults.damage import Damage
from vaults.models import StoredObject, Vault
from vaults.reading import MISSING_CODES, stream_object
from vaults.storage import SeenObject, StorageRefusedError, StorageUnreachableError, see_object, versions_of


@dataclass(frozen=True, slots=True)
class Look:
    """What a look found: damage, or None when the object is whole. `is_clear` False: the store had trouble."""

    damage: Damage | None = None
    is_clear: bool = True
    read_bytes: int = 0
    # Until when the store says that the object is locked; None when it says nothing.
    locked_until: datetime | None = None

    @property
    def is_good(self) -> bool:
        return self.is_clear and self.damage is None


_UNCLEAR = Look(is_clear=False)


def look_at(
    vault: Vault,
    row: StoredObject,
    *,
    now: datetime,
    throttle: Throttle | None = None,
    fresh_connection: bool = False,
) -> Look:
    """Read the object whole. Trouble with the store is no damage, whatever it is: it makes the look unclear."""
    try:
        seen = see_object(vault, key=row.key, version_id=row.version_id)
        if seen.size_bytes != row.size_bytes:
            return Look(Damage.WRONG_BYTES)
        sha256, read_bytes = _hash(vault, row, throttle, fresh_connection=fresh_connection)
    except StorageRefusedError as error:
        return _absent(vault, row) if error.extra.get("store_code") in MISSING_CODES else _UNCLEAR
    except StorageUnreachableError:
        return _UNCLEAR
    if sha256 != row.sha256:
        return Look(Damage.WRONG_BYTES, read_bytes=read_bytes)
    damage = Damage.SHORT_LOCK if _is_lock_short(row, seen, now) else None
    locked_until = seen.retain_until if seen.lock_mode == "COMPLIANCE" else None
    return Look(damage, read_bytes=read_bytes, locked_until=locked_until)


def _hash(vault: Vault, row: StoredObject, throttle: Throttle | None, *, fresh_connection: bool) -> tuple[str, int]:
    hasher = hashlib.sha256()
    read_bytes = 0
    for piece in stream_object(vault, row, fresh_connection=fresh_connection):
        hasher.update(piece)
        read_bytes += len(piece)
        if throttle is not None:
            throttle.take(len(piece))
    return hasher.hexdigest(), read_bytes


def _absent(vault: Vault, row: StoredObject) -> Look:
    """Gone altogether, or its key holds another version instead."""
    try:
        return Look(Damage.WRONG_VERSION if versions_of(vault, key=row.key) else Damage.MISSING)
    except (StorageRefusedError, StorageUnreachableError):
        return _UNCLEAR


def _is_lock_short(row: StoredObject, seen: SeenObject, now: datetime) -> bool:
    """The ledger is written after the store has taken a date: the store's may be later, never earlier.

    A lock that is over by the ledger is not asked for: stores may forget it.
    """
    wanted = row.retain_until.replace(microsecond=0)
    if wanted <= now:
        return False
    return seen.lock_mode != "COMPLIANCE" or seen.retain_until is None or seen.retain_until < wanted
