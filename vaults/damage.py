"""What can be wrong with a stored object, and which objects a writer must not build on.

For the session that opens a backup: `healing_list(domain) -> set[str]`, SHA-256 of the domain's packs and index
segments that are damaged; what lies in them is read from the source and stored anew.
"""

from __future__ import annotations

from enum import StrEnum

from django.db import models

from engine.store.base import ObjectKind
from vaults.models import Domain, StoredObject, Vault

# What is in the vault; anything else has not arrived yet or is going.
PRESENT = (StoredObject.Status.STORED, StoredObject.Status.CONDEMNED)


class Damage(StrEnum):
    """Values of StoredObject.damage."""

    MISSING = "missing"
    WRONG_BYTES = "wrong_bytes"
    # The version that was committed is gone, another one is under its key.
    WRONG_VERSION = "wrong_version"
    # All bytes are right, but the store would let them be deleted before the date that it accepted.
    SHORT_LOCK = "short_lock"
    # All bytes are right, but a record in it does not open with its key: only a check with keys finds that.
    DOES_NOT_OPEN = "does_not_open"


def damaged_objects(vault: Vault) -> models.QuerySet[StoredObject]:
    """The vault's objects that are known to be damaged, in whatever way."""
    return StoredObject.objects.filter(vault=vault, damaged_since__isnull=False, status__in=PRESENT)


def unreadable_objects(vault: Vault) -> models.QuerySet[StoredObject]:
    """Those of them that a restore cannot use."""
    return damaged_objects(vault).exclude(damage=Damage.SHORT_LOCK)


def healing_list(domain: Domain) -> set[str]:
    """SHA-256 of packs and segments that a new backup must not refer to, those with a short lock included."""
    damaged = damaged_objects(domain.vault).filter(domain=domain, kind__in=[ObjectKind.PACK, ObjectKind.INDEX])
    return set(damaged.values_list("sha256", flat=True))
