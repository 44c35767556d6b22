"""What definitions promised before: written down where a schedule is changed, read where a time that is over is judged.

Every verb that changes a schedule, its zone or whether it is active calls `keep_schedules` first, in its transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from definitions.models import Definition, EarlierSchedule
from definitions.promised import Era

_BATCH = 500
# A statement that names more definitions than that is too long for some databases.
_MOST_NAMED = 5_000


def keep_schedules(changed: Sequence[Definition], *, now: datetime) -> None:
    """Of those that are about to promise something else: what the stored rows promised until now.

    The rows are locked, so that of two changes at once the second one keeps what the first one has made.
    """
    for first in range(0, len(changed), _BATCH):
        _keep(changed[first : first + _BATCH], now)


def _keep(changed: Sequence[Definition], now: datetime) -> None:
    locked = Definition.objects.select_for_update(no_key=True).filter(pk__in=[one.pk for one in changed]).order_by("pk")
    names = ("cron", "time_zone", "active")
    stored = {key: values for key, *values in locked.values_list("pk", *names)}
    EarlierSchedule.objects.bulk_create(
        EarlierSchedule(
            definition=one, tenant_id=one.tenant_id, until=now, **dict(zip(names, stored[one.pk], strict=True))
        )
        for one in changed
        if one.pk in stored and stored[one.pk] != [getattr(one, name) for name in names]
    )


def eras_of(definitions: Iterable[Definition]) -> dict[UUID, tuple[Era, ...]]:
    """Of each since it was made, the oldest first; one query. What is retired promises nothing from then on."""
    chosen = {one.pk: one for one in definitions}
    keys, rows = list(chosen), dict[UUID, list[EarlierSchedule]]()
    for first in range(0, len(keys), _MOST_NAMED):
        named = EarlierSchedule.objects.filter(definition__in=keys[first : first + _MOST_NAMED])
        for row in named.order_by("until", "pk"):
            rows.setdefault(row.definition_id, []).append(row)
    return {key: _eras(one, rows.get(key, [])) for key, one in chosen.items()}


def _eras(definition: Definition, rows: Iterable[EarlierSchedule]) -> tuple[Era, ...]:
    eras, begin = [], definition.created_at
    for row in rows:
        eras.append(Era(row.cron, row.time_zone, row.active, begin, row.until))
        begin = max(begin, row.until)
    if definition.retired_at is None:
        eras.append(Era(definition.cron, definition.time_zone, definition.active, begin))
    return tuple(eras)
