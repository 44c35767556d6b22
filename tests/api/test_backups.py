"""Backups over the API: lists, notes, removal, restores and their refusals."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.utils import timezone

from agents.models import Node
from backups.models import Backup, Job
from backups.states import JobKind
from tests.factories import GIB, disk_of, make_backup, make_disk, make_job, make_server
from tests.worlds import World


def restores() -> int:
    return Job.objects.filter(kind=JobKind.RESTORE).count()


def order(world: World, **changes: Any) -> dict[str, Any]:
    server = world.ours.other_server
    return {"target": str(disk_of(server).pk), "confirmation": server.name, **changes}


def restore(world: World, body: dict[str, Any], name: str = "admin_a") -> Any:
    return world.client(name).post(f"/api/v1/backups/{world.ours.backup.pk}/restore/", body)


def test_the_newest_comes_first(world: World) -> None:
    newest = make_backup(world.ours.server)

    results = world.client("admin_a").get("/api/v1/backups/").json()["results"]

    assert [row["id"] for row in results] == [str(newest.pk), str(world.ours.backup.pk)]


def test_times_are_utc_with_z_and_sizes_are_integers(world: World) -> None:
    person = world.people["admin_a"]
    assert person is not None
    person.time_zone = "Asia/Kolkata"
    person.save()

    row = world.client("admin_a").get(f"/api/v1/backups/{world.ours.backup.pk}/").json()

    assert row["created_at"] == world.ours.backup.created_at.isoformat().replace("+00:00", "Z")
    assert row["immutable_until"].endswith("Z")
    assert row["size_bytes"] == GIB
    assert row["checksum"] == world.ours.backup.manifest.sha256


def test_filter_by_status(world: World) -> None:
    make_backup(world.ours.server, status="pending")
    client = world.client("admin_a")

    assert client.get("/api/v1/backups/?count=true&status=pending").json()["count"] == 1
    assert client.get("/api/v1/backups/?count=true&status=lost").json()["count"] == 0


def test_a_note_is_kept(world: World) -> None:
    answer = world.client("admin_a").patch(f"/api/v1/backups/{world.ours.backup.pk}/", {"note": "before the upgrade"})

    assert answer.json()["note"] == "before the upgrade"
    world.ours.backup.refresh_from_db()
    assert world.ours.backup.note == "before the upgrade"


def test_a_long_note_is_refused_with_its_field(world: World) -> None:
    answer = world.client("admin_a").patch(f"/api/v1/backups/{world.ours.backup.pk}/", {"note": "x" * 256})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "note"


def test_delete_takes_it_out_of_the_list_but_not_out_of_the_world(world: World) -> None:
    client = world.client("admin_a")
    address = f"/api/v1/backups/{world.ours.backup.pk}/"

    assert client.delete(address).status_code == 204

    assert client.get("/api/v1/backups/?count=true").json()["count"] == 0
    assert client.get(address).json()["removed_at"] is not None


def test_one_in_use_is_not_deleted(world: World) -> None:
    Backup.objects.filter(pk=world.ours.backup.pk).update(status="restore")

    answer = world.client("admin_a").delete(f"/api/v1/backups/{world.ours.backup.pk}/")

    assert (answer.status_code, answer.json()["code"]) == (409, "backup_in_use")


def test_a_restore_is_a_job_that_can_be_followed(world: World) -> None:
    client = world.client("admin_a")

    answer = restore(world, order(world))

    job = Job.objects.get(pk=answer.json()["id"])
    assert answer.status_code == 202
    assert answer["Location"] == f"/api/v1/jobs/{job.pk}/"
    assert (job.kind, job.state, job.disk, job.backup) == (
        "restore",
        "pending",
        disk_of(world.ours.other_server),
        world.ours.backup,
    )
    assert job.requested_by == world.people["admin_a"]
    assert client.get(answer["Location"]).json()["events"][0]["code"] == "requested"
    assert str(job.pk) in {row["id"] for row in client.get("/api/v1/restores/").json()["results"]}


@pytest.mark.parametrize("confirmation", ["", "wrong", "SERVER-A-2", "server-a-1"])
def test_a_wrong_confirmation_writes_nothing(world: World, confirmation: str) -> None:
    before = restores()

    answer = restore(world, order(world, confirmation=confirmation))

    assert (answer.status_code, answer.json()["code"]) == (400, "not_confirmed")
    assert answer.json()["errors"][0]["field"] == "confirmation"
    said = answer.json()["errors"][0]["detail"]
    assert "destroys all data and all snapshots on server-a-2 disk 1" in said
    assert said.endswith("To confirm, type the name of its server: server-a-2")
    assert said.startswith("What was typed is another name.") is bool(confirmation)
    assert ("Capitals count." in said) is (confirmation == "SERVER-A-2")
    assert restores() == before


def test_without_target_or_confirmation(world: World) -> None:
    answer = restore(world, {})

    assert {item["field"] for item in answer.json()["errors"]} == {"target", "confirmation"}


@pytest.mark.case("RS-05")
def test_a_target_of_another_tenant_does_not_exist(world: World) -> None:
    before = restores()
    foreign = disk_of(world.theirs.server)

    answer = restore(world, order(world, target=str(foreign.pk), confirmation=world.theirs.server.name))
    missing = restore(world, order(world, target=str(uuid.uuid4())))

    assert answer.status_code == missing.status_code == 404
    assert answer.json() == missing.json()
    assert restores() == before


def test_a_backup_of_another_tenant_does_not_exist(world: World) -> None:
    address = f"/api/v1/backups/{world.theirs.backup.pk}/restore/"

    assert world.client("admin_a").post(address, order(world)).status_code == 404


def test_a_superadmin_may_restore_across_tenants(world: World) -> None:
    foreign = disk_of(world.theirs.server)

    answer = restore(world, order(world, target=str(foreign.pk), confirmation=world.theirs.server.name), "super")

    assert answer.status_code == 202


@pytest.mark.case("RS-01")
def test_a_target_that_is_too_small(world: World) -> None:
    small = make_disk(world.ours.other_server, size_bytes=GIB - 1)
    before = restores()

    answer = restore(world, order(world, target=str(small.pk)))

    assert (answer.status_code, answer.json()["code"]) == (400, "target_too_small")
    assert answer.json()["errors"][0]["field"] == "target"
    assert restores() == before


@pytest.mark.case("RS-10")
def test_a_node_in_maintenance_and_a_restore_under_way(world: World) -> None:
    make_job(world.ours.other_server, kind=JobKind.RESTORE)
    assert restore(world, order(world)).json()["code"] == "restore_under_way"

    Node.objects.update(status="maintenance")
    assert restore(world, order(world)).json()["code"] == "node_in_maintenance"


@pytest.mark.parametrize("changes", [{"status": "lost"}, {"removed_at": timezone.now()}])
def test_a_backup_that_is_not_good(world: World, changes: dict[str, Any]) -> None:
    Backup.objects.filter(pk=world.ours.backup.pk).update(**changes)

    assert restore(world, order(world)).json()["code"] == "backup_not_ok"


def preview(world: World, target: object, name: str = "admin_a") -> Any:
    return world.client(name).get(f"/api/v1/backups/{world.ours.backup.pk}/restore-preview/?target={target}")


def test_the_preview_says_what_is_lost(world: World) -> None:
    answer = preview(world, disk_of(world.ours.other_server).pk).json()

    assert answer["warning"] == "Restoring destroys all data and all snapshots on server-a-2 disk 1."
    assert (answer["refused"], answer["refusal"], answer["confirm_with"]) == (False, None, "server-a-2")


def test_the_preview_says_why_it_is_refused(world: World) -> None:
    small = make_disk(world.ours.server, size_bytes=1)

    answer = preview(world, small.pk).json()

    assert answer["refused"] is True
    assert answer["refusal"]["code"] == "target_too_small"


def test_the_preview_of_a_foreign_a_missing_and_no_target(world: World) -> None:
    assert preview(world, disk_of(world.theirs.server).pk).status_code == 404
    assert preview(world, uuid.uuid4()).status_code == 404
    assert preview(world, "x").status_code == 400


@pytest.mark.parametrize(
    ("address", "limit"),
    [
        ("backups", 6),
        ("jobs", 6),
        ("definitions", 6),
        ("servers", 6),
        ("disks", 6),
        ("nodes", 6),
        ("storages", 6),
        ("vaults", 6),
        ("tenants", 6),
    ],
)
@pytest.mark.parametrize("name", ["super", "admin_a", "owner_a1"])
def test_a_list_of_many_needs_no_more_queries(
    world: World, django_assert_max_num_queries: Any, name: str, address: str, limit: int
) -> None:
    for _ in range(5):
        server = make_server(world.ours.tenant)
        make_backup(server)
        make_job(server)
    client = world.client(name)

    with django_assert_max_num_queries(limit):
        client.get(f"/api/v1/{address}/")


@pytest.mark.parametrize("address", ["backups", "jobs", "definitions"])
def test_a_detail_needs_few_queries(world: World, django_assert_max_num_queries: Any, address: str) -> None:
    client, key = world.client("admin_a"), world.ours.object_of(address).pk

    # Two of them ask what he administers and owns.
    with django_assert_max_num_queries(6):
        client.get(f"/api/v1/{address}/{key}/")
