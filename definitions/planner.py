"""Definitions as work in a day: what the pure spread needs to know of them, read from their rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import Avg, QuerySet

from agents.models import Node, Server
from definitions.models import Definition, Policy
from definitions.spread import (
    DAY_MINUTES,
    STEP_MINUTES,
    Load,
    NodeDay,
    PileUp,
    Placed,
    PlannedDay,
    Task,
    Window,
    by_hour,
    nearest_night,
    pile_ups_of,
    rebalance,
)

_DAILY = re.compile(r"(\d{1,2}) (\d{1,2}) \* \* \*")
_MIDNIGHT = time(0)
# Of a run without a history: what a disk is read with, and within which bounds.
_EXPECTED_BYTES_PER_SECOND = 200 * 1024 * 1024
_MINUTES = range(3, 240)
_LATELY = timedelta(days=7)
OWN_PLACE = "server:"


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
    """The planned day of nodes, with the hours that stand out."""
    on = nearest_night(now.date())
    days = planned_days(definitions, on=on, now=now)
    rows = tuple(HeatRow(node, day.hours) for node, day in sorted(days.items()))
    return HeatMap(on, rows, tuple(pile_ups_of(days)))


def planned_days(definitions: QuerySet[Definition], *, on: date, now: datetime) -> dict[str, NodeDay]:
    """By the name of each node: of the active definitions, of those that run once a day at a time.

    As `placed_of` would say it, without an object for each definition: there may be tens of thousands.
    """
    day = PlannedDay(on=on)
    for _, run in _runs(definitions, on=on, now=now):
        day.add(**run)
    return day.days()


def planned_days_by_tenant(
    definitions: QuerySet[Definition], *, on: date, now: datetime
) -> dict[UUID, dict[str, NodeDay]]:
    """As `planned_days`, of each tenant apart and in one look."""
    days: dict[UUID, PlannedDay] = {}
    for tenant, run in _runs(definitions, on=on, now=now):
        days.setdefault(tenant, PlannedDay(on=on)).add(**run)
    return {tenant: day.days() for tenant, day in days.items()}


def _runs(definitions: QuerySet[Definition], *, on: date, now: datetime) -> Iterator[tuple[UUID, dict[str, Any]]]:
    """The tenant of each daily run, and the run in the words of `PlannedDay.add`."""
    stand = _Stand(on)
    active = definitions.filter(active=True, disk__server__node__isnull=False).order_by()
    means = _means(active, now=now)
    columns = ("tenant", "pk", "disk__server__node__name", "cron", "time_zone", "disk__size_bytes", "policy_id")
    for tenant, key, node, cron, zone, size_bytes, policy in active.values_list(*columns):
        found = stand.of(cron, zone, policy)
        if found is not None:
            minute, window = found
            minutes, load = expected(size_bytes, *means.get(key, (None, None)))
            steps = -(-minutes // STEP_MINUTES)
            run = {"key": key, "node": node, "minute": minute, "steps": steps, "load": load, "window": window}
            yield tenant, run


class _Stand:
    """Where schedules stand in the UTC day: many definitions have the same."""

    def __init__(self, on: date) -> None:
        self._on = on
        self._policies = {one.pk: one for one in Policy.objects.all()}
        self._found: dict[tuple[str, str, Any], tuple[int, Window] | None] = {}

    def of(self, cron: str, zone: str, policy: Any) -> tuple[int, Window] | None:
        """The minute of the start and the window that it may stand in; None for what runs otherwise than once a day."""
        asked = (cron, zone, policy)
        if asked not in self._found:
            self._found[asked] = self._look(cron, zone, self._policies.get(policy))
        return self._found[asked]

    def _look(self, cron: str, zone: str, policy: Policy | None) -> tuple[int, Window] | None:
        found = _DAILY.fullmatch(cron)
        if found is None:
            return None
        at, day = time(int(found[2]), int(found[1])), Window(_MIDNIGHT, _MIDNIGHT, zone)
        own = policy.window if policy is not None and policy.time_zone == zone else day
        minute = (day.utc_start(self._on) + at.hour * 60 + at.minute) % DAY_MINUTES
        return minute, own if own.offset_of(at) is not None else day


def proposal(definitions: QuerySet[Definition], *, now: datetime) -> list[Move]:
    """What spreading those that follow a policy over its window changes; the others stay and count."""
    standing = [(one, placed) for one in _rows(definitions, now=now) if (placed := _placed(one)) is not None]
    movable = {str(one.pk): one for one, _ in standing if _policy_window(one) is not None}
    fixed = [placed for one, placed in standing if str(one.pk) not in movable]
    return _moves(movable, [task_of(one) for one in movable.values()], fixed, now=now)


def pile_of(definitions: QuerySet[Definition], *, node: Node, hour: int, now: datetime) -> list[Definition]:
    """Those of them that are planned to start on the node within the hour of the UTC day."""
    on = nearest_night(now.date())
    there = _rows(definitions.filter(disk__server__node=node).order_by("name", "pk"), now=now)
    return [one for one in there if (placed := _placed(one)) is not None and placed.utc_minute(on) // 60 == hour]


def pile_proposal(pile: Iterable[Definition], *, node: Node, start: time, end: time, now: datetime) -> list[Move]:
    """What spreading them changes: over the window of the policy that they follow, else over these local times of each.

    All others of the node count, whoever's they are, and stay.
    """
    movable = {str(one.pk): one for one in pile}
    everything = placed_of(Definition.objects.filter(disk__server__node=node), now=now)
    fixed = [placed for placed in everything if placed.task.key not in movable]
    windows = {key: _policy_window(one) or Window(start, end, one.time_zone) for key, one in movable.items()}
    return _moves(movable, [task_of(one, window=windows[key]) for key, one in movable.items()], fixed, now=now)


def hour_proposal(chosen: Iterable[Definition], *, hour: int, now: datetime) -> list[Move]:
    """What moving them into this hour of the UTC day changes: each gets the minute with the least load there.

    All others of their nodes count and stay. What follows a policy may end up outside of its window: `out_of_window`.
    """
    on = nearest_night(now.date())
    by_place: dict[str, list[Definition]] = {}
    for one in chosen:
        by_place.setdefault(_place_of(one.disk.server), []).append(one)
    found = []
    for there in by_place.values():
        movable = {str(one.pk): one for one in there}
        everything = placed_of(Definition.objects.filter(**_where(there[0].disk.server)), now=now)
        fixed = [placed for placed in everything if placed.task.key not in movable]
        tasks = [task_of(one, window=_hour_window(hour, one.time_zone, on)) for one in there]
        found += _moves(movable, tasks, fixed, now=now)
    return found


@dataclass(frozen=True, slots=True)
class HourChange:
    """Of one node: planned bytes per second in each hour of the UTC day, before and after definitions are moved."""

    node: Node
    before: tuple[float, ...]
    after: tuple[float, ...]


def load_with_moves(definitions: QuerySet[Definition], moves: Iterable[Move], *, now: datetime) -> list[HourChange]:
    """Of the nodes of what moves, by name; as far as these definitions make it."""
    on, after = nearest_night(now.date()), {one.definition.pk: one.after for one in moves}
    nodes = {one.definition.disk.server.node for one in moves} - {None}
    rows = _rows(definitions.filter(disk__server__node__in=nodes), now=now)
    loads = []
    for crons in ({}, after):
        for row in rows:
            row.cron = crons.get(row.pk, row.cron)
        loads.append(Load((placed for row in rows if (placed := _placed(row)) is not None), on=on))
    idle = [0.0] * (DAY_MINUTES // STEP_MINUTES)
    return [
        HourChange(node, *(tuple(by_hour(load.of_node.get(node.name, idle))) for load in loads))
        for node in sorted(nodes, key=lambda node: node.name)
    ]


def runs_daily(definition: Definition) -> bool:
    """Once a day at a time: what has a place in the planned day."""
    return _DAILY.fullmatch(definition.cron) is not None


def out_of_window(move: Move) -> bool:
    """Whether its new time is outside of the window of the policy that it follows."""
    found, window = _DAILY.fullmatch(move.after), _policy_window(move.definition)
    return bool(found and window and window.offset_of(time(int(found[2]), int(found[1]))) is None)


def _hour_window(hour: int, zone: str, on: date) -> Window:
    """The hour of the UTC day by the wall clock of the zone, which may begin at half past."""
    begin = datetime(on.year, on.month, on.day, hour, tzinfo=UTC).astimezone(ZoneInfo(zone))
    return Window(begin.time(), (begin + timedelta(minutes=60)).time(), zone)


def _moves(
    movable: Mapping[str, Definition], tasks: Iterable[Task], fixed: Iterable[Placed], *, now: datetime
) -> list[Move]:
    moved = rebalance(tasks, on=nearest_night(now.date()), fixed=fixed)
    changed = ((movable[item.task.key], item.cron) for item in moved)
    return [Move(one, one.cron, cron) for one, cron in changed if one.cron != cron]


def _policy_window(definition: Definition) -> Window | None:
    """None also where a person gave it another zone than its policy's: its schedule is his own."""
    policy = definition.policy
    return policy.window if policy is not None and policy.time_zone == definition.time_zone else None


