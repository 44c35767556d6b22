"""The time that all processes agree on: the database's. A machine whose clock is wrong then harms nobody's lease."""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import connection
from django.utils import timezone


def database_now() -> datetime:
    """The time now, aware, in UTC. With SQLite everything is on one machine, whose clock it is."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now.astimezone(UTC)
