"""Objects that the service writes itself: envelopes for a new key, domain descriptions. Runs in the control worker.

Written with the copier's credential, which can put locked objects and do nothing else, and looked at with the keeper's,
like anything that a host wrote. The ledger's row comes first, so no object is without one.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from typing import Any
from uuid import UUID

from common.errors import ConflictError
from engine.store.base import ObjectKind
from vaults import storage
from vaults.keeper import UnverifiedObjectError, verify_stored
from vaults.locks import LONGEST_LOCK
from vaults.models import Domain, StoredObject
from vaults.storage import Credential, StorageRefusedError, extend_lock, see_object

# In place of a session: no session of a host wrote these.
NO_SESSION = UUID(int=0)
Status = StoredObject.Status
_EXISTS = frozenset({"PreconditionFailed", "412"})


def store_own_object(
    domain: Domain, *, kind: ObjectKind, key: str, data: bytes, retain_until: datetime, now: datetime
) -> StoredObject:
    """Put the object under a COMPLIANCE lock, look at it, and return its row: stored, with its version.

    The same bytes may be given again, also after a reply was lost: they are stored once, with the longer lock. `now` is
    the store's time. Raises UnavailableError for store trouble, UnverifiedObjectError when the vault holds something
    else, ConflictError for an object that was removed.
    """
    until = min(retain_until, now + LONGEST_LOCK).replace(microsecond=0)
    row = _record(domain, kind=kind, key=key, data=data, retain_until=until, now=now)
    if row.status in {Status.DELETING, Status.DELETED}:
        raise ConflictError(f"The object {key} was removed from the vault.", code="object_removed")
    version_id = row.version_id or _put(row, data)
    (seen,) = verify_stored(domain.vault, [row], claimed_versions={key: version_id or None})
    seen.condemned_epoch = seen.condemned_at = None
    seen.save(update_fields=["status", "version_id", "retain_until", "condemned_epoch", "condemned_at"])
    lengthen_lock(seen, until)
    return seen


def _record(
    domain: Domain, *, kind: ObjectKind, key: str, data: bytes, retain_until: datetime, now: datetime
) -> StoredObject:
    values = {
        "domain": domain,
        "session_id": NO_SESSION,
        "kind": str(kind),
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "md5_base64": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
        "retain_until": retain_until,
        "granted_at": now,
    }
    row, made = StoredObject.objects.get_or_create(vault=domain.vault, key=key, defaults=values)
    if not made and (row.domain_id, row.sha256) != (domain.pk, values["sha256"]):
        raise ConflictError(f"The ledger has another object under {key}.", code="key_taken")
    row.vault = domain.vault
    return row


def _put(row: StoredObject, data: bytes) -> str:
    """The version id; empty when the object was there already, from an attempt whose reply was lost."""
    client: Any = storage.client_for(row.vault.endpoint, Credential.COPIER)
    try:
        with storage.translated(row.vault, "PutObject"):
            answer = client.put_object(
                Bucket=row.vault.bucket,
                Key=row.key,
                Body=data,
                ContentMD5=row.md5_base64,
                ChecksumSHA256=base64.b64encode(bytes.fromhex(row.sha256)).decode(),
                IfNoneMatch="*",
                ObjectLockMode="COMPLIANCE",
                ObjectLockRetainUntilDate=row.retain_until,
            )
    except StorageRefusedError as error:
        if error.extra.get("store_code") in _EXISTS:
            return ""
        raise
    return str(answer.get("VersionId") or "")


def lengthen_lock(row: StoredObject, until: datetime) -> None:
    """Let the stored object's lock reach `until`, at least, and write down what the store says. May run twice."""
    until = until.replace(microsecond=0)
    if row.retain_until >= until:
        return
    refusal: StorageRefusedError | None = None
    try:
        extend_lock(row.vault, key=row.key, version_id=row.version_id, until=until)
    except StorageRefusedError as error:
        refusal = error  # A lock that is longer than the ledger knew is refused as well, and is good.
    seen = see_object(row.vault, key=row.key, version_id=row.version_id)
    if seen.lock_mode != "COMPLIANCE" or seen.retain_until is None or seen.retain_until < until:
        raise refusal or UnverifiedObjectError(f"The vault did not lengthen the lock of {row.key}.")
    row.retain_until = seen.retain_until
    row.save(update_fields=["retain_until"])
