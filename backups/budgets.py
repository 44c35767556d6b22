"""What budgets allow. Pure: values in, a decision out."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time

# Into how many equal shares bytes per second are cut where no number of jobs says it.
SHARES = 4


@dataclass(frozen=True, slots=True)
class Use:
    """A budget that holds now, and what runs under it. `target` in words; bytes per second."""

    target: str
    most_jobs: int | None
    bytes_per_second: int | None
    running: int
    granted: int


@dataclass(frozen=True, slots=True)
class Admission:
    """Why a job has to wait (empty: it may begin), under which budget, and the bytes per second that it gets."""

    waits: str = ""
    use: Use | None = None
    bandwidth: int | None = None


def holds_at(now: datetime, *, from_time: time | None, until_time: time | None, time_zone: str) -> bool:
    """Whether the window is open: from `from_time` up to `until_time`, local, over midnight too; without: always."""
    if from_time is None or until_time is None:
        return True
    local = now.astimezone(zoneinfo.ZoneInfo(time_zone)).time()
    if from_time < until_time:
        return from_time <= local < until_time
    return local >= from_time or local < until_time


def admit(uses: Iterable[Use]) -> Admission:
    """One job more: allowed when each budget has room for it. Its bandwidth is the smallest share."""
    shares = []
    for use in uses:
        if use.most_jobs is not None and use.running >= use.most_jobs:
            return Admission(waits=f"{use.target} runs {use.running} of {use.most_jobs}", use=use)
        if use.bytes_per_second is not None:
            share = use.bytes_per_second // max(1, use.most_jobs or SHARES)
            if use.granted + share > use.bytes_per_second:
                return Admission(waits=f"{use.target} uses its {use.bytes_per_second} bytes per second", use=use)
            shares.append(share)
    return Admission(bandwidth=min(shares, default=None))
