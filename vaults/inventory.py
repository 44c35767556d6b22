"""The listing of a bucket beside the ledger, key by key, in bounded memory. Reads only; what follows is decided above.

A store's listing is not believed alone: what it leaves out is looked at directly before it counts as missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from django.db import connection
from django.db.models.functions import Collate

from vaults.models import StoredObject, Vault
from vaults.storage import (
    Credential,
    ListedVersion,
    StorageContractError,
    StorageRefusedError,
    list_versions,
    see_object,
)

DATA_PREFIX = "t/"
# Details are for a person: a few examples say what is wrong, the counts say how much.
EXAMPLES = 20
Status = StoredObject.Status


@dataclass(slots=True)
class Inventory:
    """What one pass found. Ids are of the ledger's rows."""

    seen: int = 0
    arrived: list[tuple[int, ListedVersion]] = field(default_factory=list)
    absent_granted: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    altered: list[int] = field(default_factory=list)
    # Said to be deleted, and yet there.
    returned: list[tuple[int, ListedVersion]] = field(default_factory=list)
    unknown: list[ListedVersion] = field(default_factory=list)


def take_inventory(vault: Vault) -> Inventory:
    """Compare all versions below the data's prefix with the ledger. Raises UnavailableError for store trouble."""
    found = Inventory()
    rows = StoredObject.objects.filter(vault=vault).order_by(_by_bytes("key")).iterator(chunk_size=2000)
    listing = groupby(
        list_versions(vault, prefix=DATA_PREFIX, credential=Credential.KEEPER), key=lambda version: version.key
    )
    for row, versions in _side_by_side(rows, ((key, list(group)) for key, group in listing)):
        if row is None:
            found.unknown += [version for version in versions if not version.is_delete_marker]
        else:
            _compare(vault, row, versions, found)
    return found


def _by_bytes(name: str) -> Collate:
    """The order in which stores list keys; a database's own may follow a language."""
    return Collate(name, "C" if connection.vendor == "postgresql" else "BINARY")


def _side_by_side(
    rows: Iterator[StoredObject], listing: Iterator[tuple[str, list[ListedVersion]]]
) -> Iterator[tuple[StoredObject | None, list[ListedVersion]]]:
    """A merge join by key; both ascend. The database may order text otherwise than bytes: then this fails loudly."""
    row, group = next(rows, None), next(listing, None)
    last_key = ""
    while row is not None or group is not None:
        if row is not None and row.key < last_key:
            raise StorageContractError("The ledger is not in the order of its keys' bytes.")
        if group is None or (row is not None and row.key < group[0]):
            last_key = row.key if row is not None else last_key
            yield row, []
            row = next(rows, None)
        elif row is None or group[0] < row.key:
            yield None, group[1]
            group = next(listing, None)
        else:
            last_key = row.key
            yield row, group[1]
            row, group = next(rows, None), next(listing, None)


def _compare(vault: Vault, row: StoredObject, versions: list[ListedVersion], found: Inventory) -> None:
    found.seen += 1
    own = [version for version in versions if not version.is_delete_marker]
    if row.status == Status.GRANTED:
        _compare_granted(row, own, found)
        return
    mine = next((version for version in own if version.version_id == row.version_id), None)
    if row.status == Status.DELETED:
        if mine is not None:
            found.returned.append((row.pk, mine))
    elif mine is None:
        if row.status != Status.DELETING and not _is_there(vault, row):
            found.missing.append(row.pk)
    elif mine.size_bytes != row.size_bytes:
        found.altered.append(row.pk)


def _compare_granted(row: StoredObject, own: list[ListedVersion], found: Inventory) -> None:
    """A grant may have been used once; with several versions the oldest is the one that the grant let through."""
    if not own:
        found.absent_granted.append(row.pk)
        return
    oldest = min(own, key=lambda version: version.modified_at)
    found.arrived.append((row.pk, oldest))


def _is_there(vault: Vault, row: StoredObject) -> bool:
    """Ask for the version itself. A listing that leaves out what is there cannot be relied on at all."""
    try:
        see_object(vault, key=row.key, version_id=row.version_id)
    except StorageRefusedError as error:
        if error.extra.get("store_code") in {"404", "NoSuchKey", "NoSuchVersion", "NotFound"}:
            return False
        raise
    raise StorageContractError(f"The vault {vault.name} leaves objects out of its listing: {row.key}.")
