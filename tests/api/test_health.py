"""The health of the service: what does not work is named, for operators only, and ends when it works again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from celery import Celery
from django.utils import timezone

from agents.models import Node
from backups.dispatcher import dispatch_due
from backups.models import Job, Session
from backupsite import service_health
from backupsite.service_health import look_at_service, status_of
from definitions.models import Definition
from tenants.models import OutboxMessage
from tests.factories import make_definition, make_job, make_node, make_server
from tests.worlds import World

MINUTE = timedelta(minutes=1)


def failing(now: datetime) -> dict[str, str]:
    parts = look_at_service(now=now)
    assert status_of(parts) == ("ok" if all(part.working for part in parts) else "degraded")
    return {part.name: part.detail for part in parts if not part.working}


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A port at which nobody listens; hints go there, too."""
    away = Celery(broker="redis://127.0.0.1:1/0", set_as_current=False)
    with monkeypatch.context() as patch:
        patch.setattr(service_health, "current_app", away)
        patch.setattr("backups.queue.current_app", away)
        yield patch


@pytest.mark.case("CP-04")
def test_five_minutes_without_a_broker(db: None, no_broker: pytest.MonkeyPatch) -> None:
    began = timezone.now()
    definition = make_definition(make_server(), next_run_at=began + MINUTE)

    assert failing(began).keys() == {"broker"}
    assert "begins, late and once" in failing(began)["broker"]
    # Nobody dispatches: beat's messages are lost, too.
    later = began + 5 * MINUTE
    told = failing(later)
    assert told.keys() == {"broker", "dispatch"}
    assert f"since {began + MINUTE:%Y-%m-%d %H:%M} UTC" in told["dispatch"]

    assert dispatch_due(now=later) == 1, "the row is written, whether anybody can be told or not"
    assert failing(later).keys() == {"broker"}
    no_broker.undo()
    assert failing(later) == {}
    assert dispatch_due(now=later) == 0
    assert Job.objects.filter(definition=definition).count() == 1


def test_what_is_held_or_not_late_yet_is_no_trouble(db: None) -> None:
    now = timezone.now()
    make_definition(make_server(), next_run_at=now - MINUTE)
    make_definition(make_server(), next_run_at=now - 60 * MINUTE, active=False)

    assert failing(now) == {}
    Definition.objects.filter(active=True).update(next_run_at=now - 3 * MINUTE)
    assert failing(now).keys() == {"dispatch"}


def test_workers_that_are_silent(db: None) -> None:
    now = timezone.now()
    silent, fresh, planned = make_node(name="n-silent"), make_node(name="n-fresh"), make_node(name="n-planned")
    Node.objects.filter(pk__in=[silent.pk, planned.pk]).update(last_seen_at=now - 6 * MINUTE)
    Node.objects.filter(pk=fresh.pk).update(last_seen_at=now - 4 * MINUTE)
    Node.objects.filter(pk=planned.pk).update(status=Node.Status.MAINTENANCE)

    assert failing(now) == {"nodes": "No worker reports from: n-silent. Jobs there wait."}


def test_commits_that_nobody_looks_at(db: None) -> None:
    now = timezone.now()
    job = make_job(make_server(), state="running", fence=1, lease_until=now - MINUTE)
    Session.objects.create(job=job, fence=1, token_hash="x", commit_requested_at=now - 3 * MINUTE)

    assert failing(now).keys() == {"commits"}
    Job.objects.update(lease_until=now + MINUTE)
    assert failing(now) == {}


def test_notices_that_nobody_sends(world: World) -> None:
    now = timezone.now()
    OutboxMessage.objects.update(state="pending", next_try_at=now - 3 * MINUTE)

    assert "notices" in failing(now)
    assert "notices" not in failing(now - 2 * MINUTE)


def test_the_api_and_the_page_say_it(world: World, no_broker: pytest.MonkeyPatch) -> None:
    client = world.client("super")

    answer = client.get("/api/v1/health/")
    page = client.get("/health/").content.decode()

    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    broker = next(part for part in answer.json()["parts"] if part["name"] == "broker")
    assert broker["working"] is False and broker["detail"] in page
    assert "Health of the service: degraded" in page
    for name in ("admin_a", "owner_a1"):
        assert world.client(name).get("/api/v1/health/").status_code == 403
        assert "broker" not in world.client(name).get("/health/").content.decode()
