"""The names that fill in schedule and retention: hourly, daily, weekly, monthly. Pure.

Which minute is worked out from the disk, so that a thousand `daily` do not start at the same time and the same disk
gets the same time again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from definitions.retention import Rules

RESERVED = ("hourly", "daily", "weekly", "monthly")


@dataclass(frozen=True, slots=True)
class Preset:
    cron: str
    retention: Rules


def preset_for(name: str, *, seed: str) -> Preset | None:
    """What the name fills in, between 22:00 and 06:00 where it names an hour; None for a name that means nothing."""
    number = int.from_bytes(hashlib.blake2b(f"{name} {seed}".encode(), digest_size=8).digest(), "big")
    minute, number = number % 60, number // 60
    hour, number = (22 + number % 8) % 24, number // 8
    if name == "hourly":
        return Preset(f"{minute} * * * *", Rules(count=24))
    if name == "daily":
        return Preset(f"{minute} {hour} * * *", Rules(count=30))
    if name == "weekly":
        return Preset(f"{minute} {hour} * * {number % 7}", Rules(count=12))
    if name == "monthly":
        return Preset(f"{minute} {hour} {1 + number % 28} * *", Rules(count=6))
    return None
