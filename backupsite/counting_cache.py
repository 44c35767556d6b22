"""Django's cache in Redis, which counts in one round trip: each request of the API, the gate and the agents counts."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from django.core.cache.backends.redis import RedisCache


class CountingRedisCache(RedisCache):
    """As Django's; what is counted are plain numbers, which `get`, `incr` and `decr` read as well."""

    @cached_property
    def _counting(self) -> Any:
        # Django makes a client for each call, which costs as much as the call; its connections are shared anyway.
        return self._cache.get_client(None, write=True)

    def count(self, key: str, *, earlier: str, timeout: int) -> tuple[int, int]:
        """One more at `key`, which is forgotten after `timeout` seconds. Returns what `earlier` holds, and `key` now.

        Raises what redis-py raises. The three are sent together: a counter never stays without its end.
        """
        keys = [self.make_and_validate_key(one) for one in (key, earlier)]
        with self._counting.pipeline(transaction=False) as together:
            current, _, before = together.incr(keys[0]).expire(keys[0], timeout).get(keys[1]).execute()
        return int(before or 0), int(current)
