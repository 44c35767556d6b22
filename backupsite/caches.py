"""The cache that all processes share: Redis when the broker is Redis, else a table of the database.

It holds nothing that must not be lost: counters of requests, and what sign-in limits itself by.
"""

from __future__ import annotations

from typing import Any

TABLE = "backupsite_cache"
_MEMORY: dict[str, Any] = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}


def caches_from_broker(url: str) -> dict[str, Any]:
    """Django's CACHES. `local` is of one process: for when the shared one does not answer.

    A broker in memory belongs to tests and to single commands; then the cache is in memory, too.
    """
    return {"default": _shared(url), "local": {**_MEMORY, "LOCATION": "local"}}


def _shared(url: str) -> dict[str, Any]:
    if url.startswith(("redis", "unix")):
        return {
            "BACKEND": "backupsite.counting_cache.CountingRedisCache",
            # Celery writes redis+socket:///path where redis-py writes unix:///path.
            "LOCATION": url.replace("redis+socket://", "unix://", 1),
            "KEY_PREFIX": "backupsite",
            # A request must not wait long for its counter.
            "OPTIONS": {"socket_timeout": 1, "socket_connect_timeout": 1},
        }
    if url.startswith("memory"):
        return {**_MEMORY, "LOCATION": "default"}
    return {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": TABLE}
