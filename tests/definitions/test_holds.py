"""What keeps a definition from starting by its schedule, whose it is and when it ends."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from common.errors import ConflictError, InvalidInputError, NotAllowedError
from definitions.holds import add_blackout, end_pause, ends_at, is_held, load_holds, pause
from definitions.models import BlackoutWindow, Definition, DefinitionPause
from tenants.models import Person
from tests.factories import make_definition, make_person, make_server

NOW = datetime(2026, 1, 14, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
pytestmark = pytest.mark.django_db


@pytest.fixture
def boss() -> Person:
    return make_person("boss", superadmin=True)


def target_of(definition: Definition, scope: str) -> dict[str, Any]:
    server = definition.disk.server
    return {
        "definition": {"definition": definition},
        "node": {"node": server.node},
        "tenant": {"tenant": definition.tenant},
        "fleet": {},
    }[scope]


@pytest.mark.parametrize("scope", ["definition", "node", "tenant", "fleet"])
def test_a_pause_holds_what_it_is_on_until_it_ends(boss: Person, scope: str) -> None:
    ours, theirs = make_definition(make_server()), make_definition(make_server())

    made = pause(reason="new disks", now=NOW, actor=boss, until=NOW + 2 * HOUR, **target_of(ours, scope))

    held = is_held(ours, NOW)
    assert held is not None and (held.scope, held.reason, held.until) == (scope, "new disks", NOW + 2 * HOUR)
    assert "until 2026-01-14 14:00 UTC: new disks" in held.sentence
    assert (is_held(theirs, NOW) is not None) == (scope == "fleet")
    assert is_held(ours, NOW - HOUR) is None
    assert is_held(ours, NOW + 2 * HOUR) is None
    end_pause(pause=made, now=NOW + HOUR, actor=boss)
    assert is_held(ours, NOW + HOUR) is None
    with pytest.raises(ConflictError):
        end_pause(pause=made, now=NOW + HOUR, actor=boss)


def test_of_several_the_one_that_ends_last_is_said(boss: Person) -> None:
    definition = make_definition(make_server())
    pause(reason="for ever", now=NOW, actor=boss, definition=definition)
    pause(reason="a while", now=NOW, actor=boss, until=NOW + HOUR)

    held = is_held(definition, NOW)

    assert held is not None and (held.reason, held.until) == ("for ever", None)


@pytest.mark.parametrize("lengths", [(1, 3), (3, 1), (None, 1), (1, None)])
def test_of_two_on_the_same_the_one_that_ends_last_is_said(boss: Person, lengths: tuple[int | None, ...]) -> None:
    definition = make_definition(make_server())
    for hours in lengths:
        until = NOW + hours * HOUR if hours else None
        pause(reason="x", now=NOW, actor=boss, until=until, definition=definition)

    held = is_held(definition, NOW)

    assert held is not None and held.until == (None if None in lengths else NOW + 3 * HOUR)


def test_any_number_of_definitions_costs_two_queries(boss: Person) -> None:
    rows = [make_definition(make_server()) for _ in range(4)]
    for row in rows:
        pause(reason="x", now=NOW, actor=boss, definition=row)
    loaded = list(Definition.objects.select_related("disk__server"))

    with CaptureQueriesContext(
        connection,
    ) as queries:
        holds = load_holds(now=NOW)
        found = [holds.of(row) for row in loaded]

    assert len(queries) == 2
    assert all(found)


def test_a_tenants_administrator_pauses_his_own_only_and_says_why() -> None:
    server = make_server()
    admin = make_person(administers=[server.tenant])

    with pytest.raises(NotAllowedError):
        pause(reason="x", now=NOW, actor=admin)
    with pytest.raises(NotAllowedError):
        pause(reason="x", now=NOW, actor=admin, node=server.node)
    with pytest.raises(InvalidInputError):
        pause(reason="  ", now=NOW, actor=admin, tenant=server.tenant)
    with pytest.raises(InvalidInputError):
        pause(reason="x", now=NOW, actor=admin, tenant=server.tenant, until=NOW)
    assert not DefinitionPause.objects.exists()


@pytest.mark.parametrize(
    ("moment", "end"),
    [
        # Berlin is one hour ahead of UTC in winter; Friday is the fifth day.
        ("2026-01-16 18:59", None),
        ("2026-01-16 19:00", "2026-01-17 05:00"),
        ("2026-01-17 04:59", "2026-01-17 05:00"),
        ("2026-01-17 05:00", None),
        ("2026-01-17 20:00", None),
        # The night in which the clock goes forward is an hour shorter, its end is still six by the clock.
        ("2026-03-27 19:00", "2026-03-28 05:00"),
        ("2026-03-29 03:30", None),
    ],
)
def test_a_window_over_midnight_on_fridays(moment: str, end: str | None) -> None:
    window = BlackoutWindow(start=time(20), end=time(6), time_zone="Europe/Berlin", weekdays="5", reason="x")

    found = ends_at(window, now=datetime.fromisoformat(moment).replace(tzinfo=UTC))

    assert found == (datetime.fromisoformat(end).replace(tzinfo=UTC) if end else None)


def test_the_end_keeps_local_time_when_the_clock_changes_within() -> None:
    window = BlackoutWindow(start=time(20), end=time(6), time_zone="Europe/Berlin", weekdays="1234567", reason="x")

    found = ends_at(window, now=datetime(2026, 3, 28, 22, tzinfo=UTC))

    assert found == datetime(2026, 3, 29, 4, tzinfo=UTC)


def test_a_blackout_holds_a_node_and_manual_backups_are_not_asked(boss: Person) -> None:
    definition = make_definition(make_server())
    node = definition.disk.server.node

    add_blackout(reason="month end", start=time(11), end=time(13), actor=boss, node=node)

    held = is_held(definition, NOW)
    assert held is not None and (held.kind, held.scope, held.until) == ("blackout", "node", NOW + HOUR)
    assert is_held(definition, NOW + HOUR) is None
    with pytest.raises(InvalidInputError):
        add_blackout(reason="x", start=time(11), end=time(13), actor=boss, weekdays="18")
