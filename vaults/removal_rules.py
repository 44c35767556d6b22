"""When bytes may go: pure rules of removal.

Source of the rules: the vault contract. An object that no backup needs is condemned by one run with that run's epoch.
It may be deleted by a later run only, which has marked again, once no session is open that was opened in an earlier
epoch, a day has passed, and its lock is over by the store's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from vaults.locks import LONGEST_SESSION

GRACE = timedelta(hours=24)
# The clocks of two machines may differ by this much.
SKEW = timedelta(minutes=5)
# What a session stored may be taken up by the next attempt; each of the two lasts a day at most.
UNCOMMITTED_KEPT = 2 * LONGEST_SESSION
RECONCILED_WITHIN = timedelta(hours=26)
LARGEST_SHARE_PERCENT = 20
CAP_PERIOD = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A condemned object that the newest mark did not find needed."""

    id: int
    size_bytes: int
    condemned_epoch: int
    condemned_at: datetime
    retain_until: datetime


def may_be_deleted(candidate: Candidate, *, epoch: int, oldest_open_epoch: int | None, now: datetime) -> bool:
    """Whether the run with this epoch may give the object to the reaper. `now` is the store's time."""
    return (
        candidate.condemned_epoch < epoch
        and (oldest_open_epoch is None or oldest_open_epoch >= candidate.condemned_epoch)
        and candidate.condemned_at + GRACE <= now
        and candidate.retain_until + SKEW <= now
    )


def within_cap(
    candidates: Iterable[Candidate],
    *,
    total_objects: int,
    total_bytes: int,
    ordered_objects: int = 0,
    ordered_bytes: int = 0,
) -> Iterator[Candidate]:
    """The first candidates that are at most a fifth of the vault, by number and by bytes; of any vault at least one.

    The fifth is for a day: what was ordered within the last one (`CAP_PERIOD`) counts, and is part of the totals.
    """
    objects_left = max(1, total_objects * LARGEST_SHARE_PERCENT // 100) - ordered_objects
    bytes_left = total_bytes * LARGEST_SHARE_PERCENT // 100 - ordered_bytes
    for number, candidate in enumerate(candidates):
        is_first = not number and not ordered_objects
        if objects_left < 1 or (candidate.size_bytes > bytes_left and not is_first):
            return
        objects_left -= 1
        bytes_left -= candidate.size_bytes
        yield candidate


def may_be_condemned(*, granted_at: datetime, now: datetime) -> bool:
    """Whether an object that no manifest names is old enough to be of no use to a session that goes on with it."""
    return granted_at + UNCOMMITTED_KEPT <= now
