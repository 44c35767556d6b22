"""What a manifest that was found says about itself, held against its name and made fit for the catalogue.

A manifest is signed by a host, and a host may be in other hands: no figure or date of it goes into a column unchecked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from agents.models import Disk
from backups.models import Backup
from common.errors import BackupsiteError
from engine.errors import EngineError
from engine.manifest import CONTENT_TREE, ManifestBody, ManifestInfo
from engine.store.base import manifest_key

# Clocks differ; a date further ahead would outlive every retention, and lead to dates of locks.
LATEST_AHEAD = timedelta(days=1)
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_LARGEST_INTEGER = (1 << 63) - 1
# The next backup of a disk counts on from the highest number: one near the end would be its last.
SEQUENCE_END = 1 << 62
_COUNTED = (
    *("files", "directories", "symlinks", "hard_links", "specials"),
    *("changed_entries", "unchanged_entries"),
)


class NotAdoptableError(BackupsiteError):
    """Something in the vault cannot stand in the catalogue; the message says what and why."""

    code = "not_adoptable"


@dataclass(frozen=True, slots=True)
class Claims:
    """Each value fits its column. Empty texts and None stand for what the manifest does not say, or absurdly."""

    created_at: datetime
    size_bytes: int
    read_bytes: int | None
    changed_bytes: int | None
    sequence: int | None
    name: str
    server_name: str
    disk_number: int
    content: str
    counts: dict[str, int]


def read_claims(info: ManifestInfo, *, key: str, sha256: str, now: datetime) -> Claims:
    """The claims of the manifest that is stored under this key. `now` is the vault's time. Raises NotAdoptableError."""
    body, facts = info.body, info.source_facts or {}
    _check_name(body, key=key, sha256=sha256)
    created_at = _created_at(body.created_at, key=key, now=now)
    size_bytes = _counted(body.size_bytes)
    if size_bytes is None:
        raise NotAdoptableError(f"{key} tells a size that no disk has")
    return Claims(
        created_at=created_at,
        size_bytes=size_bytes,
        read_bytes=_counted(body.counters.get("read_bytes")),
        changed_bytes=_counted(body.counters.get("changed_bytes")),
        sequence=body.sequence if body.sequence < SEQUENCE_END else None,
        name=_text(facts.get("backup"), length=40) or f"recovered-{created_at:%Y%m%d_%H%M%S}",
        server_name=_text(facts.get("server"), length=128),
        disk_number=_number(facts.get("disk")),
        content=body.content,
        counts=tree_counts(body),
    )


def tree_counts(body: ManifestBody) -> dict[str, int]:
    """Of a file tree, how many there are of each kind of entry; empty for what has none."""
    if body.content != CONTENT_TREE:
        return {}
    return {name: _counted(body.counters.get(name)) or 0 for name in _COUNTED}


def free_sequence(claims: Claims, disk: Disk | None) -> int | None:
    """The manifest's number in the order of the disk's backups; None when another backup has it."""
    if disk is None or claims.sequence is None:
        return None
    taken = Backup.objects.filter(disk=disk, sequence=claims.sequence).exists()
    return None if taken else claims.sequence


def _check_name(body: ManifestBody, *, key: str, sha256: str) -> None:
    """Tenant, domain, source and sequence are in the key; the signature covers the body only."""
    try:
        told = manifest_key(
            tenant=body.tenant,
            domain=body.domain,
            source_id=str(UUID(body.source_id)),
            sequence=body.sequence,
            sha256=sha256,
        )
    except (EngineError, ValueError) as error:
        raise NotAdoptableError(f"{key} tells a source or a sequence that cannot be") from error
    if told != key:
        raise NotAdoptableError(f"{key} is of another tenant, domain, source or sequence than its name")


def _created_at(text: str, *, key: str, now: datetime) -> datetime:
    try:
        told = datetime.fromisoformat(text)
        if told.tzinfo is None:
            raise ValueError("no offset")
        told = told.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise NotAdoptableError(f"{key} does not tell when it was made") from error
    if told < _EARLIEST:
        raise NotAdoptableError(f"{key} was made at a time that cannot be")
    return min(told, now + LATEST_AHEAD)


def _counted(value: int | None) -> int | None:
    return value if value is not None and 0 <= value <= _LARGEST_INTEGER else None


def _text(value: object, *, length: int) -> str:
    """Without control characters: a database refuses some of them."""
    text = value if isinstance(value, str) else ""
    return "".join(sign for sign in text if sign.isprintable())[:length]


def _number(text: object) -> int:
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 5 else 0
