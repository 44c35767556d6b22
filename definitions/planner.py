"""Definitions as work in a day: what the pure spread needs to know of them, read from their rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time

from django.db.models import Avg, QuerySet

from definitions.models import Definition
from definitions.spread import Load, PileUp, Placed, Task, Window, by_hour, nearest_night, pile_ups, rebalance

_DAILY = re.compile(r"(\d{1,2}) (\d{1,2}) \* \* \*")
_MIDNIGHT = time(0)
# Of a run without a history: what a disk is read with, and within which bounds.
_EXPECTED_BYTES_PER_SECOND = 200 * 1024 * 1024
_MINUTES = range(3, 240)


@dataclass(frozen=True, slots=True)
class HeatRow:
    """Of one node: planned bytes per second in each hour of the UTC day."""

    node: str
    hours: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class HeatMap:
    on: date
    rows: tuple[HeatRow, ...]
    advice: tuple[PileUp, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """What spreading would change on one definition."""

    definition: Definition
    before: str
    after: str


def heat_map(definitions: QuerySet[Definition], *, now: datetime) -> HeatMap:
    """The planned day of the active definitions, of those that run once a day at a time."""
    on = nearest_night(now.date())
    placed = placed_of(definitions)
    load = Load(placed, on=on)
    rows = (HeatRow(node, tuple(by_hour(steps))) for node, steps in sorted(load.of_node.items()))
    return HeatMap(on, tuple(rows), tuple(pile_ups(placed, on=on)))


def proposal(definitions: QuerySet[Definition], *, now: datetime) -> list[Move]:
    """What spreading those that follow a policy over its window changes; the others stay and count."""
    on = nearest_night(now.date())
    known = {str(one.pk): one for one in _rows(definitions)}
    movable = {key: one for key, one in known.items() if one.policy_id is not None}
    fixed = [placed for key, one in known.items() if key not in movable and (placed := _placed(one)) is not None]
    moved = rebalance([task_of(one) for one in movable.values()], on=on, fixed=fixed)
    changed = ((movable[item.task.key], item.cron) for item in moved)
    return [Move(one, one.cron, cron) for one, cron in changed if one.cron != cron]


def placed_of(definitions: QuerySet[Definition]) -> list[Placed]:
    return [placed for one in _rows(definitions) if (placed := _placed(one)) is not None]


def task_of(definition: Definition, *, window: Window | None = None) -> Task:
    """By the mean of its backups where there are any, otherwise by the size of its disk."""
    seconds = getattr(definition, "mean_seconds", None)
    bytes_sent = getattr(definition, "mean_bytes", None) or definition.disk.size_bytes
    seconds = seconds or definition.disk.size_bytes / _EXPECTED_BYTES_PER_SECOND
    minutes = min(max(round(seconds / 60), _MINUTES.start), _MINUTES.stop)
    own = window or (definition.policy.window if definition.policy else None)
    return Task(
        key=str(definition.pk),
        node=definition.disk.server.node.name,
        window=own or Window(_MIDNIGHT, _MIDNIGHT, definition.time_zone),
        minutes=minutes,
        load=bytes_sent / (minutes * 60),
    )


def load_of_node(node_id: object, *, now: datetime, without: Iterable[object] = ()) -> Load:
    """What is planned on one node."""
    there = Definition.objects.filter(active=True, disk__server__node_id=node_id).exclude(pk__in=list(without))
    return Load(placed_of(there), on=nearest_night(now.date()))


def _rows(definitions: QuerySet[Definition]) -> QuerySet[Definition]:
    means = {"mean_seconds": Avg("backups__duration_seconds"), "mean_bytes": Avg("backups__read_bytes")}
    return definitions.filter(active=True).select_related("disk__server__node", "policy").annotate(**means)


def _placed(definition: Definition) -> Placed | None:
    """Where it stands now; None for one that runs otherwise than once a day at a time."""
    found = _DAILY.fullmatch(definition.cron)
    if found is None:
        return None
    at = time(int(found[2]), int(found[1]))
    task = task_of(definition)
    offset = task.window.offset_of(at) if task.window.zone == definition.time_zone else None
    if offset is None:
        whole_day = Window(_MIDNIGHT, _MIDNIGHT, definition.time_zone)
        return Placed(task_of(definition, window=whole_day), whole_day.offset_of(at) or 0)
    return Placed(task, offset)