def placed_of(definitions: QuerySet[Definition], *, now: datetime) -> list[Placed]:
    """Where the active ones that run once a day stand."""
    return [placed for one in _rows(definitions, now=now) if (placed := _placed(one)) is not None]


def task_of(definition: Definition, *, window: Window | None = None) -> Task:
    """By the mean of its backups where there are any, otherwise by the size of its disk."""
    means = getattr(definition, "mean_seconds", None), getattr(definition, "mean_bytes", None)
    minutes, load = expected(definition.disk.size_bytes, *means)
    own = window or (definition.policy.window if definition.policy else None)
    return Task(
        key=str(definition.pk),
        node=_place_of(definition.disk.server),
        window=own or Window(_MIDNIGHT, _MIDNIGHT, definition.time_zone),
        minutes=minutes,
        load=load,
    )


def expected(size_bytes: int, mean_seconds: float | None, mean_bytes: float | None) -> tuple[int, float]:
    """Minutes of a run and bytes per second within it; without a history by the size of the disk."""
    seconds = mean_seconds or size_bytes / _EXPECTED_BYTES_PER_SECOND
    minutes = min(max(round(seconds / 60), _MINUTES.start), _MINUTES.stop)
    return minutes, (mean_bytes or size_bytes) / (minutes * 60)


