"""How long a session lasts. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. `idle` is for everybody, `idle_administrator` for who administers something."""

    life: int
    idle: int
    idle_administrator: int


def is_over(
    *, signed_in_at: float | None, seen_at: float | None, administrator: bool, now: float, limits: Limits
) -> bool:
    """Pure. What does not say when it began is over."""
    if signed_in_at is None or seen_at is None:
        return True
    idle = limits.idle_administrator if administrator else limits.idle
    return now - signed_in_at >= limits.life or now - seen_at >= idle
