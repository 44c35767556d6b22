"""How often a password may be tried: counted before it is looked at, so that trying many at once gains nothing.

Failures count for the address, for the account from this address, and for the account from everywhere. What is locked
is the name that was typed, known or not: a lock tells nothing, and nobody far away locks somebody out for long.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from django.http import HttpRequest

from tenants.api.throttling import count_request, principal_of, uncount_request

# Names of rates in the setting API_RATES.
ADDRESS, PAIR, PAIR_HOURLY, ACCOUNT = "password-address", "password-pair", "password-pair-hourly", "password-account"
RESET_ADDRESS, RESET_ACCOUNT = "reset-address", "reset-account"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try. `wait_seconds` is None when it may be made."""

    wait_seconds: int | None
    _counted: tuple[tuple[str, str], ...]
    _now: float

    @property
    def is_allowed(self) -> bool:
        return self.wait_seconds is None

    def forgive(self) -> None:
        """It was right: it does not count."""
        for scope, principal in self._counted:
            uncount_request(scope, principal, now=self._now)


def begin_attempt(request: HttpRequest, name: str, *, now: float) -> Attempt:
    """Count one try of a password for the name that was typed."""
    address, account = _address(request), _digest(name)
    pair = f"{account}:{address}"
    return _count(((ADDRESS, address), (PAIR, pair), (PAIR_HOURLY, pair), (ACCOUNT, account)), now)


def begin_reset(request: HttpRequest, email: str, *, now: float) -> Attempt:
    """Count one wish for a link to a new password."""
    return _count(((RESET_ADDRESS, _address(request)), (RESET_ACCOUNT, _digest(email))), now)


def _count(kinds: tuple[tuple[str, str], ...], now: float) -> Attempt:
    """Stops at the first that is used up: a flood from one address does not use up an account's own share."""
    counted: list[tuple[str, str]] = []
    for scope, principal in kinds:
        standing = count_request(scope, principal, now=now)
        counted.append((scope, principal))
        if standing is not None and not standing.allowed:
            return Attempt(standing.reset_seconds, tuple(counted), now)
    return Attempt(None, tuple(counted), now)


class _Stranger:
    """The request of nobody: counted by its address."""

    auth = user = None

    def __init__(self, request: HttpRequest) -> None:
        self._request = request


def _address(request: HttpRequest) -> str:
    return principal_of(_Stranger(request))


def _digest(name: str) -> str:
    """People type passwords into the wrong field: what they typed is not kept."""
    return hashlib.sha256(name.strip().casefold().encode(errors="replace")).hexdigest()[:32]
