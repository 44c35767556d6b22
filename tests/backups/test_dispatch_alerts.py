"""Who subscribed hears once that a definition does not protect, and once that it does again."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from backups.alerting import look_at_due
from backups.models import DefinitionStanding
from definitions.holds import pause
from definitions.models import Definition
from tenants.models import NoticeEvent, OutboxMessage
from tests.factories import make_backup, make_definition, make_job, make_person, make_server, make_subscription
from vaults.models import StoredObject

pytestmark = pytest.mark.django_db
NOW = timezone.now().replace(minute=0, second=0, microsecond=0)


@pytest.fixture
def definition() -> Definition:
    """Every hour, made a while ago, with a good backup of the last slot that was checked."""
    made = make_definition(make_server(), cron="0 * * * *", next_run_at=NOW + timedelta(hours=1))
    Definition.objects.update(created_at=NOW - timedelta(days=90))
    make_subscription(tenant=made.tenant, address="team@example.com")
    good_backup(made, at=NOW)
    made.refresh_from_db()
    return made


def good_backup(definition: Definition, *, at: datetime) -> None:
    backup = make_backup(definition.disk.server, definition=definition, slot_at=at, verified_at=at)
    until = NOW + timedelta(days=14)
    type(backup).objects.filter(pk=backup.pk).update(finished_at=at, created_at=at, immutable_until=until)
    StoredObject.objects.filter(pk=backup.manifest_id).update(retain_until=until)


def told() -> list[str]:
    return list(NoticeEvent.objects.order_by("pk").values_list("code", flat=True))


def look_through(*times: datetime) -> None:
    for at in times:
        look_at_due(now=at)


@pytest.mark.case("CP-08")
def test_a_run_that_is_missing_is_told_within_a_quarter_of_its_interval_and_fifteen_minutes(
    definition: Definition,
) -> None:
    slot = NOW + timedelta(hours=1)
    look_through(NOW + timedelta(minutes=1))
    Definition.objects.update(next_run_at=slot + timedelta(hours=5))
    make_job(definition.disk.server, definition=definition, slot_at=slot, state="failed")

    # 1.25 intervals after the last good one, and 15 minutes: 1 h 30 after NOW.
    look_through(*(NOW + timedelta(minutes=minute) for minute in range(60, 92)))

    assert told()[:2] == ["backup.late", "backup.missed"]
    row = DefinitionStanding.objects.get()
    assert row.state == "missed" and "has made no good backup" in row.sentence
    assert NoticeEvent.objects.get(code="backup.missed").at <= NOW + timedelta(minutes=91)
    assert NoticeEvent.objects.get(code="backup.missed").facts["definition"] == definition.name


@pytest.mark.parametrize("wrong", ["stale", "unverified", "unlocked"])
def test_what_is_wrong_is_told_once_and_when_it_is_over_once(definition: Definition, wrong: str) -> None:
    backup = definition.backups.get()
    if wrong == "stale":
        Definition.objects.update(rpo_hours=1, next_run_at=NOW + timedelta(days=9), cron="0 0 1 1 *")
        type(backup).objects.update(finished_at=NOW - timedelta(hours=2))
    if wrong == "unverified":
        type(backup).objects.update(verified_at=NOW - timedelta(days=40))
    if wrong == "unlocked":
        StoredObject.objects.update(retain_until=NOW + timedelta(days=1))

    look_through(*(NOW + timedelta(minutes=minute) for minute in range(20)))
    assert told() == [f"backup.{wrong}"]
    type(backup).objects.update(verified_at=NOW, finished_at=NOW)
    StoredObject.objects.update(retain_until=NOW + timedelta(days=14))
    look_through(*(NOW + timedelta(minutes=minute) for minute in range(20, 40)))

    assert told() == [f"backup.{wrong}", "backup.protected"]
    assert OutboxMessage.objects.count() == 2
    assert DefinitionStanding.objects.get().told == []


def test_nobody_is_told_that_what_is_held_does_not_run(definition: Definition) -> None:
    pause(reason="Repair", now=NOW, actor=make_person(superadmin=True), definition=definition)

    look_through(*(NOW + timedelta(hours=hour) for hour in range(12)))

    assert told() == DefinitionStanding.objects.get().told == []


def test_what_is_as_it_should_be_is_looked_at_after_its_next_run_only(definition: Definition) -> None:
    counts = [look_at_due(now=NOW + timedelta(minutes=minute)) for minute in (1, 2, 30, 74, 75)]

    assert counts == [1, 0, 0, 0, 1]
    assert DefinitionStanding.objects.get().state in {"protected", "late"}


def test_a_look_costs_few_questions_however_many_there_are(
    definition: Definition, django_assert_max_num_queries: object
) -> None:
    for number in range(10):
        make_definition(definition.disk.server, name=f"more{number}", next_run_at=NOW + timedelta(hours=2))
    look_at_due(now=NOW)
    DefinitionStanding.objects.update(look_again_at=NOW)

    with django_assert_max_num_queries(12 + 11 * 5):
        assert look_at_due(now=NOW + timedelta(minutes=5)) == 11
