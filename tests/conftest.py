"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from hypothesis import settings

from backupsite.stack import ports
from tenants import audit_guard
from tests.recorded_world import RecordedWorld
from tests.worlds import World

_MOST_PROCESSES = 4
# An example that took long says something of the machine, which may stand still for a moment, and nothing of the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and so would the programs that tests interrupt.

    Each process looks for free ports in a range of its own: two would find the same ones free before either listens.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    every, number = ports._SEARCH_RANGE, int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    span = len(every) // _MOST_PROCESSES
    first = every.start + span * (number % _MOST_PROCESSES)
    ports._SEARCH_RANGE = range(first, first + span)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with a long test first: one that begins last would run alone."""
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """All that was imported and collected stays to the end: looking through it for garbage took a tenth of the time."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much was tried by tests that count it with `record_property("counted", (what, number))`, in all processes."""
    totals: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "counted":
                totals[value[0]] += value[1]
    if totals:
        terminalreporter.section("counted")
        for what, number in sorted(totals.items()):
            terminalreporter.line(f"{what}: {number:,}")


@pytest.fixture(scope="module")
def recorded_world() -> RecordedWorld:
    return RecordedWorld()


@pytest.fixture
def world(db: None, recorded_world: RecordedWorld) -> World:
    """Two tenants with everything in them, and everybody who may or may not see it."""
    return recorded_world.play()


@pytest.fixture(scope="session", autouse=True)
def _audit_can_be_emptied() -> Iterator[None]:
    """Tests with transactions of their own empty all tables at their end, which the audit's triggers refuse."""
    operations = type(connection.ops)
    plain = operations.sql_flush

    def flush(self: Any, style: Any, tables: Any, **options: Any) -> list[str]:
        statements = plain(self, style, tables, **options)
        if audit_guard.TABLE not in tables:
            return statements
        vendor = self.connection.vendor
        return [*audit_guard.drop_statements(vendor), *statements, *audit_guard.create_statements(vendor)]

    operations.sql_flush = flush
    yield
    operations.sql_flush = plain
