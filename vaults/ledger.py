"""Every change of a stored object's status. Nothing else writes it, but the grant (granted) and the commit (stored).

A commit and the order to delete take the same row locks, so an object is either in a new backup or being deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

from django.db import transaction
from django.db.models import Count, Q, Sum

from common.errors import ConflictError
from vaults.models import MovedPack, ObjectUse, Removal, RemovalRun, StoredObject, Vault

_ROWS_PER_STATEMENT = 500
Status = StoredObject.Status


class ObjectRemovedError(ConflictError):
    """A commit needs an object that is being removed; the next backup stores its content again."""

    code = "object_removed"


def condemn(ids: Collection[int], *, epoch: int, now: datetime) -> int:
    """stored -> condemned. Returns how many changed."""
    return sum(
        StoredObject.objects.filter(pk__in=part, status=Status.STORED).update(
            status=Status.CONDEMNED, condemned_epoch=epoch, condemned_at=now
        )
        for part in _parts(ids)
    )


def revive(ids: Collection[int]) -> int:
    """condemned -> stored, for what is needed after all. Returns how many changed."""
    return sum(
        StoredObject.objects.filter(pk__in=part, status=Status.CONDEMNED).update(
            status=Status.STORED, condemned_epoch=None, condemned_at=None
        )
        for part in _parts(ids)
    )


def hold_for_commit(ids: Collection[int]) -> None:
    """Inside of the commit's transaction: lock the rows, take back what was condemned, refuse what is being removed.

    Raises ObjectRemovedError; then the transaction must not go on.
    """
    gone = {Status.DELETING, Status.DELETED}
    for part in _parts(ids):
        statuses = StoredObject.objects.select_for_update().filter(pk__in=part).values_list("key", "status")
        removed = [key for key, status in statuses if status in gone]
        if removed:
            raise ObjectRemovedError(f"{len(removed)} objects are being removed from the vault: {min(removed)}.")
    revive(ids)


def order_removal(run: RemovalRun, ids: Collection[int], *, now: datetime) -> list[int]:
    """condemned -> deleting, with the journal's entries, in one transaction. Returns the ids that changed.

    An object that a commit took back meanwhile stays. A manifest goes before what it names, so that no reader of the
    bucket alone ever finds a manifest without its packs.
    """
    ordered: list[int] = []
    for part in _parts(ids):
        with transaction.atomic():
            rows = StoredObject.objects.select_for_update().filter(pk__in=part, status=Status.CONDEMNED)
            free = sorted(set(rows.values_list("pk", flat=True)) - still_named(part))
            StoredObject.objects.filter(pk__in=free).update(status=Status.DELETING)
            # One that was deleted before and came back has a finished order.
            Removal.objects.filter(stored_object_id__in=free).exclude(done_at=None).delete()
            Removal.objects.bulk_create([Removal(stored_object_id=pk, run=run, ordered_at=now) for pk in free])
            ordered += free
    return ordered


def still_named(ids: Collection[int]) -> set[int]:
    """Objects that a manifest names which is still in the bucket."""
    named: set[int] = set()
    for part in _parts(ids):
        uses = ObjectUse.objects.filter(needed_id__in=part).exclude(manifest__status=Status.DELETED)
        named.update(uses.values_list("needed_id", flat=True))
    return named


def settle_removal(removal: Removal, *, now: datetime) -> None:
    """deleting -> deleted, after the store has deleted the version. May run twice."""
    with transaction.atomic():
        StoredObject.objects.filter(pk=removal.stored_object_id, status=Status.DELETING).update(
            status=Status.DELETED, deleted_at=now
        )
        ObjectUse.objects.filter(manifest_id=removal.stored_object_id).delete()
        MovedPack.objects.filter(manifest_id=removal.stored_object_id).delete()
        Removal.objects.filter(pk=removal.pk, done_at=None).update(done_at=now, last_refusal="")


def forget_never_arrived(ids: Collection[int], *, now: datetime) -> int:
    """granted -> deleted, for what was granted long ago and is not in the vault."""
    return sum(
        StoredObject.objects.filter(pk__in=part, status=Status.GRANTED).update(status=Status.DELETED, deleted_at=now)
        for part in _parts(ids)
    )


def totals(vault: Vault, since: datetime) -> tuple[int, int]:
    """Number and bytes of the objects that are in the vault, or were at some time since then."""
    present = Q(status__in=[Status.STORED, Status.CONDEMNED, Status.DELETING])
    rows = StoredObject.objects.filter(present | Q(status=Status.DELETED, deleted_at__gt=since), vault=vault)
    found = rows.aggregate(count=Count("pk"), size_bytes=Sum("size_bytes"))
    return found["count"], found["size_bytes"] or 0


def ordered_since(vault: Vault, since: datetime) -> tuple[int, int]:
    """Number and bytes of what was ordered to be deleted since then, gone or not."""
    orders = Removal.objects.filter(stored_object__vault=vault, ordered_at__gt=since)
    found = orders.aggregate(count=Count("pk"), size_bytes=Sum("stored_object__size_bytes"))
    return found["count"], found["size_bytes"] or 0


def _parts(ids: Collection[int]) -> Iterator[list[int]]:
    ordered = sorted(ids)
    for start in range(0, len(ordered), _ROWS_PER_STATEMENT):
        yield ordered[start : start + _ROWS_PER_STATEMENT]
