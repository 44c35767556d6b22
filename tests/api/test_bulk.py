"""Bulk actions: a result for each item, in order, and nothing done to what is not the caller's."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from backups.models import Backup, Job
from definitions.models import Definition
from tenants.models import AuditEvent
from tests.factories import make_backup, make_definition, make_job
from tests.worlds import World


def bulk(world: World, resource: str, name: str = "admin_a", **order: Any) -> Any:
    return world.client(name).post(f"/api/v1/{resource}/bulk/", order)


def codes(answer: Any) -> list[tuple[int, str]]:
    assert answer.status_code == 200, answer.content
    return [(item["status"], item["code"]) for item in answer.json()["results"]]


def test_each_item_has_its_own_result_and_the_order_is_kept(world: World) -> None:
    pending = make_backup(world.ours.server, status="pending")
    missing, foreign, own = uuid.uuid4(), world.theirs.backup.pk, world.ours.backup.pk
    ids = [str(key) for key in (foreign, own, missing, pending.pk)]

    answer = bulk(world, "backups", action="delete", ids=ids)

    assert [item["id"] for item in answer.json()["results"]] == ids
    assert codes(answer) == [(404, "not_found"), (204, "ok"), (404, "not_found"), (409, "backup_in_use")]
    assert set(Backup.objects.exclude(removed_at=None).values_list("pk", flat=True)) == {own}


@pytest.mark.case("AZ-02")
def test_foreign_and_missing_cannot_be_told_apart(world: World) -> None:
    items = bulk(world, "backups", action="delete", ids=[str(world.theirs.backup.pk), str(uuid.uuid4())]).json()

    first, second = [{**item, "id": ""} for item in items["results"]]
    assert first == second


def test_notes(world: World) -> None:
    other = make_backup(world.ours.server)

    answer = bulk(world, "backups", action="note", note="keep", ids=[str(other.pk), str(world.ours.backup.pk)])

    assert codes(answer) == [(200, "ok")] * 2
    assert set(Backup.objects.filter(tenant=world.ours.tenant).values_list("note", flat=True)) == {"keep"}
    assert not Backup.objects.filter(tenant=world.theirs.tenant, note="keep").exists()


def test_checks_and_where_to_follow_them(world: World) -> None:
    [item] = bulk(world, "backups", action="verify", ids=[str(world.ours.backup.pk)]).json()["results"]

    job = Job.objects.get(kind="verify")
    assert (item["status"], item["location"]) == (202, f"/api/v1/jobs/{job.pk}/")


def test_definitions_pause_resume_run_and_go(world: World) -> None:
    second = make_definition(world.ours.server, name="second")
    ids = [str(world.ours.definition.pk), str(second.pk)]

    assert codes(bulk(world, "definitions", action="pause", ids=ids)) == [(200, "ok")] * 2
    assert not Definition.objects.filter(pk__in=ids, active=True).exists()
    assert codes(bulk(world, "definitions", action="resume", ids=ids)) == [(200, "ok")] * 2
    assert Definition.objects.filter(pk__in=ids, active=True, next_run_at__isnull=False).count() == 2
    assert codes(bulk(world, "definitions", action="backup-now", ids=ids)) == [(202, "ok")] * 2
    assert codes(bulk(world, "definitions", action="delete", ids=ids)) == [(204, "ok")] * 2
    assert not Definition.objects.filter(pk__in=ids).exists()


def test_jobs_are_canceled_one_by_one(world: World) -> None:
    ended = make_job(world.ours.other_server, state="ok")

    answer = bulk(world, "jobs", action="cancel", ids=[str(ended.pk), str(world.ours.job.pk)])

    assert codes(answer) == [(409, "job_ended"), (202, "ok")]


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"action": "delete"},
        {"action": "delete", "ids": []},
        {"action": "delete", "ids": ["x"]},
        {"action": "delete", "ids": "x"},
        {"action": "drop", "ids": [str(uuid.uuid4())]},
        {"action": "delete", "ids": [str(uuid.UUID(int=1))] * 2},
        {"action": "delete", "ids": [str(uuid.UUID(int=number)) for number in range(501)]},
        {"action": "note", "ids": [str(uuid.uuid4())]},
        {"action": "delete", "note": "x", "ids": [str(uuid.uuid4())]},
        {"action": "note", "note": "x" * 256, "ids": [str(uuid.uuid4())]},
        {"action": "delete", "ids": [str(uuid.uuid4())], "tenant": "x"},
    ],
)
def test_an_order_that_cannot_be(world: World, order: dict[str, Any]) -> None:
    answer = bulk(world, "backups", **order)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")


@pytest.mark.case("AZ-05")
@pytest.mark.parametrize(
    ("resource", "action"),
    [
        ("backups", "delete"),
        ("backups", "verify"),
        ("definitions", "delete"),
        ("definitions", "pause"),
        ("definitions", "backup-now"),
        ("jobs", "cancel"),
    ],
)
def test_an_owner_of_a_server_does_none_of_it(world: World, resource: str, action: str) -> None:
    answer = bulk(world, resource, "owner_a1", action=action, ids=[str(world.ours.object_of(resource).pk)])

    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")


def test_one_query_more_for_each_item_is_bounded(world: World, django_assert_max_num_queries: Any) -> None:
    """Five hundred ids that are nobody's cost no more than a few queries each."""
    ids = [str(uuid.uuid4()) for _ in range(50)]

    with django_assert_max_num_queries(50 * 10 + 20):
        bulk(world, "backups", action="delete", ids=ids)


def test_a_fault_of_ours_undoes_all_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_backup(world.ours.server)
    monkeypatch.setattr("backups.bulk.set_note", _fail_on(other, set_note_of()))
    client = world.client("admin_a")
    client.raise_request_exception = False

    answer = client.post(
        "/api/v1/backups/bulk/", {"action": "note", "note": "x", "ids": [str(world.ours.backup.pk), str(other.pk)]}
    )

    assert answer.status_code == 500
    assert not Backup.objects.filter(note="x").exists()


def set_note_of() -> Any:
    from backups.services import set_note

    return set_note


def _fail_on(bad: Backup, real: Any) -> Any:
    def run(*, backup: Backup, **options: Any) -> Any:
        if backup.pk == bad.pk:
            raise RuntimeError("a bug")
        return real(backup=backup, **options)

    return run


def test_refused_items_are_in_the_audit(world: World) -> None:
    bulk(world, "backups", action="delete", ids=[str(world.theirs.backup.pk), str(uuid.uuid4())])

    refused = AuditEvent.objects.filter(action="access.refused")
    assert [event.after["route"] for event in refused] == ["backup-bulk"]
