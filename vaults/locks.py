"""Lock arithmetic: until when an object must be locked, and when a lock must be extended. Pure.

Source of the rules: the vault contract. R is the promised immutability, S the longest session, G the generation (all
locks end on generation boundaries, so a live pack is extended at most once per G) and M the margin.
The invariant: every object o of every ok backup m has retain(o) >= commit(m) + R.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_SESSION = timedelta(hours=24)
GENERATION = timedelta(days=10)
MARGIN = timedelta(hours=24)
# Irrevocable dates are clamped: nothing may be locked longer than this from now, whatever a policy says.
LONGEST_LOCK = timedelta(days=3660)


@dataclass(frozen=True, slots=True)
class LockRule:
    """Locks of one vault: `promised` is R."""

    promised: timedelta
    generation: timedelta = GENERATION
    longest_session: timedelta = LONGEST_SESSION
    margin: timedelta = MARGIN

    def lock_until(self, now: datetime) -> datetime:
        """Retain-until date for an object that is written or extended at `now` (the store's time)."""
        wanted = generation_end(now, self.generation) + self.promised + self.longest_session + self.margin
        return min(wanted, now + LONGEST_LOCK).replace(microsecond=0)

    def needed_until(self, commit_at: datetime) -> datetime:
        """Least date that lets an object stand in a manifest committed at `commit_at` without extension."""
        return commit_at + self.promised + self.margin / 2

    def promised_until(self, commit_at: datetime) -> datetime:
        """The immutable-until date that a backup committed at `commit_at` may show."""
        return commit_at + self.promised

    def longest_lock_for(self, promised_until: datetime) -> datetime:
        """The latest date that `lock_until` can have given to an object of a backup with this promise."""
        return promised_until + self.generation + self.longest_session + self.margin


def generation_end(now: datetime, generation: timedelta) -> datetime:
    """The first generation boundary at or after `now`, counted from 1970 in UTC."""
    count, rest = divmod(now - _EPOCH, generation)
    return _EPOCH + generation * (count + bool(rest))
