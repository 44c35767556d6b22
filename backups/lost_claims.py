"""When a job that loses its worker again and again is given up. Pure.

A claim that was lost and yet got further cost nothing but time: the next one goes on with what it left. Four in a row
that got no further are trouble that another try will not mend.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

MOST_IN_VAIN = 4
# One loss in half an hour for a day. No job goes on for ever, whatever its worker tells of its progress.
MOST_CLAIMS = 48
# What was stored can be gone on with for a day: later a job loses at the one end what it gains at the other.
LONG_AGO = timedelta(days=1)
# A session's key is stored before its first pack, by every claim, and brings none further.
_LARGEST_KEY_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Losses:
    """Of one job: its claims so far, how many were lost in vain one after another, how far the furthest was."""

    claims: int
    in_vain: int = 0
    furthest_bytes: int = 0


def after_loss(before: Losses, *, done_bytes: int, kept_bytes: int) -> Losses:
    """With the loss of the last claim, which had worked through `done_bytes` and left `kept_bytes` for the next.

    It was not in vain when it got further than every one before it, or left something.
    """
    got_further = done_bytes > before.furthest_bytes or kept_bytes > _LARGEST_KEY_BYTES
    furthest = max(before.furthest_bytes, done_bytes)
    return Losses(before.claims, 0 if got_further else before.in_vain + 1, furthest)


def why_given_up(losses: Losses, *, age: timedelta) -> str:
    """A sentence; empty while the job is worth another claim. `age`: since its first claim began."""
    if losses.in_vain >= MOST_IN_VAIN:
        return f"The worker was lost {losses.in_vain} times one after another, and the job got no further."
    if losses.claims >= MOST_CLAIMS:
        return f"The worker was lost {losses.claims} times while it had this job."
    if losses.claims >= MOST_IN_VAIN and age > LONG_AGO:
        return f"The worker was lost {losses.claims} times, and the job began over a day ago."
    return ""
