"""The chain of the audit: each sealed row holds the hash of the one before it, so nothing in between can be changed,
taken out or put in without breaking every hash after it.

Sealing is a short transaction of its own, right after the one that wrote the row: a chain that was continued inside
long transactions would make all of them wait for each other, and could deadlock with their locks. What a crash leaves
unsealed is sealed by the next record, or by the periodic task.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from django.db import DatabaseError, IntegrityError, transaction

from tenants.models.audit import CONTENT, AuditEvent, AuditHead

logger = logging.getLogger(__name__)

_DOMAIN = b"backupsite.audit.v1\n"
BATCH = 500
GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Break:
    """The first number at which the chain is not what it was, and why."""

    sequence: int
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look over the chain found: how many rows it read, the head, and where it breaks, if it does."""

    count: int
    head_sequence: int
    head_hash: str
    broken: Break | None


def hash_of(event: AuditEvent, *, sequence: int, previous_hash: str) -> str:
    """SHA-256 over the row's content, its number and the hash before it, as sorted JSON; hexadecimal."""
    content = {name: getattr(event, name) for name in CONTENT}
    content["at"] = content["at"].isoformat(timespec="microseconds").replace("+00:00", "Z")
    content["sequence"], content["previous_hash"] = sequence, previous_hash
    return hashlib.sha256(_DOMAIN + msgspec.json.encode(content, order="sorted")).hexdigest()


def seal_pending(*, limit: int = BATCH) -> int:
    """Continue the chain over rows that have no number yet; how many were sealed. Any number may call it at once."""
    if not AuditEvent.objects.unsealed().exists():
        return 0
    _make_head()
    with transaction.atomic():
        head = AuditHead.objects.select_for_update().get(pk=1)
        pending = list(AuditEvent.objects.unsealed().order_by("pk")[:limit])
        places = []
        for event in pending:
            before = head.hash or GENESIS
            own = hash_of(event, sequence=head.sequence + 1, previous_hash=before)
            head.sequence, head.hash = head.sequence + 1, own
            places.append((event.pk, head.sequence, before, own))
        if places:
            AuditEvent.objects.seal_all(places)
            head.save()
    return len(pending)


def seal_quietly() -> None:
    """After a commit: the write has been done, so trouble here is for the log and for the next who seals."""
    try:
        seal_pending()
    except DatabaseError:
        logger.warning("audit records wait to be sealed", exc_info=True)


def _make_head() -> None:
    if AuditHead.objects.filter(pk=1).exists():
        return
    try:
        with transaction.atomic():
            AuditHead.objects.create(pk=1)
    except IntegrityError:
        return  # Another process made it at the same moment.


def verify(*, first: int = 1, last: int | None = None, heads: Iterable[tuple[int, str]] = ()) -> Finding:
    """Read the chain from `first` to `last` (both included; to the head without `last`) and compute every hash again.

    `heads` are numbers and hashes that were published outside of the database: with them a tail that was cut off, or a
    chain that was made anew, is found too. Read in one go, row by row, without a lock; rows that are sealed meanwhile
    are not looked at.
    """
    head = AuditHead.objects.filter(pk=1).first() or AuditHead(sequence=0)
    end = head.sequence if last is None else min(last, head.sequence)
    published = dict(heads)
    rows = AuditEvent.objects.filter(sequence__gte=first, sequence__lte=end).order_by("sequence")
    expected, previous, count = first, _hash_before(first), 0
    broken: Break | None = None
    for event in rows.iterator(chunk_size=2000):
        broken = _look(event, expected=expected, previous=previous, published=published)
        if broken is not None:
            break
        expected, previous, count = expected + 1, event.hash, count + 1
    if broken is None:
        broken = _look_at_end(head, first=first, end=end, expected=expected, previous=previous, published=published)
    return Finding(count, head.sequence, head.hash, broken)


def _hash_before(first: int) -> str | None:
    """What the first row must name; None when that row is not there: its own absence is told then."""
    if first <= 1:
        return GENESIS
    found: Any = AuditEvent.objects.filter(sequence=first - 1).values_list("hash", flat=True).first()
    return found


def _look(event: AuditEvent, *, expected: int, previous: str | None, published: dict[int, str]) -> Break | None:
    number = event.sequence or 0
    if number != expected:
        return Break(expected, "the record is missing")
    if event.previous_hash != previous:
        return Break(number, "it does not follow from the record before it")
    if event.hash != hash_of(event, sequence=number, previous_hash=event.previous_hash):
        return Break(number, "its content was changed")
    if published.get(number, event.hash) != event.hash:
        return Break(number, "its hash is not the one that was published")
    return None


def _look_at_end(
    head: AuditHead, *, first: int, end: int, expected: int, previous: str | None, published: dict[int, str]
) -> Break | None:
    if expected <= end:
        return Break(expected, "the record is missing")
    if end == head.sequence and head.sequence >= first and previous != head.hash:
        return Break(end, "the head of the chain is another one")
    if AuditEvent.objects.filter(sequence__gt=AuditHead.objects.filter(pk=1).values("sequence")[:1]).exists():
        return Break(head.sequence + 1, "there are records behind the head of the chain")
    beyond = [number for number in published if number > head.sequence]
    if beyond:
        return Break(head.sequence + 1, f"the chain once reached number {max(beyond)}: its end was cut off")
    return None
