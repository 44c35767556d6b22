"""The lock-keeper: sees each object in the vault itself, and lengthens locks. Runs only in the control worker."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice

from common.errors import ConflictError
from vaults.locks import LockRule
from vaults.models import StoredObject, Vault
from vaults.storage import SeenObject, StorageRefusedError, extend_lock, see_object, versions_of

Progress = Callable[[], None]
_PARALLEL_CALLS = 8
# Few enough that little is asked for again when a worker dies in between.
_OBJECTS_AT_ONCE = 256
# What stores answer to HEAD for a key or version that is not there; a wrong version id is a bad request to some.
_MISSING = frozenset({"400", "404", "NoSuchKey", "NoSuchVersion", "NotFound", "BadRequest", "InvalidArgument"})


class UnverifiedObjectError(ConflictError):
    """An object is not in the vault as it was granted: missing, other bytes, or without its lock."""

    code = "verification_failed"


def verify_stored(
    vault: Vault,
    rows: Iterable[StoredObject],
    *,
    claimed_versions: dict[str, str | None],
    progress: Progress | None = None,
) -> list[StoredObject]:
    """HEAD every object and return its row with version id and lock as the store reports them (not saved).

    `claimed_versions` maps key -> version id as the writer saw it, or None where the store said "exists already".
    `progress` is called in this thread after each object that was found good. Raises UnverifiedObjectError naming the
    first object that is not as granted; UnavailableError for store trouble.
    """
    found: list[StoredObject] = []
    with ThreadPoolExecutor(_PARALLEL_CALLS, thread_name_prefix="verify") as pool:
        for part in _parts(rows):
            for row in pool.map(lambda row: _verify(vault, row, claimed_versions.get(row.key)), part):
                found.append(row)
                _tell(progress)
    return found


def _verify(vault: Vault, row: StoredObject, version_id: str | None) -> StoredObject:
    try:
        seen = see_object(vault, key=row.key, version_id=version_id or _only_version(vault, row))
    except StorageRefusedError as error:
        if error.extra.get("store_code") in _MISSING:
            raise UnverifiedObjectError(f"The object {row.key} is not in the vault.") from error
        raise
    _compare(row, seen)
    row.version_id = seen.version_id
    row.retain_until = seen.retain_until or row.retain_until
    row.status = StoredObject.Status.STORED
    return row


def _only_version(vault: Vault, row: StoredObject) -> str:
    versions = versions_of(vault, key=row.key)
    if len(versions) != 1:
        raise UnverifiedObjectError(f"The object {row.key} has {len(versions)} versions in the vault, not one.")
    return versions[0]


def _compare(row: StoredObject, seen: SeenObject) -> None:
    if seen.size_bytes != row.size_bytes:
        raise UnverifiedObjectError(
            f"The object {row.key} has {seen.size_bytes} bytes in the vault, not {row.size_bytes}."
        )
    if seen.etag != base64.b64decode(row.md5_base64).hex():
        raise UnverifiedObjectError(f"The object {row.key} has other content in the vault than was granted.")
    if seen.sha256_base64 and base64.b64decode(seen.sha256_base64).hex() != row.sha256:
        raise UnverifiedObjectError(f"The object {row.key} has another SHA-256 in the vault than its name.")
    if (
        seen.lock_mode != "COMPLIANCE"
        or seen.retain_until is None
        or seen.retain_until < row.retain_until.replace(microsecond=0)
    ):
        raise UnverifiedObjectError(f"The object {row.key} is not locked in the vault as it was granted.")
    if not seen.version_id:
        raise UnverifiedObjectError(f"The vault gave no version id for {row.key}.")


def keep_locked(
    vault: Vault, rows: Iterable[StoredObject], *, rule: LockRule, now: datetime, progress: Progress | None = None
) -> list[StoredObject]:
    """Lengthen the locks of the objects that a manifest committed at `now` could outlive; returns the changed rows.

    The ledger is told of the new dates on the way, so that a commit which is broken off does not begin anew: the store
    has them already. `progress` is called in this thread after each object. Idempotent. Raises UnavailableError when an
    extension fails: then nothing may be committed on these objects.
    """
    short = [row for row in rows if row.retain_until < rule.needed_until(now)]
    until = rule.lock_until(now)
    with ThreadPoolExecutor(_PARALLEL_CALLS, thread_name_prefix="keeper") as pool:
        for part in _parts(short):
            done: list[StoredObject] = []
            try:
                for row in pool.map(lambda row: _extend(vault, row, until), part):
                    done.append(row)
                    _tell(progress)
            finally:
                _note_dates(done)
    return short


def _note_dates(rows: Iterable[StoredObject]) -> None:
    """Write down what the store has accepted. A date only ever grows, whoever else writes at this moment."""
    by_date: dict[datetime, list[int]] = {}
    for row in rows:
        by_date.setdefault(row.retain_until, []).append(row.pk)
    for until, ids in by_date.items():
        StoredObject.objects.filter(pk__in=ids, retain_until__lt=until).update(retain_until=until)


def _parts(rows: Iterable[StoredObject]) -> Iterator[list[StoredObject]]:
    remaining = iter(rows)
    while part := list(islice(remaining, _OBJECTS_AT_ONCE)):
        yield part


def _tell(progress: Progress | None) -> None:
    if progress is not None:
        progress()


def _extend(vault: Vault, row: StoredObject, until: datetime) -> StoredObject:
    refusal: StorageRefusedError | None = None
    try:
        extend_lock(vault, key=row.key, version_id=row.version_id, until=until)
    except StorageRefusedError as error:
        # A store refuses a shorter date: then the lock is longer than the ledger knew. Some refuse a fresh object, too.
        refusal = error
    seen = see_object(vault, key=row.key, version_id=row.version_id)
    if refusal is not None and (seen.retain_until is None or seen.retain_until < until.replace(microsecond=0)):
        raise refusal
    if seen.lock_mode != "COMPLIANCE" or seen.retain_until is None or seen.retain_until < until.replace(microsecond=0):
        raise UnverifiedObjectError(f"The vault did not lengthen the lock of {row.key}.")
    row.retain_until = seen.retain_until
    return row
