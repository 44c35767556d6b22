"""Schedules that are put together from two choices, for people who do not write cron. Pure."""

from __future__ import annotations

from datetime import time

OFTEN = (
    ("hourly", "every hour"),
    ("six-hours", "every six hours"),
    ("daily", "every day"),
    ("weekdays", "Monday to Friday"),
    ("weekly", "every Sunday"),
    ("monthly", "on the first of the month"),
)
_DAYS = {"daily": "* * *", "weekdays": "* * 1-5", "weekly": "* * 0", "monthly": "1 * *"}


def helped_cron(often: str, at: time) -> str:
    """The five fields; empty for a word that is none of OFTEN. Of `at` the more frequent ones keep what they can."""
    if often == "hourly":
        return f"{at.minute} * * * *"
    if often == "six-hours":
        return f"{at.minute} {','.join(str(hour) for hour in range(at.hour % 6, 24, 6))} * * *"
    return f"{at.minute} {at.hour} {_DAYS[often]}" if often in _DAYS else ""
