"""Who subscribed hears once that a definition does not protect, and once that it does again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from backups.alerting import look_at_due
from backups.dispatcher import dispatch_due
from backups.lock_coverage import locked_until
from backups.models import DefinitionStanding
from backups.standing import standings_of
from definitions.holds import pause
from definitions.models import Definition
from tenants.models import NoticeEvent, OutboxMessage, Tenant
from tests.factories import (
    make_backup,
    make_definition,
    make_job,
    make_manifest,
    make_person,
    make_server,
    make_subscription,
    make_tenant,
)
from tests.removal.world import now, running
from vaults.models import ObjectUse, StoredObject, Vault

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


@pytest.mark.parametrize(
    ("steps", "late_minutes", "events"),
    [
        ([look_at_due, dispatch_due], 20, ["backup.late"]),
        ([dispatch_due, look_at_due], 20, ["backup.late"]),
        ([look_at_due, dispatch_due], 180, ["backup.missed"]),
        ([dispatch_due, look_at_due], 180, ["backup.missed"]),
        # Half an hour late counts as missed, of one that runs every hour; its next time has not come yet.
        ([look_at_due, dispatch_due], 40, ["backup.missed"]),
        ([dispatch_due, look_at_due], 40, ["backup.late", "backup.missed"]),
    ],
)
def test_a_late_run_is_told_once_whether_the_look_or_the_dispatch_finds_it(
    definition: Definition, steps: list[Callable[..., int]], late_minutes: int, events: list[str]
) -> None:
    Definition.objects.update(rpo_hours=24)

    for step in steps:
        step(now=NOW + timedelta(hours=1, minutes=late_minutes))

    assert told() == events
    assert OutboxMessage.objects.count() == len(events)


@pytest.mark.parametrize("find", [look_at_due, dispatch_due])
def test_what_was_told_of_an_earlier_run_or_to_another_tenant_silences_nothing(
    definition: Definition, find: Callable[..., int]
) -> None:
    """Its notice is open yet: no good backup of this definition was made since."""
    Definition.objects.update(rpo_hours=24)
    slot = NOW + timedelta(hours=1)
    told_before = {"code": "backup.missed", "severity": 2, "cause": f"backups:{definition.pk}", "open": True}
    NoticeEvent.objects.create(**told_before, tenant=definition.tenant, at=slot - timedelta(hours=3))
    NoticeEvent.objects.create(**told_before, tenant=make_tenant(), at=slot + timedelta(minutes=10))

    find(now=slot + timedelta(minutes=20))

    assert told()[2:] == ["backup.late"]


def test_nobody_is_told_that_a_run_is_late_which_was_done_while_the_batch_was_looked_at(
    definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot, seen = NOW + timedelta(hours=1), []

    def done_after_the_first_look(definitions: list[Definition], *, now: datetime) -> object:
        found = standings_of(definitions, now=now)
        seen.append(found[definition.pk][1].state)
        if len(seen) == 1:
            good_backup(definition, at=slot + timedelta(minutes=17))
        return found

    monkeypatch.setattr("backups.alerting.standings_of", done_after_the_first_look)
    look_at_due(now=slot + timedelta(minutes=20))

    assert seen == ["late", "protected"]
    assert told() == DefinitionStanding.objects.get().told == []
    assert DefinitionStanding.objects.get().state == "protected"


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
    # What is told of is read again, and the notice with its receivers is written.
    DefinitionStanding.objects.update(look_again_at=NOW)
    Definition.objects.update(next_run_at=NOW + timedelta(hours=1))
    with django_assert_max_num_queries(12 + 11 * 30):
        assert look_at_due(now=NOW + timedelta(hours=1, minutes=20)) == 11
    assert ["late" in row.told for row in DefinitionStanding.objects.all()] == [True] * 11


@pytest.mark.parametrize(
    "changes",
    [{"active": False, "next_run_at": None, "retired_at": NOW}, {"tenant__status": "suspended"}],
    ids=["retired", "of a suspended tenant"],
)
def test_what_no_run_is_expected_of_is_not_looked_at(definition: Definition, changes: dict[str, object]) -> None:
    """Its last good backup grows old and loses its lock: that is what somebody wanted."""
    if "tenant__status" in changes:
        Tenant.objects.filter(pk=definition.tenant_id).update(status=changes["tenant__status"])
    else:
        Definition.objects.update(**changes)

    counts = [look_at_due(now=NOW + timedelta(days=day)) for day in range(40)]

    assert sum(counts) == 0
    assert told() == []
    assert not DefinitionStanding.objects.exists()


def test_the_end_of_a_lock_is_told_once_and_its_recovery_once_with_the_next_good_backup(
    definition: Definition,
) -> None:
    """Locked for two hours only, and of every month: the last good backup is there, and could be deleted."""
    Definition.objects.update(cron="0 0 1 * *", next_run_at=NOW + timedelta(days=30), rpo_hours=1000)
    StoredObject.objects.update(retain_until=NOW + timedelta(hours=2))
    definition.backups.update(immutable_until=NOW + timedelta(hours=2))

    look_through(NOW + timedelta(hours=1, minutes=59))
    assert told() == []
    DefinitionStanding.objects.update(look_again_at=NOW)
    look_through(*(NOW + timedelta(hours=2, minutes=minute) for minute in range(0, 60, 6)))
    assert told() == ["backup.unlocked"]
    assert "ended at" in NoticeEvent.objects.get().facts["message"]
    good_backup(definition, at=NOW + timedelta(hours=3))
    look_through(*(NOW + timedelta(hours=3, minutes=minute) for minute in range(0, 60, 6)))

    assert told() == ["backup.unlocked", "backup.protected"]
    assert NoticeEvent.objects.get(code="backup.protected").facts["code"] == "unlocked"


def test_two_things_that_are_wrong_are_told_and_healed_each_for_itself(definition: Definition) -> None:
    backup = definition.backups.get()
    type(backup).objects.update(verified_at=NOW - timedelta(days=40))
    StoredObject.objects.update(retain_until=NOW + timedelta(days=1))

    look_through(NOW, NOW + timedelta(minutes=6))
    assert sorted(told()) == ["backup.unlocked", "backup.unverified"]
    StoredObject.objects.update(retain_until=NOW + timedelta(days=14))
    look_through(NOW + timedelta(minutes=12), NOW + timedelta(minutes=18))

    assert [event.facts["code"] for event in NoticeEvent.objects.filter(code="backup.protected")] == ["unlocked"]
    assert DefinitionStanding.objects.get().told == ["unverified"]


def test_a_vault_whose_bucket_was_seen_without_object_lock_protects_nothing(definition: Definition) -> None:
    seen = {"object lock and default retention": {"ObjectLockEnabled": "Enabled"}}
    Vault.objects.update(settings_seen=seen)
    look_through(NOW)
    assert told() == []

    for found in ("ObjectLockConfigurationNotFoundError", {}):
        Vault.objects.update(settings_found={"object lock and default retention": found})
        assert standings_of([definition_of(definition)], now=NOW)[definition.pk][1].state == "unlocked"
    look_through(NOW + timedelta(hours=7))

    assert "backup.unlocked" in told()


def test_the_lock_is_the_soonest_end_of_all_that_the_backup_needs(definition: Definition) -> None:
    backup = definition.backups.get()
    needed = [make_manifest(definition.vault) for _ in range(2)]
    for row, days in zip(needed, (20, 3), strict=True):
        StoredObject.objects.filter(pk=row.pk).update(retain_until=NOW + timedelta(days=days))
        ObjectUse.objects.create(manifest=backup.manifest, needed=row)
    other = make_definition(definition.disk.server, next_run_at=NOW + timedelta(hours=1))

    found = standings_of([definition_of(definition), definition_of(other)], now=NOW)

    facts, standing = found[definition.pk]
    assert facts.locked_until == locked_until(definition.backups.get()) == NOW + timedelta(days=3)
    assert standing.state == "unlocked"
    assert found[other.pk][0].locked_until is None


def definition_of(definition: Definition) -> Definition:
    return Definition.objects.select_related("disk__server", "vault").get(pk=definition.pk)


def test_those_that_wait_longest_are_looked_at_first(definition: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backups.alerting.BATCH", 1)
    look_at_due(now=NOW)
    other = make_definition(definition.disk.server, next_run_at=NOW + timedelta(days=1))
    look_at_due(now=NOW)
    times = {definition.pk: NOW - timedelta(minutes=1), other.pk: NOW - timedelta(minutes=2)}
    for key, at in times.items():
        DefinitionStanding.objects.filter(pk=key).update(look_again_at=at)

    assert look_at_due(now=NOW) == 1

    assert DefinitionStanding.objects.get(pk=definition.pk).look_again_at == times[definition.pk]
    assert DefinitionStanding.objects.get(pk=other.pk).look_again_at > NOW


@pytest.mark.parametrize(("state", "minutes"), [("waiting", 0), ("late", 0), ("protected", 5)])
def test_what_was_found_is_looked_at_again_as_soon_as_there_is_a_good_backup(state: str, minutes: int) -> None:
    with running() as (world, _):
        later = now() + timedelta(minutes=5)
        DefinitionStanding.objects.create(
            definition=world.definition, state=state, looked_at=now(), look_again_at=later
        )
        world.start_session()
        world.commit(world.open[0])

        assert DefinitionStanding.objects.get().look_again_at == now() + timedelta(minutes=minutes)
