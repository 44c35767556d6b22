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
from backups.models import Job
from tenants.models import NoticeEvent
from tests.factories import make_definition, make_server, make_subscription
from tests.postgres.waiting import wait_until_somebody_waits

pytestmark = pytest.mark.django_db(transaction=True)
NOW = timezone.now().replace(minute=0, second=0, microsecond=0)


@pytest.fixture(autouse=True)
def late_definition() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time; test_on_postgresql.py runs this there")
    made = make_definition(make_server(), cron="0 */2 * * *", next_run_at=NOW - timedelta(hours=3))
    make_subscription(tenant=made.tenant, address="team@example.com")


def told() -> list[str]:
    return list(NoticeEvent.objects.values_list("code", flat=True))


def at_the_same_time(work: Callable[..., int]) -> tuple[threading.Thread, list[int]]:
    """Started in a thread with a connection of its own; what it returned."""
    returned: list[int] = []

    def run() -> None:
        try:
            returned.append(work(now=NOW))
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, returned


def test_the_look_waits_for_the_dispatcher_and_sees_what_it_told() -> None:
    with transaction.atomic():
        assert dispatch_due(now=NOW) == 1
        thread, looked_at = at_the_same_time(look_at_due)
        wait_until_somebody_waits()
    thread.join(30)

    assert looked_at == [1]
    assert told() == ["backup.missed"]


def test_the_dispatcher_leaves_what_is_looked_at_for_its_next_tick_and_tells_nothing_again() -> None:
    with transaction.atomic():
        assert look_at_due(now=NOW) == 1
        thread, dispatched = at_the_same_time(dispatch_due)
        thread.join(30)

    assert dispatched == [0]
    assert dispatch_due(now=NOW) == Job.objects.count() == 1
    assert told() == ["backup.missed"]
