"""Changing the master key: every wrapped column of the database, in one transaction.

`WRAPPED` is the whole list; a test compares it with the models.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db import models, transaction

from vaults.keys import (
    CATALOGUE_KEY_PURPOSE,
    ID_KEY_PURPOSE,
    MAP_KEY_PURPOSE,
    TENANT_KEY_PURPOSE,
    unwrap_key,
    wrap_key,
)
from vaults.models import CatalogueKey, Domain, TenantKey


@dataclass(frozen=True, slots=True)
class WrappedColumn:
    """A column that holds a key under the master key; `owner` names the field that is authenticated with it."""

    model: type[models.Model]
    column: str
    purpose: str
    owner: str

    def __str__(self) -> str:
        return f"{self.model._meta.label}.{self.column}"


WRAPPED = (
    WrappedColumn(TenantKey, "wrapped_private_key", TENANT_KEY_PURPOSE, "tenant_id"),
    WrappedColumn(CatalogueKey, "wrapped_private_key", CATALOGUE_KEY_PURPOSE, "tenant_id"),
    WrappedColumn(Domain, "wrapped_id_key", ID_KEY_PURPOSE, "id"),
    WrappedColumn(Domain, "wrapped_map_key", MAP_KEY_PURPOSE, "id"),
)


@transaction.atomic
def rewrap_all(*, old: bytes, new: bytes, write: bool) -> dict[str, int]:
    """Open every wrapped key with the old master key and, with `write`, wrap it with the new one; rows per column.

    Raises ConfigurationError for the first that does not open; then nothing was changed.
    """
    return {str(column): _rewrap_column(column, old=old, new=new, write=write) for column in WRAPPED}


def _rewrap_column(column: WrappedColumn, *, old: bytes, new: bytes, write: bool) -> int:
    rows = column.model._default_manager.select_for_update().exclude(**{column.column: None})
    count = 0
    for pk, wrapped, owner in rows.values_list("pk", column.column, column.owner):
        rewrapped = _rewrapped(wrapped, column.purpose, owner, old=old, new=new)
        if write:
            column.model._default_manager.filter(pk=pk).update(**{column.column: rewrapped})
        count += 1
    return count


def _rewrapped(wrapped: bytes, purpose: str, owner: UUID, *, old: bytes, new: bytes) -> bytes:
    key = unwrap_key(master_key=old, wrapped=wrapped, purpose=purpose, owner=owner)
    rewrapped = wrap_key(master_key=new, key=key, purpose=purpose, owner=owner)
    # What is about to replace the only copy is opened once before.
    if unwrap_key(master_key=new, wrapped=rewrapped, purpose=purpose, owner=owner) != key:
        raise RuntimeError(f"the {purpose} of {owner} did not survive its re-wrapping")
    return rewrapped
