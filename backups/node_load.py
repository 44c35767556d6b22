"""The load of nodes, hour by hour of the UTC day: as the definitions plan it, and as it was in the last week."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from django.db.models import DurationField, ExpressionWrapper, Sum
from django.db.models.functions import ExtractHour, TruncHour

from agents.models import Node
from backups.models import Job
from backups.states import ON_A_NODE
from definitions.models import Definition
from definitions.planner import heat_map
from definitions.spread import PileUp
from tenants.models import Person

LOOKED_BACK = timedelta(days=7)
_HOURS = 24
_IDLE = (0.0,) * _HOURS


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """Bytes per second in each hour. `actual` is the mean of the days looked back on."""

    node: Node
    planned: tuple[float, ...]
    actual: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LoadMap:
    """Of some nodes, in their order, with the hours in which definitions pile up. `on` is the planned day."""

    on: date
    rows: tuple[NodeLoad, ...]
    advice: tuple[PileUp, ...]


def load_map(nodes: Sequence[Node], *, person: Person, now: datetime) -> LoadMap:
    """By the definitions and the jobs that the person sees."""
    seen = Definition.objects.for_user(person).filter(disk__server__node__in=nodes)
    planned, actual = heat_map(seen, now=now), actual_load(nodes, person=person, now=now)
    by_name = {row.node: row.hours for row in planned.rows}
    rows = (NodeLoad(node, by_name.get(node.name, _IDLE), actual.get(node.pk, _IDLE)) for node in nodes)
    return LoadMap(planned.on, tuple(rows), planned.advice)


def actual_load(nodes: Sequence[Node], *, person: Person, now: datetime) -> dict[UUID, tuple[float, ...]]:
    """Of each node that had any: bytes that jobs moved, evenly over the hours that each ran in.

    One query by the index of a node's jobs; the database adds up, so that what comes does not grow with the jobs.
    """
    ran = Job.objects.for_user(person).filter(
        node__in=nodes, started_at__gte=now - LOOKED_BACK, finished_at__isnull=False, kind__in=ON_A_NODE
    )
    first, last = TruncHour("started_at", tzinfo=UTC), TruncHour("finished_at", tzinfo=UTC)
    groups = ran.order_by().annotate(
        begun=ExtractHour("started_at", tzinfo=UTC), length=ExpressionWrapper(last - first, DurationField())
    )
    found: dict[UUID, list[float]] = {}
    for node, begun, length, moved in groups.values_list("node", "begun", "length").annotate(moved=Sum("done_bytes")):
        hours = found.setdefault(node, [0.0] * _HOURS)
        count = 1 + int(length / timedelta(hours=1))
        for hour in range(begun, begun + count):
            hours[hour % _HOURS] += moved / count / (LOOKED_BACK.days * 3600)
    return {node: tuple(hours) for node, hours in found.items()}
