"""Until when what is stored is locked: bytes by the day on which their lock ends.

lock_tail(objects, now=...)      of these rows of the ledger, counted now
tail_of(person, now=...)         of all that the person sees; of vaults as they were looked over last
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db.models import Min, Sum
from django.db.models.functions import TruncDate

from agents.models import Server
from backups.accounting import TAKES_SPACE
from backups.days import LIVE_OBJECTS
from backups.figure_models import VaultFigures
from tenants.models import Person
from vaults.models import StoredObject, Vault

# What ends later is summed by months: a list stays short however long locks are.
DAILY = timedelta(days=62)
Tail = list[tuple[date, int]]


@dataclass(frozen=True, slots=True)
class LockTail:
    """`ends` are days (UTC; the last of the month beyond DAILY) with the bytes whose lock ends then, ascending.

    `counted_at` is None for what was counted now; `ends` is None where nobody counted yet.
    """

    ends: Tail | None
    counted_at: datetime | None = None

    @property
    def locked_bytes(self) -> int:
        return sum(size for _, size in self.ends or [])

    def still_locked(self) -> Tail:
        """The day, and what is locked after it has ended."""
        left, found = self.locked_bytes, []
        for day, size in self.ends or []:
            left -= size
            found.append((day, left))
        return found


def lock_tail(objects: Any, *, now: datetime) -> Tail:
    locked = objects.filter(status__in=TAKES_SPACE, retain_until__gt=now).order_by()
    by_day = locked.annotate(on=TruncDate("retain_until", tzinfo=UTC)).values("on").annotate(size=Sum("size_bytes"))
    return _summed(((row["on"], row["size"]) for row in by_day), now=now)


def tail_of(person: Person, *, now: datetime) -> LockTail:
    """Of the vaults that the person sees, or of the servers, where he sees no vault."""
    vaults = Vault.objects.for_user(person).order_by()
    if vaults.exists():
        objects = StoredObject.objects.filter(vault__in=vaults.values("pk"))
    else:
        objects = StoredObject.objects.filter(
            domain__server__in=Server.objects.for_user(person).order_by().values("pk")
        )
    if objects.order_by()[: LIVE_OBJECTS + 1].count() <= LIVE_OBJECTS:
        return LockTail(lock_tail(objects, now=now))
    kept = VaultFigures.objects.filter(vault__in=vaults.values("pk")).order_by()
    counted_at = kept.aggregate(at=Min("counted_at"))["at"]
    if counted_at is None:
        return LockTail(None)
    ends = (end for tail in kept.values_list("lock_tail", flat=True).iterator() for end in tail)
    return LockTail(_summed(((date.fromisoformat(day), size) for day, size in ends), now=now), counted_at)


def _summed(ends: Iterable[tuple[date, int]], *, now: datetime) -> Tail:
    """By day; what has ended since it was counted is left out."""
    sums: Counter[date] = Counter()
    today = now.astimezone(UTC).date()
    for day, size in ends:
        if day >= today:
            sums[day if day - today <= DAILY else _last_of_month(day)] += size
    return sorted(sums.items())


def _last_of_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1) - timedelta(days=1)
