"""Limits of a tenant: set, counted and kept, exactly, also when several are at it at once.

`check` is called inside of the transaction that adds something, before it is added. It holds the tenant's row until the
transaction ends, so the next one counts what this one added. Who counts what is registered by the layers that know the
rows, when the application starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.utils import timezone

from common.errors import ConfigurationError, InvalidInputError, QuotaError
from tenants.audit import record
from tenants.models import Person, Quota, QuotaKind, Tenant
from tenants.notices import publish
from tenants.origin import current_visit

# Counts what a tenant has of a kind; `within` is the object that the limit is for, when it is not the whole tenant.
Counter = Callable[[Tenant, Any], int]
# The largest number that both databases hold.
LARGEST = 2**63 - 1
# Limits of a single value, not of a sum: nothing is counted.
CAPS = frozenset({QuotaKind.RETENTION_DAYS, QuotaKind.RETENTION_COUNT})

_counters: dict[QuotaKind, Counter] = {}


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """A kind with its limits (None: no limit) and what is used; None where nothing is counted."""

    kind: QuotaKind
    soft: int | None
    hard: int | None
    used: int | None

    @property
    def is_soft_passed(self) -> bool:
        return self.soft is not None and self.used is not None and self.used > self.soft


def register_counter(kind: QuotaKind, counter: Counter) -> None:
    _counters[kind] = counter


def check(*, tenant: Tenant, kind: QuotaKind, adding: int = 1, within: Any = None) -> None:
    """Refuse what would pass the hard limit; tell people, once, when the soft one is passed.

    Must run in the transaction that adds. Raises QuotaError.
    """
    if not connection.in_atomic_block:
        raise RuntimeError("a quota holds only within the transaction that adds")
    # Without the key: rows that refer to the tenant can be written meanwhile.
    Tenant.objects.select_for_update(no_key=True).get(pk=tenant.pk)
    quota = Quota.objects.filter(tenant=tenant, kind=kind).first()
    if quota is None:
        return
    after = _count(tenant, kind, within) + adding
    if quota.hard is not None and after > quota.hard:
        _tell_whatever_happens(quota, used=after - adding)
        raise QuotaError(_refusal(quota, kind, after - adding))
    _notice(quota, passed=quota.soft is not None and after > quota.soft, used=after, now=timezone.now())


def check_room(*, tenant: Tenant, kind: QuotaKind) -> None:
    """As `check`, for what cannot be counted beforehand: refused when the hard limit is reached already."""
    check(tenant=tenant, kind=kind, adding=1)


def check_cap(*, tenant: Tenant, kind: QuotaKind, value: int | None, field: str) -> None:
    """Refuse a single value above the tenant's hard limit; None is a value without end. Raises QuotaError."""
    quota = Quota.objects.filter(tenant=tenant, kind=kind).first()
    if quota is None or quota.hard is None:
        return
    if value is None or value > quota.hard:
        raise QuotaError(f"The tenant may have at most {quota.hard} {QuotaKind(kind).label}.", field=field)


def uses_of(tenant: Tenant, *, known: Mapping[QuotaKind, int] | None = None) -> list[QuotaUse]:
    """Every kind, with its limits and what is used now; what is `known` is not counted."""
    rows = {quota.kind: quota for quota in Quota.objects.filter(tenant=tenant)}
    found = []
    for kind in QuotaKind:
        row = rows.get(kind)
        used = (known or {}).get(kind)
        if used is None and kind in _counters:
            used = _count(tenant, kind, None)
        found.append(QuotaUse(kind, row.soft if row else None, row.hard if row else None, used))
    return found


@transaction.atomic
def set_quotas(
    *, tenant: Tenant, limits: Mapping[str, Mapping[str, int | None] | None], actor: Person, now: datetime
) -> None:
    """Set the kinds that are named; None takes the limit away. What is above a new limit already stays.

    Raises InvalidInputError, and changes nothing, for a limit that makes no sense.
    """
    Tenant.objects.select_for_update(no_key=True).get(pk=tenant.pk)
    before = _shown(tenant)
    for kind, limit in limits.items():
        soft, hard = (limit.get("soft"), limit.get("hard")) if limit else (None, None)
        if soft is None and hard is None:
            Quota.objects.filter(tenant=tenant, kind=kind).delete()
            continue
        quota = Quota.objects.filter(tenant=tenant, kind=kind).first() or Quota(tenant=tenant, kind=kind)
        quota.soft, quota.hard, quota.soft_passed_at = soft, hard, None
        _clean(quota)
        quota.save()
    after = _shown(tenant)
    if before != after:
        record(action="quota.set", subject=tenant, actor=actor, before=before, after=after)


def _clean(quota: Quota) -> None:
    if quota.kind in CAPS and quota.soft is not None:
        raise InvalidInputError("This has a hard limit only: nothing adds up that could be told of.", field=quota.kind)
    for limit in (quota.soft, quota.hard):
        if limit is not None and not 0 <= limit <= LARGEST:
            raise InvalidInputError("A limit is a number from 0 up, or null for none.", field=quota.kind)
    if quota.soft is not None and quota.hard is not None and quota.soft > quota.hard:
        raise InvalidInputError("The soft limit cannot be above the hard one.", field=quota.kind)
    try:
        quota.full_clean()
    except ValidationError as error:
        raise InvalidInputError(" ".join(error.messages), field=quota.kind) from error


def _count(tenant: Tenant, kind: QuotaKind, within: Any) -> int:
    counter = _counters.get(kind)
    if counter is None:
        raise ConfigurationError(f"Nobody counts {kind}.")
    return counter(tenant, within)


def _refusal(quota: Quota, kind: QuotaKind, used: int) -> str:
    return (
        f"The tenant may have at most {quota.hard} {QuotaKind(kind).label} and has {used}. "
        "Remove some, or ask a SuperAdmin for a higher limit."
    )


def _notice(quota: Quota, *, passed: bool, used: int, now: datetime) -> None:
    """Tell people when the soft limit is passed, and be ready to tell them again after it was not."""
    if passed == (quota.soft_passed_at is not None):
        return
    Quota.objects.filter(pk=quota.pk).update(soft_passed_at=now if passed else None)
    if passed:
        _tell(quota, event="quota.soft", used=used)
        record(action="quota.soft_passed", subject=quota, after={"kind": quota.kind, "soft": quota.soft, "used": used})


def _shown(tenant: Tenant) -> dict[str, list[int | None]]:
    return {quota.kind: [quota.soft, quota.hard] for quota in Quota.objects.filter(tenant=tenant)}


def _tell_whatever_happens(quota: Quota, *, used: int) -> None:
    """The refusal rolls back what is written now; so it is told of when the request is over, once an hour."""
    visit = current_visit()
    if visit is not None:
        visit.afterwards.append(lambda: _tell(quota, event="quota.hard", used=used))


def _tell(quota: Quota, *, event: str, used: int) -> None:
    facts = {"kind": quota.kind, "used": used, "soft": quota.soft, "hard": quota.hard}
    publish(
        event=event,
        tenant=quota.tenant,
        subject=quota,
        facts=facts,
        name=quota.tenant.title,
        cause=f"quota:{quota.pk}",
        quiet_for=timedelta(hours=1),
    )
