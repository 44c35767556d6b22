"""Making the ledger agree with the bucket, daily and after a database was restored. Runs in the control worker.

What the vault has and the ledger does not know is adopted, never deleted. While anything is unclear nothing is removed.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Collection, Iterable
from datetime import datetime

from django.db import transaction
from django.db.models import F, Q

from backups.removal.adoption import AdoptionResult, adopt
from backups.removal.known_bad import acknowledged_keys
from backups.removal.moved_since import note_moved_since
from vaults import ledger
from vaults.alarms import clear_alarm, raise_alarm
from vaults.inventory import EXAMPLES, Inventory, take_inventory
from vaults.models import Removal, StoredObject, Vault
from vaults.removal_rules import may_be_condemned
from vaults.storage import Credential, ListedVersion, store_time

logger = logging.getLogger(__name__)

MISSING, ALTERED, UNKNOWN = "objects_missing", "objects_altered", "unknown_objects"
RETURNED, KNOWN_BAD = "deleted_objects_there", "known_bad_objects"
# What `removal_stopped` begins with when this module may clear it again by itself.
STOPPED_BY_US = "Reconciling: "
# What another part or a person wrote there is neither cleared nor replaced here.
MAY_STOP = Q(removal_stopped="") | Q(removal_stopped__startswith=STOPPED_BY_US)
Status = StoredObject.Status


def reconcile(*, vault_id: str, now: datetime) -> Inventory:
    """One pass. Raises UnavailableError when the store does not answer or its listing cannot be relied on.

    Afterwards `reconciled_at` is set when ledger and vault agreed; otherwise alarms stand and removal is stopped.
    """
    vault = Vault.objects.select_related("endpoint", "tenant").get(pk=vault_id)
    store_now = store_time(vault, Credential.KEEPER)
    found = take_inventory(vault)
    _take_in(vault, found.arrived)
    _forget(found.absent_granted, now=store_now)
    missing = _mark_damaged(found.missing, damage="missing", now=store_now)
    altered = _mark_damaged(found.altered, damage="wrong_bytes", now=store_now)
    _return(found.returned)
    unknown = _still_unknown(vault, found.unknown)
    acknowledged = acknowledged_keys(vault)
    if any(version.key not in acknowledged for version in unknown):
        # First of all: should this pass be broken off, nothing is removed until a later one came to its end.
        Vault.objects.filter(pk=vault.pk).update(epoch=F("epoch") + 1)
        _stop(vault, f"{len(unknown)} objects in the vault are unknown to the database and are being taken in.")
    adopted = adopt(vault, unknown, now=store_now, acknowledged=acknowledged)
    note_moved_since(vault, now=store_now)
    _tell(vault, MISSING, missing, "objects that the ledger knows are not in the vault", now=now)
    _tell(vault, ALTERED, altered, "objects in the vault have another size than the ledger knows", now=now)
    _tell(vault, RETURNED, len(found.returned), "objects that were deleted are in the vault", now=now)
    bad = f"objects can never be taken in, as a person said: {'; '.join(adopted.known_bad[:EXAMPLES])}"
    _tell(vault, KNOWN_BAD, len(adopted.known_bad), bad, now=now)
    _settle(vault, adopted, now=now)
    return found


def _take_in(vault: Vault, arrived: Iterable[tuple[int, ListedVersion]]) -> None:
    """granted -> stored for what arrived but was never committed, when it is what was granted."""
    for pk, version in arrived:
        row = StoredObject.objects.get(pk=pk)
        expected = base64.b64decode(row.md5_base64).hex()
        if (version.size_bytes, version.etag) == (row.size_bytes, expected):
            StoredObject.objects.filter(pk=pk, status=Status.GRANTED).update(
                status=Status.STORED, version_id=version.version_id
            )
        else:
            logger.error("an object is not what was granted", extra={"vault": vault.name, "key": row.key})


def _forget(ids: Collection[int], *, now: datetime) -> None:
    rows = StoredObject.objects.filter(pk__in=list(ids)[:50_000]).values_list("pk", "granted_at")
    old = [pk for pk, granted_at in rows if may_be_condemned(granted_at=granted_at, now=now)]
    ledger.forget_never_arrived(old, now=now)


def _mark_damaged(ids: Collection[int], *, damage: str, now: datetime) -> int:
    """Note the damage where the row still says that the object must be there."""
    there = [Status.STORED, Status.CONDEMNED]
    rows = StoredObject.objects.filter(pk__in=ids, status__in=there)
    rows.filter(damaged_since=None).update(damaged_since=now)
    return rows.update(damage=damage)


def _return(returned: Iterable[tuple[int, ListedVersion]]) -> None:
    """deleted -> stored: the bytes are there whatever the ledger said; a later run decides anew."""
    for pk, version in returned:
        with transaction.atomic():
            changed = StoredObject.objects.filter(pk=pk, status=Status.DELETED).update(
                status=Status.STORED,
                version_id=version.version_id,
                deleted_at=None,
                condemned_epoch=None,
                condemned_at=None,
            )
            if changed:
                # The journal has one entry per object; that of the next order must find its place free.
                Removal.objects.filter(stored_object_id=pk, done_at__isnull=False).delete()


def _still_unknown(vault: Vault, versions: Collection[ListedVersion]) -> list[ListedVersion]:
    """Without those whose rows were written while the listing was read."""
    keys = [version.key for version in versions]
    known: set[str] = set()
    for start in range(0, len(keys), 500):
        part = StoredObject.objects.filter(vault=vault, key__in=keys[start : start + 500])
        known.update(part.values_list("key", flat=True))
    return [version for version in versions if version.key not in known]


def _tell(vault: Vault, code: str, count: int, what: str, *, now: datetime) -> None:
    if count:
        raise_alarm(vault, code=code, message=f"{count} {what}.", now=now)
    else:
        clear_alarm(vault, code=code, now=now)


def _settle(vault: Vault, adopted: AdoptionResult, *, now: datetime) -> None:
    """Unknown objects mean that the database is older than the vault: no removal until a pass finds nothing to do."""
    vaults = Vault.objects.filter(pk=vault.pk)
    if adopted.is_idle:
        clear_alarm(vault, code=UNKNOWN, now=now)
        vaults.update(reconciled_at=now)
        vaults.filter(removal_stopped__startswith=STOPPED_BY_US).update(removal_stopped="")
        return
    message = (
        f"{adopted.unknown_count} objects in the vault were unknown to the database; {adopted.backup_count} backups "
        f"were taken into the catalogue again, {len(adopted.refused)} objects could not be taken in: "
        f"{'; '.join(adopted.refused[:EXAMPLES]) or 'none'}."
    )
    raise_alarm(vault, code=UNKNOWN, message=message, now=now)
    _stop(vault, message)


def _stop(vault: Vault, reason: str) -> None:
    vaults = Vault.objects.filter(pk=vault.pk)
    vaults.filter(MAY_STOP).update(removal_stopped=f"{STOPPED_BY_US}{reason}")
    vaults.update(reconciled_at=None)
