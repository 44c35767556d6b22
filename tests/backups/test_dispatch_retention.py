"""Retention by rules: run twice, at once with a person, in parts; and dispatch that is cut at any statement."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection

from backups import retainer
from backups.dispatcher import dispatch_due
from backups.models import Backup, Job, JobEvent
from backups.retainer import apply_retention, apply_retention_everywhere, apply_retention_from
from backups.services import remove_backups
from definitions.models import Definition
from definitions.services import update_definition
from tenants.models import AuditEvent
from tests.factories import make_backup, make_definition, make_person, make_server
from vaults.models import Alarm

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 20, 12, 0, tzinfo=UTC)


def with_backups(count: int, *, keep: int, **changes: Any) -> Definition:
    """One a day, the newest today; `changes` are of every backup."""
    definition = make_definition(make_server(), retention_count=keep)
    for age in range(count):
        at = NOW - timedelta(days=age)
        backup = make_backup(definition.disk.server, definition=definition, slot_at=at, **changes)
        Backup.objects.filter(pk=backup.pk).update(created_at=at)
    return definition


def kept(definition: Definition) -> list[int]:
    """Ages in days."""
    rows = Backup.objects.in_catalogue().filter(definition=definition).order_by("-slot_at")
    return [(NOW - slot_at).days for slot_at in rows.values_list("slot_at", flat=True)]


@pytest.mark.case("CP-17")
def test_pruned_twice_and_beside_a_person_no_more_goes_than_the_rules_say() -> None:
    definition = with_backups(6, keep=3)
    key = str(definition.pk)
    oldest = Backup.objects.order_by("slot_at").first()
    remove_backups(backups=[oldest], actor=make_person(superadmin=True), now=NOW)

    counts = [apply_retention(definition_id=key, now=NOW) for _ in range(3)]

    assert (counts, kept(definition)) == ([2, 0, 0], [0, 1, 2])
    told = AuditEvent.objects.get(action="retention.applied")
    assert told.after["rules"]["count"] == 3 and len(told.after["backups"]) == 2


@pytest.mark.case("CP-18")
@pytest.mark.parametrize("health", ["damaged", "missing"])
def test_while_the_newest_are_bad_the_last_good_one_stays(health: str) -> None:
    definition = with_backups(8, keep=2)
    newest = Backup.objects.order_by("-slot_at").values_list("pk", flat=True)[:7]
    Backup.objects.filter(pk__in=list(newest)).update(health=health)

    for _ in range(2):
        apply_retention(definition_id=str(definition.pk), now=NOW)

    assert 7 in kept(definition)


def test_the_daily_run_goes_in_parts_and_stops_where_something_is_wrong() -> None:
    definitions = [with_backups(3, keep=1) for _ in range(5)]
    alarmed = definitions[2]
    Alarm.objects.create(vault=alarmed.vault, code="objects_missing", message="x", seen_at=NOW)

    removed, after, parts = 0, None, 0
    while parts == 0 or after is not None:
        count, after = apply_retention_from(after=after, now=NOW, most=2)
        removed, parts = removed + count, parts + 1

    assert (removed, parts) == (8, 3)
    assert [len(kept(definition)) for definition in definitions] == [1, 1, 3, 1, 1]
    Alarm.objects.update(cleared_at=NOW)
    assert apply_retention_everywhere(now=NOW) == 2


def test_a_definition_with_one_backup_costs_nothing(django_assert_max_num_queries: Any) -> None:
    for _ in range(5):
        with_backups(1, keep=1)

    with django_assert_max_num_queries(2):
        assert retainer.apply_retention_everywhere(now=NOW) == 0


# --- dispatch ---------------------------------------------------------------------------------------------------------


@pytest.mark.case("CP-15", "CP-16")
def test_dispatch_that_fails_at_any_statement_leaves_all_or_nothing_and_is_made_up_for(transactional_db: None) -> None:
    definitions = [make_definition(make_server(), cron="0 * * * *", next_run_at=NOW) for _ in range(2)]
    fails_at, whole = 0, False
    while not whole:
        seen = [0]

        def stop(
            execute: Any, sql: str, params: Any, many: bool, context: Any, *, seen: list[int] = seen, at: int = fails_at
        ) -> Any:
            seen[0] += 1
            if seen[0] == at + 1:
                raise OperationalError("could not serialize access, or no space left on device")
            return execute(sql, params, many, context)

        try:
            with connection.execute_wrapper(stop):
                dispatch_due(now=NOW)
        except OperationalError:
            pass
        rows = (Backup.objects.count(), Job.objects.count(), JobEvent.objects.count())
        moved = Definition.objects.filter(next_run_at__gt=NOW).count()
        assert rows in {(0, 0, 0), (2, 2, 2)} and moved == rows[0], (fails_at, rows, moved)
        whole, fails_at = rows[0] == 2, fails_at + 1

    assert fails_at > 10
    dispatch_due(now=NOW)
    assert Job.objects.count() == len(definitions)


@pytest.mark.case("CP-11")
def test_a_new_time_zone_neither_doubles_nor_skips_a_run() -> None:
    """Every hour stands in for `0 12 * * *`: each day has one slot, whatever zone it is reckoned in."""
    definition = make_definition(make_server(), cron="0 12 * * *", time_zone="Europe/Paris")
    chance, now = random.Random(7), NOW
    update_definition(definition=definition, changes={"time_zone": "UTC"}, now=now)
    for _ in range(60):
        zone = chance.choice(["UTC", "Europe/Paris", "America/Toronto", "Asia/Singapore"])
        update_definition(definition=definition, changes={"time_zone": zone}, now=now)
        definition.refresh_from_db()
        assert now < definition.next_run_at <= now + timedelta(hours=25)
        now = definition.next_run_at
        assert dispatch_due(now=now) == 1
        assert dispatch_due(now=now) == 0
        definition.refresh_from_db()

    slots = list(Job.objects.order_by("slot_at").values_list("slot_at", flat=True))
    assert len(slots) == len(set(slots)) == 60
