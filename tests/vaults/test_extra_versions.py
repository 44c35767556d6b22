"""Versions that lie over objects: told once for each, judged by their bytes, and closed when they are gone or known."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from django_celery_beat.models import PeriodicTask

from backups.beat import write_periodic_tasks
from backups.queue import CHECKS_QUEUE
from engine.store.memory import ObjectVersion
from tests.factories import make_person, make_tenant, make_vault
from tests.vaults.shelf import Shelf, shelf
from vaults import extra_versions
from vaults.alarms import acknowledge_alarm
from vaults.extra_versions import MORE, look_for_extra_versions, look_for_extra_versions_everywhere
from vaults.models import Alarm, StoredObject, Vault
from vaults.severity import Severity
from vaults.storage import StorageUnreachableError
from vaults.tasks import look_for_extra_versions as look_for_extra_versions_task

__all__ = ["shelf"]
SAME, OTHER, MARKER = "extra_version_same", "extra_version_other", "marker_over_object"


def look(shelf: Shelf) -> extra_versions.Extras:
    return look_for_extra_versions(shelf.vault, now=shelf.now)


def lay(shelf: Shelf, row: StoredObject, data: bytes | None = None) -> ObjectVersion:
    """Another version over the object, as a store without conditional create takes it; by default the same bytes."""
    data = shelf.versions(row)[0].data if data is None else data
    return shelf.store.put_object(key=shelf.name(row.key), data=data)


def lift(shelf: Shelf, row: StoredObject, version: ObjectVersion) -> None:
    shelf.store._versions[shelf.name(row.key)].remove(version)


def standing(shelf: Shelf) -> set[tuple[str, str]]:
    return set(Alarm.objects.standing().filter(vault=shelf.vault).values_list("code", "subject"))


def acknowledge(code: str, row: StoredObject) -> None:
    alarm = Alarm.objects.standing().get(code=code, subject=row.key)
    acknowledge_alarm(alarm, note="", actor=make_person(superadmin=True), now=alarm.seen_at)


def test_one_version_of_each_is_no_alarm_and_reads_nothing(shelf: Shelf) -> None:
    for _ in range(3):
        shelf.put()

    look(shelf)

    assert (standing(shelf), shelf.client.reads) == (set(), [])


def test_the_same_bytes_are_told_once_for_each_object_and_are_harmless(shelf: Shelf) -> None:
    rows = [shelf.put() for _ in range(3)]
    for row in rows[:2]:
        lay(shelf, row)

    look(shelf)

    assert standing(shelf) == {(SAME, rows[0].key), (SAME, rows[1].key)}
    assert {alarm.severity for alarm in Alarm.objects.all()} == {Severity.INFO}


def test_the_alarm_closes_when_the_version_is_gone(shelf: Shelf) -> None:
    row = shelf.put()
    extra = lay(shelf, row)
    look(shelf)
    lift(shelf, row, extra)

    look(shelf)

    assert standing(shelf) == set()
    assert Alarm.objects.get().cleared_reason == "The second version is gone from the vault."


def test_what_a_person_knows_of_is_not_told_again_nor_read_again(shelf: Shelf) -> None:
    row = shelf.put()
    lay(shelf, row)
    look(shelf)
    acknowledge(SAME, row)
    assert standing(shelf) == set()

    for _ in range(3):
        shelf.pass_time(days=1)
        look(shelf)

    assert (standing(shelf), shelf.client.reads) == (set(), [row.key])


def test_another_version_after_that_is_told(shelf: Shelf) -> None:
    row = shelf.put()
    lay(shelf, row)
    look(shelf)
    acknowledge(SAME, row)
    lay(shelf, row)

    look(shelf)

    assert standing(shelf) == {(SAME, row.key)}


@pytest.mark.parametrize("data", [b"longer than it was, by far", b"OBJECT 1"], ids=["another size", "the same size"])
def test_other_bytes_are_critical_until_they_are_gone_whatever_a_person_says(shelf: Shelf, data: bytes) -> None:
    row = shelf.put(b"object 1")
    extra = lay(shelf, row, data)
    look(shelf)
    assert Alarm.objects.get().severity == Severity.CRITICAL
    acknowledge(OTHER, row)

    look(shelf)
    assert standing(shelf) == {(OTHER, row.key)}
    lift(shelf, row, extra)
    look(shelf)

    assert standing(shelf) == set()


def test_other_bytes_that_a_listing_left_out_for_a_while_are_told_again(shelf: Shelf) -> None:
    row = shelf.put(b"object 1")
    extra = lay(shelf, row, b"OBJECT 1")
    look(shelf)
    acknowledge(OTHER, row)
    lift(shelf, row, extra)
    look(shelf)
    assert standing(shelf) == set()
    shelf.versions(row).append(extra)

    look(shelf)

    assert standing(shelf) == {(OTHER, row.key)}
    assert Alarm.objects.standing().get().acknowledged_at is None


def test_other_bytes_beside_the_same_ones_are_not_overlooked(shelf: Shelf) -> None:
    row = shelf.put(b"object 1")
    lay(shelf, row)
    look(shelf)
    acknowledge(SAME, row)
    lay(shelf, row, b"OBJECT 1")

    look(shelf)

    assert standing(shelf) == {(OTHER, row.key)}


def test_one_md5_does_not_make_the_same_bytes(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lays versions may have made both contents: the store's ETag is not believed."""
    row = shelf.put(b"object 1")
    lay(shelf, row, b"OBJECT 1")
    digest = hashlib.md5(b"object 1").hexdigest()
    monkeypatch.setattr("tests.model_s3._etag", lambda version: f'"{digest}"')

    look(shelf)

    assert standing(shelf) == {(OTHER, row.key)}


