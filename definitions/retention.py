"""What retention removes, and why the rest is kept. Pure: values in, values out.

Scheduled and manual backups are counted apart, so that a hundred manual backups cannot push the good ones out. Only
healthy backups count towards what is kept. The last good one, the last verified one and what is held are never removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Rules:
    """How many to keep, by slot (`count`), by age (`days`) and by period; each 0: does not ask for any. None: all.

    A backup is kept when one of them asks for it. Periods are of the definition's local time: of each of the newest N
    hours, days, ISO weeks, months or years that have a backup, the newest one.
    """

    count: int = 0
    days: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    @property
    def keep_all(self) -> bool:
        return not any(getattr(self, field.name) for field in fields(self))

    def keep_less_than(self, other: Rules) -> bool:
        """Whether these may remove what the others keep."""
        if self.keep_all or other.keep_all:
            return other.keep_all and not self.keep_all
        return any(getattr(self, field.name) < getattr(other, field.name) for field in fields(self))


class Reason(StrEnum):
    """Why a backup is kept."""

    ALL = "all"
    COUNT = "count"
    DAYS = "days"
    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"
    LAST_GOOD = "last good"
    LAST_VERIFIED = "last verified"
    HELD = "held"
    # Damaged, and perhaps all that there is of its time.
    ONLY_ONE = "only one of its time"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished backup of one definition. `slot_at` is None for one that a person started.

    One that is not healthy has damaged or missing objects: it does not count towards what is kept. One that is held is
    not removed by any rule.
    """

    id: UUID
    created_at: datetime
    slot_at: datetime | None
    healthy: bool = True
    verified: bool = False
    held: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    candidate: Candidate
    reasons: tuple[Reason, ...]

    @property
    def kept(self) -> bool:
        return bool(self.reasons)


def to_remove(*, candidates: Iterable[Candidate], rules: Rules, now: datetime, zone: ZoneInfo) -> list[Candidate]:
    """Those that nothing keeps, newest first of each kind."""
    verdicts = judge(candidates=candidates, rules=rules, now=now, zone=zone)
    return [verdict.candidate for verdict in verdicts if not verdict.kept]


def judge(*, candidates: Iterable[Candidate], rules: Rules, now: datetime, zone: ZoneInfo) -> list[Verdict]:
    """Of each candidate why it is kept; scheduled before manual ones, newest first. Of several in one slot only the
    newest healthy one counts.

    What is not healthy goes only when the healthy ones newer than it already fill all that the rules ask for.
    """
    newest_first = sorted(candidates, key=lambda candidate: (candidate.created_at, candidate.id), reverse=True)
    floor = _floor(newest_first)
    verdicts = []
    for is_manual in (False, True):
        keeping = _Keeping(rules, now, zone)
        for candidate in newest_first:
            if (candidate.slot_at is None) == is_manual:
                reasons = [*keeping.reasons_for(candidate), *floor.get(candidate.id, [])]
                verdicts.append(Verdict(candidate, tuple(reasons)))
    return verdicts


def _floor(newest_first: list[Candidate]) -> dict[UUID, list[Reason]]:
    found: dict[UUID, list[Reason]] = {item.id: [Reason.HELD] for item in newest_first if item.held}
    good = [item for item in newest_first if item.healthy]
    verified = [item for item in good if item.verified]
    for items, reason in ((good, Reason.LAST_GOOD), (verified, Reason.LAST_VERIFIED)):
        for item in items[:1]:
            found.setdefault(item.id, []).append(reason)
    return found


class _Keeping:
    """Goes through the backups of one kind, newest first, and fills what each rule asks for."""

    def __init__(self, rules: Rules, now: datetime, zone: ZoneInfo) -> None:
        self._rules = rules
        self._zone = zone
        self._youngest_too_old = now - timedelta(days=rules.days) if rules.days else None
        self._slots: set[object] = set()
        wanted = ((reason, getattr(rules, name), bucket) for reason, name, bucket in _PERIODS)
        self._periods = [_Period(reason, limit, bucket) for reason, limit, bucket in wanted if limit]

    def reasons_for(self, candidate: Candidate) -> list[Reason]:
        if self._rules.keep_all:
            return [Reason.ALL]
        if candidate.healthy and candidate.slot_at is not None and candidate.slot_at in self._slots:
            return []
        # By its slot: what runs late belongs to the day that it was due on.
        local = (candidate.slot_at or candidate.created_at).astimezone(self._zone)
        asking = [period for period in self._periods if period.asks_for(candidate, local)]
        reasons = [period.reason for period in asking]
        if self._youngest_too_old is not None and candidate.created_at > self._youngest_too_old:
            reasons.append(Reason.DAYS)
        if not candidate.healthy:
            return [Reason.ONLY_ONE] if reasons else []
        self._slots.add(candidate.slot_at)
        for period in asking:
            period.fill(candidate, local)
        return reasons


Bucket = Callable[[Candidate, datetime], object]


class _Period:
    """One rule: the newest healthy backup of each of so many buckets."""

    def __init__(self, reason: Reason, limit: int, bucket: Bucket) -> None:
        self.reason = reason
        self._limit = limit
        self._bucket = bucket
        self._filled: set[object] = set()

    def asks_for(self, candidate: Candidate, local: datetime) -> bool:
        return len(self._filled) < self._limit and self._bucket(candidate, local) not in self._filled

    def fill(self, candidate: Candidate, local: datetime) -> None:
        self._filled.add(self._bucket(candidate, local))


_PERIODS: tuple[tuple[Reason, str, Bucket], ...] = (
    (Reason.COUNT, "count", lambda candidate, _: candidate.slot_at or candidate.id),
    # With the offset: the hour that comes twice is two.
    (Reason.HOURLY, "hourly", lambda _, local: (local.date(), local.hour, local.utcoffset())),
    (Reason.DAILY, "daily", lambda _, local: local.date()),
    (Reason.WEEKLY, "weekly", lambda _, local: local.isocalendar()[:2]),
    (Reason.MONTHLY, "monthly", lambda _, local: (local.year, local.month)),
    (Reason.YEARLY, "yearly", lambda _, local: local.year),
)
