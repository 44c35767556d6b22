"""One run of the scrub over a shelf, and what tests ask and do to its objects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import time_machine

from tests.vaults.shelf import Shelf
from vaults.models import Alarm, StoredObject
from vaults.scrubber import ScrubLimits, ScrubResult, scrub_vault


def scrub(shelf: Shelf, **limits: Any) -> ScrubResult:
    """One run at the shelf's time, without waiting for anything."""
    with time_machine.travel(shelf.now, tick=False):
        return scrub_vault(
            vault_id=str(shelf.vault.pk), clock=shelf.clock, limits=ScrubLimits(**limits), sleep=lambda seconds: None
        )


def fresh(row: StoredObject) -> StoredObject:
    return StoredObject.objects.get(pk=row.pk)


def standing(shelf: Shelf) -> set[str]:
    return set(Alarm.objects.standing().filter(vault=shelf.vault).values_list("code", flat=True))


def spoil(shelf: Shelf, row: StoredObject) -> None:
    """Another byte in the middle, under the same version."""
    versions = shelf.versions(row)
    data = bytearray(versions[0].data)
    data[len(data) // 2] ^= 1
    versions[0] = replace(versions[0], data=bytes(data))


def restore_bytes(shelf: Shelf, row: StoredObject, data: bytes) -> None:
    versions = shelf.versions(row)
    versions[0] = replace(versions[0], data=data)