def _place_of(server: Server) -> str:
    """The node; a server with an agent is a place of its own, by a name that no node can have."""
    return str(server.node) if server.node is not None else f"{OWN_PLACE}{server.pk}"


def _where(server: Server) -> dict[str, Any]:
    return {"disk__server__node": server.node_id} if server.node_id else {"disk__server": server.pk}


def load_of_place(server: Server, *, now: datetime, without: Iterable[object] = ()) -> Load:
    """What is planned on the server's node, or on the server when it has an agent."""
    there = Definition.objects.filter(active=True, **_where(server)).exclude(pk__in=list(without))
    return Load(placed_of(there, now=now), on=nearest_night(now.date()))


def _rows(definitions: QuerySet[Definition], *, now: datetime) -> list[Definition]:
    """The active ones, each with the means of its last week's backups."""
    active = definitions.filter(active=True)
    rows = list(active.select_related("disk__server__node", "policy", "tenant"))
    found = _means(active, now=now)
    for row in rows:
        row.mean_seconds, row.mean_bytes = found.get(row.pk, (None, None))
    return rows


def _means(active: QuerySet[Definition], *, now: datetime) -> dict[Any, tuple[float | None, float | None]]:
    """Seconds and bytes of the last week's backups. They are asked for apart: they are what grows, and of all of them
    the database would read the whole table.
    """
    lately = Definition.objects.filter(pk__in=active.order_by().values("pk"), backups__created_at__gte=now - _LATELY)
    means = lately.order_by().values_list("pk").annotate(Avg("backups__duration_seconds"), Avg("backups__read_bytes"))
    return {key: (seconds, bytes_read) for key, seconds, bytes_read in means}


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
