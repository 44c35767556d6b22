"""How far the removal of a tenant or a vault is: for people who wait for it.

Nothing here decides: removal goes by what is counted then (`backups.remains`). What is gone is counted since somebody
asked for it, over what the reaper noted, and up to a bound; what was removed before by retention does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, QuerySet, Sum

from backups.remains import Remains, VaultRemains, own_objects
from tenants.models import Tenant, TenantDeletion
from vaults.models import StoredObject, Vault, VaultDeletion

# So many objects are counted while somebody waits.
MOST_COUNTED = 50_000
DAILY = "The next step is taken each night."


@dataclass(frozen=True, slots=True)
class Leaving:
    """`phase` and `next_step` in words; `percent` is None while nothing can go yet, or where too much is gone to count.

    `not_before`: locks stand until then.
    """

    phase: str
    next_step: str
    gone_objects: int
    gone_bytes: int
    is_cut: bool
    percent: int | None
    not_before: datetime | None


def leaving_of_vault(
    vault: Vault, deletion: VaultDeletion, remains: VaultRemains, *, uses: list[str], now: datetime
) -> Leaving:
    gone = StoredObject.objects.filter(vault=vault)
    return _leaving(deletion, remains, gone, stopped_by=" ".join(uses), now=now)


def leaving_of_tenant(tenant: Tenant, deletion: TenantDeletion, remains: Remains, *, now: datetime) -> Leaving:
    """Of one that is not finished."""
    lent = remains.lent_objects or remains.lent_backups
    kept = "Servers that were moved to other tenants need its keys and vaults." if lent else ""
    running = f"{remains.jobs} jobs of it wait or run; the next step ends them." if remains.jobs else ""
    others = remains.backups or remains.objects
    return _leaving(deletion, remains, own_objects(tenant), stopped_by=running or ("" if others else kept), now=now)


def _leaving(
    deletion: VaultDeletion | TenantDeletion,
    remains: Remains | VaultRemains,
    objects: QuerySet[StoredObject],
    *,
    stopped_by: str,
    now: datetime,
) -> Leaving:
    phase, next_step = _phase(deletion.undo_until, remains, stopped_by=stopped_by, now=now)
    count, size_bytes, is_cut = _gone(objects, since=deletion.requested_at)
    whole = size_bytes + remains.size_bytes
    is_known = now >= deletion.undo_until and not is_cut and whole > 0
    locked = remains.last_lock_ends
    return Leaving(
        phase=phase,
        next_step=next_step,
        gone_objects=count,
        gone_bytes=size_bytes,
        is_cut=is_cut,
        percent=size_bytes * 100 // whole if is_known else None,
        not_before=locked if locked is not None and locked > now else None,
    )


def _phase(undo_until: datetime, remains: Remains | VaultRemains, *, stopped_by: str, now: datetime) -> tuple[str, str]:
    """Its name, and what comes next."""
    locked = remains.last_lock_ends is not None and remains.last_lock_ends > now
    if now < undo_until:
        return "waiting", "Until the delay is over it can be undone, and nothing goes."
    if stopped_by:
        return "stopped", f"Nothing goes while this stands: {stopped_by}"
    if remains.backups:
        return "backups leave", f"Each backup leaves the catalogue when its promise is over. {DAILY}"
    if remains.objects and locked:
        return "waiting for locks", "Nobody can shorten a lock: what it holds goes after it, by itself."
    if remains.objects:
        return "deleting", "The reaper deletes object by object; what the store refuses is tried again."
    return "last step", f"The bytes are gone; the rows and keys go last. {DAILY}"


def _gone(objects: QuerySet[StoredObject], *, since: datetime) -> tuple[int, int, bool]:
    """How many objects, of how many bytes, and whether there are more than are counted."""
    gone = objects.filter(status=StoredObject.Status.DELETED, removal__done_at__gte=since)
    found: dict[str, Any] = (
        gone.order_by()
        .values("pk", "size_bytes")[: MOST_COUNTED + 1]
        .aggregate(count=Count("pk"), size_bytes=Sum("size_bytes", default=0))
    )
    return found["count"], found["size_bytes"], found["count"] > MOST_COUNTED
