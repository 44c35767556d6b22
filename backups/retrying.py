"""When a failed backup is tried again by itself. Pure.

Only what may go away is tried again: a store, a network or a worker that was gone for a while. What a person has to
mend fails once, and the next time of the schedule comes anyway.
"""

from __future__ import annotations

from datetime import timedelta

MOST_RETRIES = 2
FIRST_PAUSE = timedelta(minutes=2)
_GOES_AWAY = frozenset(
    {
        "worker_lost",
        "commit_timeout",
        "commit_expired",
        "gate_unreachable",
        "store_unreachable",
        "store_failed",
        "store_busy",
        "bad_length",
        "unavailable",
    }
)


def is_retried(*, code: str, attempt: int, scheduled: bool) -> bool:
    """Whether a job that fails with this code gets another attempt. A person who asked decides himself."""
    return scheduled and attempt < MOST_RETRIES and code in _GOES_AWAY


def pause_before_retry(*, attempt: int, spread: float) -> timedelta:
    """After the failure of this attempt (from 0): 2, 8, ... minutes, lengthened by up to half with `spread` (0 to 1).

    So those who failed together do not come back together.
    """
    times: int = 4**attempt
    return FIRST_PAUSE * times * (1 + spread / 2)
