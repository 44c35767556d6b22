"""The dispatcher and the look at definitions find the same late run at the same moment: people hear of it once.

On PostgreSQL; SQLite has one writer at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from backups.alerting import look_at_due
from backups.dispatcher import dispatch_due
from backups.models import DefinitionStanding, Job
from definitions.models import Definition
from definitions.services import delete_definition
from tenants.models import NoticeEvent
from tests.factories import make_definition, make_server, make_subscription

pytestmark = pytest.mark.django_db(transaction=True)
NOW = timezone.now().replace(minute=0, second=0, microsecond=0)


@pytest.fixture(autouse=True)
def late_definition() -> Definition:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time; test_on_postgresql.py runs this there")
    made = make_definition(make_server(), cron="0 */2 * * *", next_run_at=NOW - timedelta(hours=3))
    make_subscription(tenant=made.tenant, address="team@example.com")
    return made


def told() -> list[str]:
    return list(NoticeEvent.objects.values_list("code", flat=True))


def test_one_that_is_deleted_is_held_before_its_standing(
    late_definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the look; otherwise each could wait for the other."""
    look_at_due(now=NOW)
    DefinitionStanding.objects.update(look_again_at=NOW)
    seen: list[object] = []

    def look_meanwhile(**_: object) -> None:
        seen.extend((done_at_the_same_time(look_at_due), DefinitionStanding.objects.get().look_again_at))

    monkeypatch.setattr("definitions.services.record", look_meanwhile)
    delete_definition(definition=late_definition, now=NOW)

    # It was due, and left alone.
    assert seen == [1, NOW]
    assert not Definition.objects.exists()


def done_at_the_same_time(work: Callable[..., int]) -> int:
    """In a thread with a connection of its own: it waits for nobody. What it returned."""
    returned: list[int] = []

    def run() -> None:
        try:
            returned.append(work(now=NOW))
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    [result] = returned
    return result


def test_the_look_leaves_what_is_dispatched_for_its_next_time_and_sees_then_what_was_told() -> None:
    with transaction.atomic():
        assert dispatch_due(now=NOW) == 1
        assert done_at_the_same_time(look_at_due) == 1

    assert not DefinitionStanding.objects.exists()
    assert look_at_due(now=NOW) == 1
    assert DefinitionStanding.objects.get().told == ["missed"]
    assert told() == ["backup.missed"]


def test_the_dispatcher_leaves_what_is_looked_at_for_its_next_tick_and_tells_nothing_again() -> None:
    with transaction.atomic():
        assert look_at_due(now=NOW) == 1
        assert done_at_the_same_time(dispatch_due) == 0

    assert dispatch_due(now=NOW) == Job.objects.count() == 1
    assert told() == ["backup.missed"]
