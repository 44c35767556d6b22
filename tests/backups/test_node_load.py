"""The load that nodes had: by whose jobs, in which hours, and in how few questions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from agents.models import Node, Server
from backups import node_load
from backups.models import Job, NodeShareFigures
from backups.node_load import FRESH, actual_load, count_loads, load_map
from definitions.models import Definition, SpreadAct
from tests.factories import make_definition, make_job, make_person, make_server

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 1, 14, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WEEK_SECONDS = 7 * 3600


@pytest.fixture
def server(db: None) -> Any:
    return make_server()


def ran(server: Any, begun: datetime, length: timedelta, moved: int, **values: Any) -> Job:
    times = {"started_at": begun, "finished_at": begun + length, "done_bytes": moved, **values}
    return make_job(server, **{"state": "ok", **times})


def hours_of(server: Any, person: Any = None) -> dict[int, float]:
    found = actual_load([server.node], person=person or make_person(superadmin=True), now=NOW)
    return {hour: value * WEEK_SECONDS for hour, value in enumerate(found.get(server.node.pk, ())) if value}


def test_bytes_are_in_the_hours_that_the_job_ran_in(server: Any) -> None:
    at = datetime(2026, 1, 12, 22, 30, tzinfo=UTC)
    ran(server, at, timedelta(minutes=10), 500)
    # Half past ten to half past midnight: three hours, of the next day too.
    ran(server, at, 2 * HOUR, 300, kind="restore", state="failed")
    # The same hour of another day counts to the same hour; a day later than a whole day it comes again.
    ran(server, at - timedelta(days=3), timedelta(0), 50)

    assert hours_of(server) == pytest.approx({22: 650, 23: 100, 0: 100})


@pytest.mark.parametrize(
    "values",
    [
        {"started_at": NOW - timedelta(days=7, minutes=1)},
        {"finished_at": None, "state": "failed"},
        {"kind": "verify"},
    ],
)
def test_what_is_old_or_runs_or_is_no_work_of_the_node_does_not_count(server: Any, values: dict[str, Any]) -> None:
    ran(server, NOW - HOUR, timedelta(minutes=1), 500, **values)

    assert hours_of(server) == {}


def test_the_last_week_counts_to_its_first_minute(server: Any) -> None:
    ran(server, NOW - timedelta(days=7), timedelta(minutes=1), 700)

    assert hours_of(server) == pytest.approx({12: 700})


def test_each_node_has_its_own_and_a_tenant_sees_its_own_jobs_only(server: Any) -> None:
    other = make_server()
    Node.objects.get(pk=server.node_id).tenants.add(other.tenant)
    foreign = make_job(other, state="ok")
    Job.objects.filter(pk=foreign.pk).update(
        node=server.node, started_at=NOW - HOUR, finished_at=NOW - HOUR, done_bytes=40
    )
    ran(server, NOW - HOUR, timedelta(minutes=1), 7)
    ran(other, NOW - HOUR, timedelta(minutes=1), 90)

    assert hours_of(server) == pytest.approx({11: 47})
    assert hours_of(server, make_person(administers=[server.tenant])) == pytest.approx({11: 7})
    assert hours_of(other) == pytest.approx({11: 90})
    assert hours_of(server, make_person(owns=[server])) == pytest.approx({11: 7})


def test_planned_and_actual_stand_beside_each_other_for_idle_nodes_too(
    server: Any, django_assert_max_num_queries: Any
) -> None:
    idle, boss = make_server(), make_person(superadmin=True)
    make_definition(server, cron="0 3 * * *")
    for number in range(30):
        ran(server, NOW - number * HOUR, timedelta(minutes=1), 7)

    with django_assert_max_num_queries(5):
        found = load_map([idle.node, server.node], person=boss, now=NOW)

    assert [row.node for row in found.rows] == [idle.node, server.node]
    assert {*found.rows[0].planned, *found.rows[0].actual} == {0.0}
    assert [hour for hour, value in enumerate(found.rows[1].planned) if value] == [3]
    assert min(found.rows[1].actual) > 0


def test_kept_figures_are_shown_to_who_sees_everything_until_they_are_old_or_something_was_moved(
    server: Any, django_assert_max_num_queries: Any
) -> None:
    for number in range(4):
        make_definition(server, name=f"d{number}", cron="0 22 * * *")
    ran(server, NOW - timedelta(days=1), HOUR / 2, 500)
    everybody, administrator = make_person(superadmin=True), make_person(administers=[server.tenant])
    live = load_map([server.node], person=everybody, now=NOW)
    count_loads(now=NOW)
    Definition.objects.all().delete()

    def shown(person: Any, at: datetime) -> Any:
        return load_map([server.node], person=person, now=at)

    with django_assert_max_num_queries(3):
        kept = shown(everybody, NOW + FRESH / 2)
    old, own = shown(everybody, NOW + FRESH), shown(administrator, NOW)
    act = SpreadAct.objects.create(made_by=everybody, moves=[])
    SpreadAct.objects.filter(pk=act.pk).update(created_at=NOW + HOUR / 4)
    moved = shown(everybody, NOW + HOUR / 3)

    assert (kept.rows, kept.advice, kept.counted_at) == (live.rows, live.advice, NOW)
    assert live.advice and any(live.rows[0].planned) and any(live.rows[0].actual)
    for again in (old, own, moved):
        assert again.counted_at is None and not again.advice and not any(again.rows[0].planned)


def test_an_administrator_is_shown_what_was_kept_of_a_large_tenant_beside_what_is_counted_now(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_load, "LIVE_DEFINITIONS", 3)
    other, idle = make_server(), make_server()
    Node.objects.get(pk=server.node_id).tenants.add(other.tenant)
    Server.objects.filter(pk=other.pk).update(node=server.node)
    other = Server.objects.get(pk=other.pk)
    nodes = [server.node, idle.node]
    for number, owner in enumerate([server] * 4 + [other] * 3):
        make_definition(owner, name=f"d{number}", cron="0 22 * * *")
    for owner in (server, other):
        ran(owner, NOW - timedelta(days=1), HOUR / 2, 500)
    boss, both = make_person(superadmin=True), make_person(administers=[server.tenant, other.tenant])
    small, owner = make_person(administers=[other.tenant]), make_person(owns=[server])
    live = {person: load_map(nodes, person=person, now=NOW) for person in (boss, both, small, owner)}
    count_loads(now=NOW)
    assert [share.tenant for share in NodeShareFigures.objects.all()] == [server.tenant]

    kept = load_map(nodes, person=both, now=NOW + FRESH / 2)

    assert kept.counted_at == NOW and kept.advice
    for row, *others in zip(kept.rows, live[both].rows, live[boss].rows, strict=True):
        # Sums of parts are not the same to the last bit.
        assert all(row.planned == pytest.approx(other.planned) for other in others)
        assert all(row.actual == pytest.approx(other.actual) for other in others)
    [pile], [other] = kept.advice, live[both].advice
    assert (pile.hour, pile.keys, pile.times_mean) == (other.hour, other.keys, pytest.approx(other.times_mean))
    # The figures of a whole tenant are not for who owns one of its servers, and old ones for nobody.
    Definition.objects.filter(tenant=server.tenant).delete()
    assert load_map(nodes, person=small, now=NOW).rows == live[small].rows
    for person, at in ((owner, NOW), (both, NOW + FRESH)):
        again = load_map(nodes, person=person, now=at)
        assert again.counted_at is None and again.rows != live[person].rows


def test_counting_asks_for_all_tenants_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand tenants, each asked for by itself, took minutes of the database."""
    monkeypatch.setattr(node_load, "LIVE_DEFINITIONS", 0)
    first, *others = (make_server() for _ in range(4))
    Server.objects.update(node=first.node)

    def fill(server: Any) -> None:
        make_definition(Server.objects.get(pk=server.pk), cron="0 22 * * *")
        ran(Server.objects.get(pk=server.pk), NOW - timedelta(days=1), HOUR / 2, 500)

    def statements() -> int:
        with CaptureQueriesContext(connection) as asked:
            count_loads(now=NOW)
        return len(asked)

    fill(first)
    count_loads(now=NOW)
    of_one = statements()
    for server in others:
        fill(server)

    assert statements() == of_one
    assert NodeShareFigures.objects.filter(node=first.node).count() == 4


