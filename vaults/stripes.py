"""Which stored objects are to be read again, and when. Pure.

Every object belongs to one of 30 stripes by its hash, and every day (UTC) is the day of one stripe. So all bytes are
read once in 30 days, whatever comes and goes meanwhile; a day that was missed is made up for.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

STRIPE_COUNT = 30
# What is known to be damaged is looked at every day: it may have come back.
DAMAGED_AGAIN_AFTER = timedelta(days=1)
# Beyond these somebody must know: new objects are due at once, others within 30 days.
NEW_LATE_AFTER = timedelta(hours=48)
LATE_AFTER = timedelta(days=STRIPE_COUNT + 2)


def stripe_of(sha256: str) -> int:
    """The stripe of an object, from its SHA-256 in hexadecimal."""
    return int(sha256[:8], 16) % STRIPE_COUNT


def stripe_began(stripe: int, now: datetime) -> datetime:
    """When the newest day of the stripe began: at most 30 days before `now`."""
    today = now.astimezone(UTC).date()
    days_ago = (today.toordinal() - stripe) % STRIPE_COUNT
    return datetime.combine(today - timedelta(days=days_ago), time(), tzinfo=UTC)


def is_due(*, sha256: str, read_at: datetime | None, is_damaged: bool, now: datetime) -> bool:
    """Whether all bytes of the object are to be read now."""
    if read_at is None:
        return True
    if is_damaged and read_at + DAMAGED_AGAIN_AFTER <= now:
        return True
    return read_at < stripe_began(stripe_of(sha256), now)
