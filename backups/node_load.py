"""The load of nodes, hour by hour of the UTC day: as the definitions plan it, and as it was in the last week.

Tens of thousands of definitions and their jobs take a second to count. So `count_loads` keeps the figures of all nodes
now and then, and those of each tenant that has much by itself. While they are fresh they are shown: the former to who
sees everything, the latter to who sees the tenant, together with what is counted at once of all else that he sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Count, DurationField, ExpressionWrapper, Min, Q, QuerySet, Sum
from django.db.models.functions import ExtractHour, TruncHour

from agents.models import Node
from backups.figure_models import NodeFigures, NodeShareFigures
from backups.models import Job
from backups.states import ON_A_NODE
from definitions.models import Definition, SpreadAct
from definitions.planner import planned_days, planned_days_by_tenant
from definitions.spread import NodeDay, PileUp, nearest_night, pile_ups_of, together
from tenants.models import Person, Tenant

LOOKED_BACK = timedelta(days=7)
# Beyond that what was kept is not shown any more: nobody counts.
FRESH = timedelta(minutes=45)
# Of a tenant that has more on nodes, figures are kept; fewer are counted while somebody waits.
LIVE_DEFINITIONS = 50
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


@dataclass(frozen=True, slots=True)
class _Part:
    """Planned by the name of each node, and actual by its key: by some of the definitions and jobs."""

    days: dict[str, NodeDay]
    actual: dict[UUID, tuple[float, ...]]


def load_map(nodes: Sequence[Node], *, person: Person, now: datetime) -> LoadMap:
    """By the definitions and the jobs that the person sees."""
    if not person.is_superuser:
        return _seen_by(person, nodes, now=now)
    kept = _kept(nodes, now=now)
    rest = [node for node in nodes if node.pk not in kept]
    found = _laid_out(rest, [_count(rest, Definition.objects.all(), Job.objects.all(), now=now)], now=now)
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
    """Keep the figures of all nodes, by all definitions and jobs, and by those of each tenant that has many."""
    large = _tenants_with_many()
    shares: list[NodeShareFigures] = []
    for page in _pages(list(Node.objects.order_by("name"))):
        parts = _count_by_tenant(page, now=now)
        _keep(_laid_out(page, list(parts.values()), now=now), now=now)
        for tenant in sorted(large & parts.keys()):
            shares += _shares(tenant, page, parts[tenant], now=now)
    _keep_shares(shares, now=now)


@transaction.atomic
def _keep_shares(shares: list[NodeShareFigures], *, now: datetime) -> None:
    """In the place of what was kept before. Who counts at the same time does no harm, nor what is gone since."""
    tenants = set(Tenant.objects.filter(pk__in={share.tenant_id for share in shares}).values_list("pk", flat=True))
    nodes = set(Node.objects.values_list("pk", flat=True))
    there = [share for share in shares if share.tenant_id in tenants and share.node_id in nodes]
    NodeShareFigures.objects.bulk_create(
        there,
        batch_size=500,
        update_conflicts=True,
        unique_fields=["tenant", "node"],
        update_fields=["counted_at", "on", "planned", "actual", "starting", "within"],
    )
    NodeShareFigures.objects.filter(counted_at__lt=now).delete()


def _tenants_with_many() -> set[UUID]:
    there = Definition.objects.filter(active=True, disk__server__node__isnull=False).order_by()
    many = there.values_list("tenant").annotate(count=Count("pk")).filter(count__gt=LIVE_DEFINITIONS)
    return {tenant for tenant, _ in many}


def _keep(found: LoadMap, *, now: datetime) -> None:
    piles: dict[str, list[list[object]]] = {}
    for pile in found.advice:
        piles.setdefault(pile.node, []).append([pile.hour, pile.times_mean, list(pile.keys)])
    for row in found.rows:
        figures = {"counted_at": now, "on": found.on, "planned": row.planned, "actual": row.actual}
        figures["piles"] = piles.get(row.node.name, [])
        NodeFigures.objects.update_or_create(node=row.node, defaults=figures)


def _shares(tenant: UUID, nodes: Sequence[Node], part: _Part, *, now: datetime) -> Iterable[NodeShareFigures]:
    """A node without a row is one on which the tenant has nothing."""
    for node in nodes:
        day, actual = part.days.get(node.name), part.actual.get(node.pk, _IDLE)
        if day is None and actual is _IDLE:
            continue
        share = NodeShareFigures(node=node, tenant_id=tenant, counted_at=now, on=nearest_night(now.date()))
        share.actual, share.planned = actual, _IDLE
        if day is not None:
            share.planned, share.within = day.hours, sorted(day.within)
            share.starting = {hour: [str(key) for key in keys] for hour, keys in day.starting.items()}
        yield share


def _pages(nodes: Sequence[Node]) -> Iterable[Sequence[Node]]:
    return (nodes[first : first + _NODES_AT_ONCE] for first in range(0, len(nodes), _NODES_AT_ONCE))


def _kept(nodes: Sequence[Node], *, now: datetime) -> dict[UUID, NodeFigures]:
    """Fresh figures; none after definitions were spread or moved since: whoever did that looks at what came of it."""
    found = NodeFigures.objects.filter(node__in=nodes, counted_at__gt=now - FRESH)
    oldest = found.aggregate(at=Min("counted_at"))["at"]
    if oldest is None or _was_spread_since(oldest):
        return {}
    return {one.node_id: one for one in found}


def _was_spread_since(moment: datetime) -> bool:
    return SpreadAct.objects.filter(Q(created_at__gte=moment) | Q(undone_at__gte=moment)).exists()


def _row(node: Node, kept: NodeFigures) -> NodeLoad:
    return NodeLoad(node, tuple(kept.planned), tuple(kept.actual))


def _seen_by(person: Person, nodes: Sequence[Node], *, now: datetime) -> LoadMap:
    """What is kept of his tenants that have much; everything else counted now."""
    seen = Tenant.objects.for_user(person).order_by().values("pk")
    fresh = NodeShareFigures.objects.filter(
        tenant__in=seen, counted_at__gt=now - FRESH, on=nearest_night(now.date())
    ).order_by()
    times = dict(fresh.values_list("tenant").annotate(at=Min("counted_at")))
    if times and _was_spread_since(min(times.values())):
        times = {}
    definitions = Definition.objects.for_user(person).exclude(tenant__in=times)
    jobs = Job.objects.for_user(person).exclude(tenant__in=times)
    shares = fresh.filter(tenant__in=times, node__in=nodes).select_related("node")
    parts = [*map(_as_part, shares), _count(nodes, definitions, jobs, now=now)]
    return _laid_out(nodes, parts, now=now, counted_at=min(times.values(), default=None))


def _as_part(share: NodeShareFigures) -> _Part:
    starting = {int(hour): keys for hour, keys in share.starting.items()}
    day = NodeDay(tuple(share.planned), starting, frozenset(share.within))
    # Nothing is planned where only jobs ran.
    return _Part({share.node.name: day} if share.within else {}, {share.node_id: tuple(share.actual)})


def _count(nodes: Sequence[Node], definitions: QuerySet[Definition], jobs: QuerySet[Job], *, now: datetime) -> _Part:
    if not nodes:
        return _Part({}, {})
    there = definitions.filter(disk__server__node__in=nodes)
    return _Part(planned_days(there, on=nearest_night(now.date()), now=now), _moved(jobs, nodes, now=now))


def _count_by_tenant(nodes: Sequence[Node], *, now: datetime) -> dict[UUID, _Part]:
    there = Definition.objects.filter(disk__server__node__in=nodes)
    days = planned_days_by_tenant(there, on=nearest_night(now.date()), now=now)
    parts = {tenant: _Part(found, {}) for tenant, found in days.items()}
    for (tenant, node), hours in _moved_by(("tenant", "node"), Job.objects.all(), nodes, now=now).items():
        parts.setdefault(tenant, _Part({}, {})).actual[node] = hours
    return parts


def _laid_out(
    nodes: Sequence[Node], parts: Sequence[_Part], *, now: datetime, counted_at: datetime | None = None
) -> LoadMap:
    days: dict[str, list[NodeDay]] = {}
    actual: dict[UUID, list[tuple[float, ...]]] = {}
    for part in parts:
        for name, day in part.days.items():
            days.setdefault(name, []).append(day)
        for key, hours in part.actual.items():
            actual.setdefault(key, []).append(hours)
    planned = {name: together(found) for name, found in days.items()}
    rows = tuple(
        NodeLoad(node, planned[node.name].hours if node.name in planned else _IDLE, _summed(actual.get(node.pk, ())))
        for node in nodes
    )
    return LoadMap(nearest_night(now.date()), rows, tuple(pile_ups_of(planned)), counted_at)


def _summed(several: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(map(sum, zip(*several, strict=True))) if several else _IDLE


def actual_load(nodes: Sequence[Node], *, person: Person | None, now: datetime) -> dict[UUID, tuple[float, ...]]:
    """Of each node that had any: bytes that jobs moved, evenly over the hours that each ran in."""
    return _moved(Job.objects.all() if person is None else Job.objects.for_user(person), nodes, now=now)


def _moved(jobs: QuerySet[Job], nodes: Sequence[Node], *, now: datetime) -> dict[UUID, tuple[float, ...]]:
    return {node: hours for (node,), hours in _moved_by(("node",), jobs, nodes, now=now).items()}


def _moved_by(
    columns: Sequence[str], jobs: QuerySet[Job], nodes: Sequence[Node], *, now: datetime
) -> dict[tuple[UUID, ...], tuple[float, ...]]:
    """One query by the index of a node's jobs; the database adds up, so that what comes does not grow with the jobs."""
    ran = jobs.filter(node__in=nodes, started_at__gte=now - LOOKED_BACK, finished_at__isnull=False, kind__in=ON_A_NODE)
    first, last = TruncHour("started_at", tzinfo=UTC), TruncHour("finished_at", tzinfo=UTC)
    groups = ran.order_by().annotate(
        begun=ExtractHour("started_at", tzinfo=UTC), length=ExpressionWrapper(last - first, DurationField())
    )
    found: dict[tuple[UUID, ...], list[float]] = {}
    for *of, begun, length, moved in groups.values_list(*columns, "begun", "length").annotate(moved=Sum("done_bytes")):
        hours = found.setdefault(tuple(of), [0.0] * _HOURS)
        count = 1 + int(length / timedelta(hours=1))
        for hour in range(begun, begun + count):
            hours[hour % _HOURS] += moved / count / (LOOKED_BACK.days * 3600)
    return {of: tuple(hours) for of, hours in found.items()}