def test_who_counts_at_the_same_time_and_what_is_gone_since_lose_nothing(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_load, "LIVE_DEFINITIONS", 0)
    other = make_server()
    for owner in (server, other):
        make_definition(owner, cron="0 22 * * *")
    kept = node_load._keep_shares

    def keep_late(shares: list[NodeShareFigures], *, now: datetime) -> None:
        """Another one has counted meanwhile, and a tenant is gone."""
        monkeypatch.setattr(node_load, "_keep_shares", kept)
        count_loads(now=now + timedelta(seconds=1))
        Definition.objects.filter(tenant=other.tenant).delete()
        NodeShareFigures.objects.filter(tenant=other.tenant).delete()
        gone = {share.tenant_id: uuid4() for share in shares if share.tenant_id == other.tenant_id}
        for share in shares:
            share.tenant_id = gone.get(share.tenant_id, share.tenant_id)
        kept(shares, now=now)

    monkeypatch.setattr(node_load, "_keep_shares", keep_late)
    count_loads(now=NOW)

    assert [(share.tenant, share.node) for share in NodeShareFigures.objects.all()] == [(server.tenant, server.node)]
    # What is not there any more goes with the next count.
    Definition.objects.all().delete()
    count_loads(now=NOW + HOUR)
    assert not NodeShareFigures.objects.exists()
