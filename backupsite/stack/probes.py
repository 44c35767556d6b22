"""Ways to see that a child is ready."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable
from pathlib import Path

import redis

from backupsite.stack.ports import LOOPBACK
from backupsite.stack.process import Child


def http_ok(port: int, path: str) -> Callable[[Child], bool]:
    """GET answers 200. Speaks to the loopback address directly, whatever proxy the environment names."""

    def probe(_child: Child) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return probe


def log_says(pattern: str) -> Callable[[Child], bool]:
    """A line written since the start matches."""
    expression = re.compile(pattern)
    return lambda child: expression.search(child.log_text()) is not None


def redis_answers(socket_path: Path) -> Callable[[Child], bool]:
    def probe(_child: Child) -> bool:
        try:
            with redis.Redis(unix_socket_path=str(socket_path), socket_timeout=5) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    return probe
