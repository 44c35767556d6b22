"""Whether locks reach as far as promises: pure values and the judgement over them.

The invariant: every object that a backup needs is locked at least until the backup's immutable-until date. At a commit
at least half of the margin lies between the two, so less than a quarter of it is a sign that something goes wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from vaults.locks import MARGIN

WARN_BELOW = MARGIN / 4


@dataclass(frozen=True, slots=True)
class Violation:
    """One object that a backup needs and that is not locked for as long as was promised, or is not there."""

    backup_id: UUID
    key: str
    promised_until: datetime
    locked_until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """The report of one vault at one time. `violations` is bounded, `violation_count` is not."""

    vault_id: UUID
    vault: str
    at: datetime
    backup_count: int
    violation_count: int
    violations: tuple[Violation, ...]
    # How much later than its promise the first lock of a backup ends, over the promises that still run.
    least_slack: timedelta | None
    # The next end of a lock on an object that a backup needs, and how many of those end within the margin or ended.
    soonest_end: datetime | None
    ending_count: int

    @property
    def is_kept(self) -> bool:
        return not self.violation_count

    @property
    def alarm(self) -> str:
        """What a person must be told of broken promises; empty when all are kept."""
        if self.is_kept:
            return ""
        first = self.violations[0] if self.violations else None
        example = f" For example {first.key}: {first.reason}." if first else ""
        return (
            f"{self.violation_count} objects are not locked for as long as backups were promised.{example} "
            "`manage.py lock_report` lists them. Do not trust this vault until you know why."
        )

    @property
    def warning(self) -> str:
        """What a person must be told of promises that are kept with too little to spare; empty when it is enough."""
        if not self.is_kept or self.least_slack is None or self.least_slack >= WARN_BELOW:
            return ""
        hours = self.least_slack.total_seconds() / 3600
        return (
            f"Locks reach only {hours:.1f} hours further than promises, where each commit leaves at least "
            f"{MARGIN.total_seconds() / 7200:.0f}. Look for a wrong clock, or locks that were changed."
        )
