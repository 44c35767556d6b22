"""Where in its window each definition starts, so that the load is level: per node first, then over all. Pure.

Time is in minutes of the UTC day, in a circle: a window may go over midnight. It is laid out for one date, so that
windows of several zones stand where they stand on that date. A change of the clock moves a window as a whole.

`place` finds a minute for one more and moves nothing else; `rebalance` is a separate act that places all anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import accumulate
from typing import Any
from zoneinfo import ZoneInfo

DAY_MINUTES = 24 * 60
STEP_MINUTES = 5
_STEPS = DAY_MINUTES // STEP_MINUTES
_HOUR_STEPS = 60 // STEP_MINUTES
# A node counts more than the fleet: its disks and links are what is overrun.
_FLEET_WEIGHT = 0.2
# Bytes per second.
_NOTHING = 1e-6


@dataclass(frozen=True, slots=True)
class Window:
    """Local times within which runs start; one that ends not later than it starts goes over midnight."""

    start: time
    end: time
    zone: str

    @property
    def minutes(self) -> int:
        """Its length by the wall clock; a start and an end that are equal mean a whole day."""
        return (_of_day(self.end) - _of_day(self.start)) % DAY_MINUTES or DAY_MINUTES

    def local_at(self, offset: int) -> time:
        """The wall clock so many minutes after the window's start."""
        minute = (_of_day(self.start) + offset) % DAY_MINUTES
        return time(minute // 60, minute % 60)

    def offset_of(self, local: time) -> int | None:
        """The opposite; None for a time outside of the window."""
        offset = (_of_day(local) - _of_day(self.start)) % DAY_MINUTES
        return offset if offset < self.minutes else None

    def utc_start(self, on: date) -> int:
        """The minute of the UTC day at which it begins on the date."""
        begin = datetime.combine(on, self.start, tzinfo=ZoneInfo(self.zone)).astimezone(UTC)
        return begin.hour * 60 + begin.minute


@dataclass(frozen=True, slots=True)
class Task:
    """What a definition's run is expected to cost: minutes, and bytes per second while it runs."""

    key: str
    node: str
    window: Window
    minutes: int = STEP_MINUTES
    load: float = 1.0

    @property
    def steps(self) -> int:
        return min(max(1, -(-self.minutes // STEP_MINUTES)), _STEPS)


@dataclass(frozen=True, slots=True)
class Placed:
    """A task with its start: minutes after its window's start, by the wall clock."""

    task: Task
    offset: int

    @property
    def local(self) -> time:
        return self.task.window.local_at(self.offset)

    @property
    def cron(self) -> str:
        """Daily at its minute, in the window's zone."""
        return f"{self.local.minute} {self.local.hour} * * *"

    def utc_minute(self, on: date) -> int:
        return (self.task.window.utc_start(on) + self.offset) % DAY_MINUTES


class Load:
    """The load of a day in steps of five minutes, of each node and of all."""

    def __init__(self, placed: Iterable[Placed] = (), *, on: date) -> None:
        self._on = on
        self.of_all = [0.0] * _STEPS
        self.of_node: dict[str, list[float]] = {}
        self._starts: dict[int, int] = {}
        self._begins: dict[Window, int] = {}
        for item in placed:
            self.add(item)

    def add(self, placed: Placed) -> None:
        node = self._node(placed.task.node)
        minute = (self._begin(placed.task.window) + placed.offset) % DAY_MINUTES
        self._starts[minute] = self._starts.get(minute, 0) + 1
        for step in _covered(minute, placed.task.steps):
            node[step] += placed.task.load
            self.of_all[step] += placed.task.load

    def best_offset(self, task: Task) -> int:
        """The start with the least on the node, then in all, then within an hour of it, then with the fewest starts in
        the same minute.
        """
        begin, node = self._begin(task.window), self._node(task.node)
        nodes = max(len(self.of_node), 1)
        latest = max(task.window.minutes - task.minutes, 0) if task.minutes < task.window.minutes else 0
        first = _hash(task.key) % (latest // STEP_MINUTES + 1)

        def cost(number: int) -> tuple[float, float]:
            steps = _covered((begin + number * STEP_MINUTES) % DAY_MINUTES, task.steps)
            peak = max(node[step] + _FLEET_WEIGHT * self.of_all[step] / nodes for step in steps)
            return peak, sum(node[step] + self.of_all[step] / nodes for step in steps)

        count = latest // STEP_MINUTES + 1
        # Begins somewhere else for each task, so that equals do not all take the first.
        costs = {number: cost(number) for number in ((first + turn) % count for turn in range(count))}
        least = min(costs.values())
        equals = [number for number, value in costs.items() if value == least]
        number = equals[0] if len(equals) == 1 else self._loneliest(task, begin, equals)
        offsets = range(number * STEP_MINUTES, min(number * STEP_MINUTES + STEP_MINUTES, latest + 1))
        return min(offsets, key=lambda offset: (self._starts.get((begin + offset) % DAY_MINUTES, 0), offset))

    def _loneliest(self, task: Task, begin: int, numbers: Iterable[int]) -> int:
        """The first with the least on the node from an hour before to an hour after: few runs do not stand close."""
        node = self._node(task.node)
        sums = list(accumulate([*node, *node], initial=0.0))
        width = min(task.steps + 2 * _HOUR_STEPS, _STEPS)

        def nearby(number: int) -> float:
            start = (begin // STEP_MINUTES + number - _HOUR_STEPS) % _STEPS
            return sums[start + width] - sums[start]

        return min(numbers, key=nearby)

    def _node(self, name: str) -> list[float]:
        return self.of_node.setdefault(name, [0.0] * _STEPS)

    def _begin(self, window: Window) -> int:
        if window not in self._begins:
            self._begins[window] = window.utc_start(self._on)
        return self._begins[window]


def place(task: Task, *, load: Load) -> Placed:
    """A start for one more task, which is added to the load. Nothing else moves."""
    placed = Placed(task, load.best_offset(task))
    load.add(placed)
    return placed


def rebalance(tasks: Iterable[Task], *, on: date, fixed: Iterable[Placed] = ()) -> list[Placed]:
    """All of them anew, the heaviest first; the same tasks get the same starts. What is `fixed` counts and stays."""
    load = Load(fixed, on=on)
    heaviest_first = sorted(tasks, key=lambda task: (-task.load * task.steps, -task.load, _hash(task.key), task.key))
    return [place(task, load=load) for task in heaviest_first]


def by_hour(steps: list[float]) -> list[float]:
    """The mean load of each hour of the UTC day."""
    width = 60 // STEP_MINUTES
    return [sum(steps[hour * width : (hour + 1) * width]) / width for hour in range(24)]


@dataclass(frozen=True, slots=True)
class PileUp:
    """A node's hour with much more than its mean; `keys` are those that start in it."""

    node: str
    hour: int
    times_mean: float
    keys: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """In UTC, for the API."""
        return self.sentence_of(begin=f"{self.hour:02}:00", end=f"{self.hour:02}:59", zone="UTC")

    def sentence_of(self, *, begin: str, end: str, zone: str) -> str:
        """By the clock of a zone: the first and the last minute of the hour there."""
        return (
            f"{len(self.keys)} definitions start on {self.node} between {begin} and {end} {zone}, "
            f"{self.times_mean:.1f} times its mean. Spread them over their window."
        )


@dataclass(frozen=True, slots=True)
class NodeDay:
    """What is planned on one node: the mean load of each hour of the UTC day, by hour the keys of what starts in it,
    and the hours in which the node may have to do.
    """

    hours: tuple[float, ...]
    starting: Mapping[int, Sequence[Any]]
    within: frozenset[int]


def together(days: Sequence[NodeDay]) -> NodeDay:
    """What several parts plan on the same node."""
    if len(days) == 1:
        return days[0]
    starting: dict[int, list[Any]] = {}
    for day in days:
        for hour, keys in day.starting.items():
            starting.setdefault(hour, []).extend(keys)
    hours = tuple(sum(values) for values in zip(*(day.hours for day in days), strict=True))
    return NodeDay(hours, starting, frozenset().union(*(day.within for day in days)))


def pile_ups_of(days: Mapping[str, NodeDay], *, least_times: float = 2.0, least_count: int = 3) -> list[PileUp]:
    """The hours that stand out, the worst first. A node's mean is over the hours in which it may have to do."""
    found = []
    for node, day in days.items():
        mean = sum(day.hours) / len(day.within)
        for hour, value in enumerate(day.hours):
            keys = day.starting.get(hour, ())
            if len(keys) >= least_count and value >= least_times * mean:
                found.append(PileUp(node, hour, value / mean, tuple(sorted(map(str, keys)))))
    return sorted(found, key=lambda item: (-item.times_mean, item.node, item.hour))


class PlannedDay:
    """What is planned of each node, without its single tasks: made for tens of thousands of definitions.

    Times are minutes of the UTC day of `on`; a load is spread over steps of five minutes.
    """

    def __init__(self, *, on: date) -> None:
        self._on = on
        self._changes: dict[str, list[float]] = {}
        self._starting: dict[str, dict[int, list[Any]]] = {}
        self._windows: dict[str, set[Window]] = {}

    def add(self, key: Any, *, node: str, minute: int, steps: int, load: float, window: Window) -> None:
        """A run of so many steps; `key` is what a pile names it by, `window` where it may stand."""
        changes = self._changes.get(node)
        if changes is None:
            # Two days, of which the second one is laid over the first: a run may go over midnight.
            changes = self._changes[node] = [0.0] * (2 * _STEPS + 1)
            self._windows[node], self._starting[node] = set(), {}
        changes[minute // STEP_MINUTES] += load
        changes[minute // STEP_MINUTES + steps] -= load
        self._starting[node].setdefault(minute // 60, []).append(key)
        self._windows[node].add(window)

    def days(self) -> dict[str, NodeDay]:
        return {
            node: NodeDay(
                tuple(by_hour(self._steps(changes))),
                self._starting[node],
                frozenset(_hours_of_windows(self._windows[node], self._on)),
            )
            for node, changes in self._changes.items()
        }

    @staticmethod
    def _steps(changes: list[float]) -> list[float]:
        at = list(accumulate(changes))
        # What sums and differences leave of a load that has ended is nothing.
        return [value if (value := at[step] + at[step + _STEPS]) > _NOTHING else 0.0 for step in range(_STEPS)]


def pile_ups(placed: Iterable[Placed], *, on: date) -> list[PileUp]:
    """The hours of these tasks that stand out."""
    day = PlannedDay(on=on)
    for item in placed:
        task, minute = item.task, item.utc_minute(on)
        day.add(task.key, node=task.node, minute=minute, steps=task.steps, load=task.load, window=task.window)
    return pile_ups_of(day.days())


def _hours_of_windows(windows: Iterable[Window], on: date) -> set[int]:
    hours: set[int] = set()
    for window in set(windows):
        begin = window.utc_start(on)
        hours |= {(minute % DAY_MINUTES) // 60 for minute in range(begin, begin + window.minutes, 30)}
    return hours


def busiest_share(steps: Mapping[int, float] | list[float], within: Iterable[int]) -> float:
    """The busiest of the steps as a multiple of their mean; 1.0 is level."""
    values = [steps[step] for step in within]
    return max(values) / (sum(values) / len(values)) if any(values) else 1.0


def steps_of(window: Window, *, on: date) -> list[int]:
    """The steps of the UTC day that the window has."""
    begin = window.utc_start(on)
    return [minute % DAY_MINUTES // STEP_MINUTES for minute in range(begin, begin + window.minutes, STEP_MINUTES)]


def nearest_night(on: date) -> date:
    """A date that no clock changes on, for laying out: the Wednesday of that week."""
    return on + timedelta(days=2 - on.weekday())


def _covered(minute: int, steps: int) -> list[int]:
    first = minute // STEP_MINUTES
    return [(first + step) % _STEPS for step in range(steps)]


def _of_day(at: time) -> int:
    return at.hour * 60 + at.minute


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
