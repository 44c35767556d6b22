"""The load of nodes, hour by hour of the UTC day: as the definitions plan it, and as it was in the last week.

Tens of thousands of definitions and their jobs take a second to count. So `count_loads` keeps the figures of all nodes
now and then, and who sees everything is shown those while they are fresh; others have less: it is counted at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from django.db.models import DurationField, ExpressionWrapper, Min, Q, Sum
from django.db.models.functions import ExtractHour, TruncHour

from agents.models import Node
from backups.figure_models import NodeFigures
from backups.models import Job
from backups.states import ON_A_NODE
from definitions.models import Definition, SpreadAct
from definitions.planner import heat_map
from definitions.spread import PileUp, nearest_night
from tenants.models import Person

LOOKED_BACK = timedelta(days=7)
# Beyond that what was kept is not shown any more: nobody counts.
FRESH = timedelta(minutes=45)
_NODES_AT_ONCE = 50
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
    """Of some nodes, in their order, with the hours in which definitions pile up. `on` is the planned day.

    `counted_at` is None for what was counted now, otherwise the oldest time of what was kept.
    """

    on: date
    rows: tuple[NodeLoad, ...]
    advice: tuple[PileUp, ...]
    counted_at: datetime | None = None


def load_map(nodes: Sequence[Node], *, person: Person, now: datetime) -> LoadMap:
    """By the definitions and the jobs that the person sees."""
    kept = _kept(nodes, now=now) if person.is_superuser else {}
    found = _counted([node for node in nodes if node.pk not in kept], person=person, now=now)
    counted = {row.node.pk: row for row in found.rows}
    rows = tuple(counted.get(node.pk) or _row(node, kept[node.pk]) for node in nodes)
    piles = [
        PileUp(node.name, hour, times, tuple(keys))
        for node in nodes
        if node.pk in kept
        for hour, times, keys in kept[node.pk].piles
    ]
    advice = sorted([*found.advice, *piles], key=lambda pile: (-pile.times_mean, pile.node, pile.hour))
    return LoadMap(found.on, rows, tuple(advice), min((one.counted_at for one in kept.values()), default=None))


def count_loads(*, now: datetime) -> None:
    """Keep the figures of all nodes, by all definitions and jobs; a page of nodes at a time."""
    nodes = list(Node.objects.order_by("name"))
    for first in range(0, len(nodes), _NODES_AT_ONCE):
        found = _counted(nodes[first : first + _NODES_AT_ONCE], person=None, now=now)
        piles: dict[str, list[list[object]]] = {}
        for pile in found.advice:
            piles.setdefault(pile.node, []).append([pile.hour, pile.times_mean, list(pile.keys)])
        for row in found.rows:
            figures = {"counted_at": now, "on": found.on, "planned": row.planned, "actual": row.actual}
            figures["piles"] = piles.get(row.node.name, [])
            NodeFigures.objects.update_or_create(node=row.node, defaults=figures)


def _kept(nodes: Sequence[Node], *, now: datetime) -> dict[UUID, NodeFigures]:
    """Fresh figures; none after definitions were spread or moved since: whoever did that looks at what came of it."""
    found = NodeFigures.objects.filter(node__in=nodes, counted_at__gt=now - FRESH)
    oldest = found.aggregate(at=Min("counted_at"))["at"]
    if oldest is None or SpreadAct.objects.filter(Q(created_at__gte=oldest) | Q(undone_at__gte=oldest)).exists():
        return {}
    return {one.node_id: one for one in found}


def _row(node: Node, kept: NodeFigures) -> NodeLoad:
    return NodeLoad(node, tuple(kept.planned), tuple(kept.actual))


def _counted(nodes: Sequence[Node], *, person: Person | None, now: datetime) -> LoadMap:
    """Now, by what the person sees; None: by everything."""
    if not nodes:
        return LoadMap(nearest_night(now.date()), (), ())
    seen = Definition.objects.all() if person is None else Definition.objects.for_user(person)
    seen = seen.filter(disk__server__node__in=nodes)
    planned, actual = heat_map(seen, now=now), actual_load(nodes, person=person, now=now)
    by_name = {row.node: row.hours for row in planned.rows}
    rows = (NodeLoad(node, by_name.get(node.name, _IDLE), actual.get(node.pk, _IDLE)) for node in nodes)
    return LoadMap(planned.on, tuple(rows), planned.advice)


def actual_load(nodes: Sequence[Node], *, person: Person | None, now: datetime) -> dict[UUID, tuple[float, ...]]:
    """Of each node that had any: bytes that jobs moved, evenly over the hours that each ran in.

    One query by the index of a node's jobs; the database adds up, so that what comes does not grow with the jobs.
    """
    jobs = Job.objects.all() if person is None else Job.objects.for_user(person)
    ran = jobs.filter(node__in=nodes, started_at__gte=now - LOOKED_BACK, finished_at__isnull=False, kind__in=ON_A_NODE)
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
