"""Two transactions at once: the second is let go when it stands before a lock of the first."""

from __future__ import annotations

import time

from django.db import connection


def wait_until_somebody_waits() -> None:
    """Until a session waits for a lock. On PostgreSQL only; AssertionError after two minutes."""
    give_up_at = time.monotonic() + 120
    with connection.cursor() as cursor:
        while time.monotonic() < give_up_at:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
            time.sleep(0.05)
    raise AssertionError("nobody waited")
