"""What this layer must ask of the catalogue above it: one registered object, set when the application starts.

Without it nothing goes on quietly: figures would be wrong, or locks too short.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Protocol

from common.errors import ConfigurationError


class Catalogue(Protocol):
    """The backups, as far as vaults need them."""

    def add_uses(self, needed_id: int, manifest_ids: Collection[int]) -> None:
        """Let the manifests need the object too, with the figures of their backups right in the same transaction."""

    def promised_until(self, object_id: int, *, now: datetime) -> datetime | None:
        """The latest date that a backup which needs the object was promised; None when none was.

        A promise that began in the future is none: its date would come from a host that lies about its time.
        """


_registered: list[Catalogue] = []


def register(catalogue: Catalogue) -> None:
    _registered[:] = [catalogue]


def catalogue() -> Catalogue:
    if not _registered:
        raise ConfigurationError("No catalogue is registered: is the application `backups` installed?")
    return _registered[0]
