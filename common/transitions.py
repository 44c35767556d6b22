"""The one way in which a status changes: a conditional UPDATE, with an event row in the same transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import models, transaction


def change_status(
    *,
    queryset: models.QuerySet[Any],
    changes: dict[str, Any],
    record: Callable[[], object],
) -> bool:
    """Apply `changes` to the one row that `queryset` still matches and call `record` to write its event.

    The queryset states what must hold now (id, status, fence). Returns False and writes nothing when it no longer
    holds: somebody else was first. May be called twice; the second call changes nothing.
    """
    with transaction.atomic():
        if queryset.update(**changes) != 1:
            return False
        record()
        return True
