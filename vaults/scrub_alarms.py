"""What the scrub tells a person about a vault: damage, short locks, and reading that falls behind."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Count, Q

from vaults.alarms import clear_alarm, raise_alarm
from vaults.damage import PRESENT, Damage, damaged_objects, unreadable_objects
from vaults.locks import LONGEST_LOCK, MARGIN
from vaults.models import StoredObject, Vault
from vaults.stripes import LATE_AFTER, NEW_LATE_AFTER

DAMAGED = "damaged_objects"
SHORT_LOCKS = "lock_shorter_than_ledger"
LATE = "scrub_late"
ABSURD_DATES = "ledger_date_absurd"


def settle(vault: Vault, *, now: datetime) -> None:
    """Raise or clear the scrub's alarms by what the ledger says now. May run any number of times."""
    _settle_one(vault, DAMAGED, _damage_message(vault), now=now)
    _settle_one(vault, SHORT_LOCKS, _lock_message(vault), now=now)
    _settle_one(vault, LATE, _late_message(vault, now), now=now)
    _settle_one(vault, ABSURD_DATES, _absurd_message(vault, now), now=now)


def latest_lock(now: datetime) -> datetime:
    """No rule gives a later date to any object that is there now; clocks may differ by the margin."""
    return now + LONGEST_LOCK + MARGIN


def _settle_one(vault: Vault, code: str, message: str, *, now: datetime) -> None:
    if message:
        raise_alarm(vault, code=code, message=message, now=now)
    else:
        clear_alarm(vault, code=code, now=now)


def _damage_message(vault: Vault) -> str:
    counted = unreadable_objects(vault).values_list("damage").annotate(count=Count("pk")).order_by("damage")
    found = ", ".join(f"{count} {damage}" for damage, count in counted)
    if not found:
        return ""
    return (
        f"Objects in the vault cannot be used: {found}. The backups that need them say what of them is affected. "
        "Nothing was deleted; the next backup of each disk stores again what the disk still has."
    )


def _lock_message(vault: Vault) -> str:
    count = damaged_objects(vault).filter(damage=Damage.SHORT_LOCK).count()
    if not count:
        return ""
    return (
        f"The locks of {count} objects ended earlier in the store than it had accepted; it was asked to lock them "
        "again. This store may not keep locks: do not trust it with new backups before you know why."
    )


def _absurd_message(vault: Vault, now: datetime) -> str:
    count = StoredObject.objects.filter(vault=vault, status__in=PRESENT, retain_until__gt=latest_lock(now)).count()
    if not count:
        return ""
    return (
        f"By the ledger {count} objects are locked for longer than any rule gives, {LONGEST_LOCK.days} days from now. "
        "Their locks are not lengthened. Where did these dates come from: a manifest of a host that is not trusted?"
    )


def _late_message(vault: Vault, now: datetime) -> str:
    late = Q(read_at=None, granted_at__lt=now - NEW_LATE_AFTER) | Q(read_at__lt=now - LATE_AFTER)
    count = StoredObject.objects.filter(late, vault=vault, status__in=PRESENT).count()
    return (
        f"{count} objects were not read for longer than they should be. Does the checks' worker run?" if count else ""
    )
