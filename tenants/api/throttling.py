"""How much one principal may ask: counted over all processes, apart for reading, writing, exports and sign-in.

A window slides: what was asked in the window before counts by the part of it that is still within reach. Rates are in
the setting API_RATES, as `300/m`; a scope without a rate has no limit.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.cache import cache, caches
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from tenants.origin import client_address

logger = logging.getLogger(__name__)

READ, WRITE, EXPORT, SIGN_IN, REFUSED = "read", "write", "export", "sign-in", "refused"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# Of this process alone: for when the shared one does not answer.
_LOCAL_CACHE = "local"


@dataclass(frozen=True, slots=True)
class Rate:
    limit: int
    window_seconds: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a principal stands after this request. Times in seconds."""

    allowed: bool
    limit: int
    remaining: int
    reset_seconds: int

    def headers(self) -> dict[str, str]:
        found = {"Limit": self.limit, "Remaining": self.remaining, "Reset": self.reset_seconds}
        return {f"RateLimit-{name}": str(value) for name, value in found.items()}


def parse_rate(text: str) -> Rate:
    """`300/m`: a number for each second, minute, hour or day."""
    count, _, unit = text.partition("/")
    return Rate(limit=int(count), window_seconds=_SECONDS[unit])


def decide(rate: Rate, *, now: float, earlier: int, current: int) -> Standing:
    """Pure. `earlier` and `current` are the counts of the window before and of this one, this request included."""
    passed = now % rate.window_seconds
    weight = earlier * (1 - passed / rate.window_seconds) + current
    left = max(1, math.ceil(rate.window_seconds - passed))
    return Standing(weight <= rate.limit, rate.limit, max(0, math.floor(rate.limit - weight)), left)


def count_request(scope: str, principal: str, *, now: float) -> Standing | None:
    """Count one request. None when the scope has no rate."""
    text = settings.API_RATES.get(scope)
    if text is None:
        return None
    rate = parse_rate(text)
    window = int(now // rate.window_seconds)
    try:
        earlier, current = _count(cache, f"rate:{scope}:{principal}", window, rate)
    except Exception as error:  # whatever the cache's library raises: without it the API stays up, counting alone
        logger.warning("The shared counters of requests cannot be reached: %s", type(error).__name__)
        earlier, current = _count(caches[_LOCAL_CACHE], f"rate:{scope}:{principal}", window, rate)
    return decide(rate, now=now, earlier=earlier, current=current)


def uncount_request(scope: str, principal: str, *, now: float) -> None:
    """Take back what `count_request` counted at the same `now`: for limits on failures only."""
    text = settings.API_RATES.get(scope)
    if text is None:
        return
    key = f"rate:{scope}:{principal}:{int(now // parse_rate(text).window_seconds)}"
    for store in (cache, caches[_LOCAL_CACHE]):
        try:
            store.decr(key)
            return
        except Exception:  # noqa: S112  # gone, or out of reach: then it was counted in the other one, or is counted on
            continue


def principal_of(request: Any) -> str:
    """The token, else the person or agent, else the address: of IPv6 the network of 64 bits."""
    for known in (getattr(request, "auth", None), getattr(request, "user", None)):
        if getattr(known, "pk", None) is not None:
            return f"{known._meta.model_name}:{known.pk}"
    return f"address:{_network_of(request)}"


class PrincipalThrottle(BaseThrottle):
    """DRF's shape of the above. A view may name its `rate_scope`; else the method decides."""

    clock: Callable[[], float] = staticmethod(time.time)

    def allow_request(self, request: Request, view: Any) -> bool:
        self._standing = count_request(scope_of(request, view), principal_of(request), now=self.clock())
        request._request.rate_standing = self._standing
        return self._standing is None or self._standing.allowed

    def wait(self) -> float | None:
        return self._standing.reset_seconds if self._standing else None


def scope_of(request: Request, view: Any) -> str:
    named: str | None = getattr(view, "rate_scope", None)
    if named is not None:
        return named
    if getattr(getattr(request, "accepted_renderer", None), "format", None) == "csv":
        return EXPORT
    return READ if request.method in _SAFE else WRITE


def _count(store: Any, name: str, window: int, rate: Rate) -> tuple[int, int]:
    key, earlier, kept_seconds = f"{name}:{window}", f"{name}:{window - 1}", rate.window_seconds * 2 + 1
    if hasattr(store, "count"):
        # Redis, for several processes: see `backupsite.counting_cache`.
        found: tuple[int, int] = store.count(key, earlier=earlier, timeout=kept_seconds)
        return found
    store.add(key, 0, timeout=kept_seconds)
    current = store.incr(key)
    return store.get(earlier, 0), current


def _network_of(request: Any) -> str:
    text = client_address(getattr(request, "_request", request))
    if not text:
        return "unknown"
    address = ipaddress.ip_address(text)
    return str(address) if address.version == 4 else str(ipaddress.ip_network(f"{address}/64", strict=False))