def test_a_marker_is_told_and_hides_nothing(shelf: Shelf) -> None:
    row = shelf.put()
    shelf.store.delete_object(key=shelf.name(row.key))

    look(shelf)

    assert standing(shelf) == {(MARKER, row.key)}
    acknowledge(MARKER, row)
    look(shelf)
    assert standing(shelf) == set()


def test_what_was_only_granted_or_is_unknown_is_not_judged_here(shelf: Shelf) -> None:
    granted, unknown = shelf.put(status="granted", version_id=""), shelf.put()
    for row in (granted, unknown):
        lay(shelf, row, b"other")
    unknown.delete()

    look(shelf)

    assert standing(shelf) == set()


def test_a_copy_of_what_was_deleted_is_told(shelf: Shelf) -> None:
    row = shelf.put(status="deleted")
    lay(shelf, row)

    look(shelf)

    assert standing(shelf) == {(SAME, row.key)}


def test_what_cannot_be_read_in_one_pass_is_counted_and_read_in_the_next(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [shelf.put(b"x" * 10 + bytes([number])) for number in range(3)]
    for row in rows:
        lay(shelf, row)
    monkeypatch.setattr(extra_versions, "MOST_READ_BYTES", 11)

    seen = []
    for _ in range(3):
        found = look(shelf)
        seen.append((len([code for code, _ in standing(shelf) if code == SAME]), found.unjudged_count))

    assert seen == [(1, 2), (2, 1), (3, 0)]
    assert standing(shelf) == {(SAME, row.key) for row in rows}


def test_more_versions_of_one_object_than_a_pass_takes_are_counted(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra_versions, "MOST_VERSIONS_EACH", 3)
    row = shelf.put()
    for _ in range(6):
        lay(shelf, row)

    look(shelf)

    assert standing(shelf) == {(SAME, row.key), (MORE, "")}


def test_a_version_that_cannot_be_read_clears_nothing(shelf: Shelf) -> None:
    first, second = shelf.put(b"object 1"), shelf.put(b"object 2")
    gone = lay(shelf, first, b"OBJECT 1")
    look(shelf)
    lift(shelf, first, gone)
    lay(shelf, second, b"OBJECT 2")
    refused = ClientError({"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}, "GetObject")
    shelf.client.answers[second.key] = [refused]

    look(shelf)
    assert standing(shelf) == {(OTHER, first.key), (MORE, "")}
    look(shelf)

    assert standing(shelf) == {(OTHER, second.key)}


def test_a_version_that_goes_while_it_is_read_is_nothing(shelf: Shelf) -> None:
    row = shelf.put()
    lay(shelf, row)
    gone = ClientError({"Error": {"Code": "NoSuchVersion"}, "ResponseMetadata": {"HTTPStatusCode": 404}}, "GetObject")
    shelf.client.answers[row.key] = [gone]

    assert look(shelf).unjudged_count == 0
    assert standing(shelf) == set()


def test_a_vault_that_is_away_keeps_its_alarms_and_not_the_others_waiting(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = shelf.put()
    lay(shelf, row)
    look(shelf)
    away = make_vault(make_tenant())
    Alarm.objects.create(vault=away, code=OTHER, subject="k", message="m", seen_at=shelf.now)
    make_vault(make_tenant(), status=Vault.Status.PENDING)
    asked: list[str] = []
    real = extra_versions.look_for_extra_versions

    def look_at_one(vault: Vault, **options: Any) -> Any:
        asked.append(vault.name)
        if vault.pk == away.pk:
            raise StorageUnreachableError("The vault does not answer.")
        return real(vault, **options)

    monkeypatch.setattr(extra_versions, "look_for_extra_versions", look_at_one)
    look_for_extra_versions_everywhere(now=shelf.now + timedelta(days=1))

    assert sorted(asked) == sorted([shelf.vault.name, away.name])
    assert Alarm.objects.standing().count() == 2
    assert Alarm.objects.get(code=SAME).seen_at == shelf.now + timedelta(days=1)


def test_they_are_looked_for_once_a_day_beside_the_other_checks(db: None) -> None:
    write_periodic_tasks()

    entry = PeriodicTask.objects.get(task=look_for_extra_versions_task.name)
    assert (entry.queue, entry.enabled, str(entry.crontab).split()[:2]) == (CHECKS_QUEUE, True, ["17", "3"])
