"""Backups by the es grammar: made, noted, restored, deleted; with the codes that its scripts know."""

from __future__ import annotations

from typing import Any

import pytest

from backups.models import Backup, Job
from backups.states import JobKind
from tests.es.asking import Asker, code, refused
from tests.factories import disk_of, make_backup, make_disk, make_server
from tests.worlds import World

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin(world: World) -> Asker:
    return Asker(world.people["admin_a"])


@pytest.fixture
def here(world: World) -> str:
    return f"/vm/{world.ours.server.name}/backup"


def test_backup_now_is_a_task_with_a_note(admin: Asker, here: str, world: World) -> None:
    answer = admin.client.post(f"/api{here}/{world.ours.definition.name}/", {"disk_id": 1, "note": "by hand"})

    body = answer.json()
    assert (answer.status_code, body["status"], body["result"]) == (201, "PENDING", None)
    job = Job.objects.select_related("backup").get(pk=body["task_id"])
    assert (answer["es_task_id"], answer["es_username"]) == (str(job.pk), "admin_a")
    assert (job.kind, job.backup.note, job.requested_by) == ("backup", "by hand", world.people["admin_a"])
    shown = admin.get(f"{here}/{job.backup.name}")[1]["result"]
    assert (shown["status"], shown["define"], shown["note"]) == (2, world.ours.definition.name, "by hand")


def test_a_backup_shows_what_it_always_showed(admin: Asker, here: str, world: World) -> None:
    backup = world.ours.backup

    status, body = admin.get(here, full=True)

    assert status == 200
    created = body["result"][0].pop("created")
    assert created.endswith("Z")
    assert body["result"] == [
        {
            "hostname": world.ours.server.name,
            "vm_uuid": str(world.ours.server.pk),
            "vm": world.ours.server.name,
            "define": world.ours.definition.name,
            "name": backup.name,
            "disk_id": 1,
            "type": 3,
            "node": world.ours.node.name,
            "zpool": None,
            "status": 1,
            "size": backup.stored_bytes,
            "time": 75,
            "file_path": None,
            "note": "",
        }
    ]
    more = admin.get(f"{here}/{backup.name}", extended="1")[1]["result"]
    assert (more["fsfreeze"], more["health"], more["disk_size"]) == (True, "unverified", backup.size_bytes)
    # Nodes are not for owners of servers.
    owned = Asker(world.people["owner_a1"]).get(f"{here}/{backup.name}")[1]["result"]
    assert (owned["node"], owned["name"]) == (None, backup.name)


def test_a_note_is_written_and_nothing_else_with_it(admin: Asker, here: str, world: World) -> None:
    backup = world.ours.backup

    assert admin.set(f"{here}/{backup.name}", note="keep\nthis")[1]["result"]["note"] == "keep\nthis"
    assert refused(admin.set(f"{here}/{backup.name}", note="x" * 256)) == (400, {"note"})
    target = {"target_hostname_or_uuid": world.ours.server.name, "target_disk_id": 1}
    assert refused(admin.set(f"{here}/{backup.name}", note="x", **target)) == (400, {"note"})
    assert not Job.objects.filter(kind=JobKind.RESTORE, state="pending").exists()


def test_a_restore_names_its_target(admin: Asker, here: str, world: World) -> None:
    backup, server = world.ours.backup, world.ours.other_server

    assert refused(admin.set(f"{here}/{backup.name}")) == (400, {"target_hostname_or_uuid", "target_disk_id"})
    for named in (server.name, str(server.pk)):
        wanted = {"target_hostname_or_uuid": named, "target_disk_id": 1}
        status, body = admin.set(f"{here}/{backup.name}?disk_id=1", **wanted)

        assert (status, body["status"]) == (201, "PENDING")
        job = Job.objects.get(pk=body["task_id"])
        assert (job.kind, job.disk, job.backup) == ("restore", disk_of(server), backup)
        job.delete()


def test_one_backup_is_deleted_many_are_or_none(admin: Asker, here: str, world: World) -> None:
    names = [make_backup(world.ours.server).name for _ in range(4)]
    busy = make_backup(world.ours.server, status="restore")

    assert refused(admin.delete(here)) == (412, {"bkpnames"})
    assert code(admin.delete(here, bkpnames=["none"])) == (404, "not_found")
    assert code(admin.delete(here, bkpnames=[names[0]], disk_id=2)) == (404, "not_found")
    assert code(admin.delete(here, bkpnames=[names[0], busy.name])) == (417, "backup_in_use")
    assert Backup.objects.in_catalogue().filter(name__in=names).count() == 4
    assert admin.delete(here, bkpnames=names[:2])[1]["result"]["bkpnames"]
    assert admin.delete(f"{here}?bkpnames={names[2]},none")[0] == 200
    assert admin.delete(f"{here}/{names[3]}")[0] == 200
    assert code(admin.delete(f"{here}/{names[3]}")) == (404, "not_found")
    assert code(admin.delete(f"{here}/{busy.name}")) == (417, "backup_in_use")
    assert not Backup.objects.in_catalogue().filter(name__in=names).exists()


def test_of_a_server_that_is_gone_by_the_name_that_it_had(admin: Asker, world: World) -> None:
    lone = make_backup(world.ours.server)
    Backup.objects.filter(pk=lone.pk).update(server=None, disk=None, server_name="gone")

    shown = admin.get("/vm/gone/backup", full=True)[1]["result"]
    assert [(row["name"], row["vm"], row["vm_uuid"]) for row in shown] == [(lone.name, None, None)]
    assert admin.get(f"/node/{world.ours.node.name}/backup", vm="")[1]["result"] == [lone.name]
    assert admin.set(f"/vm/gone/backup/{lone.name}", note="still here")[0] == 200
    # Who owned the server has no way to it any more, and nobody else ever had.
    for name in ("owner_a1", "admin_b"):
        assert code(Asker(world.people[name]).get("/vm/gone/backup")) == (404, "not_found")


def test_of_a_server_that_was_renamed_by_both_names(admin: Asker, here: str, world: World) -> None:
    make_server(world.ours.tenant, name="other")
    Backup.objects.filter(pk=world.ours.backup.pk).update(server_name="before")
    name = world.ours.backup.name

    assert admin.get(here)[1]["result"] == [name]
    assert admin.get("/vm/other/backup")[1]["result"] == []
    assert admin.get("/vm/other/backup", hostname="before")[1]["result"] == [name]
    assert admin.get(f"/vm/other/backup/{name}", hostname="before")[1]["result"]["vm"] == world.ours.server.name
    assert code(admin.get("/vm/other/backup", hostname="never")) == (404, "not_found")


def test_lists_by_disk_and_definition(admin: Asker, here: str, world: World) -> None:
    server = world.ours.server
    make_disk(server)
    other = make_backup(server, size_bytes=7, stored_bytes=7)
    Backup.objects.filter(pk=other.pk).update(disk_number=2)

    assert admin.get(here, disk_id=2)[1]["result"] == [other.name]
    assert admin.get(here, define=world.ours.definition.name)[1]["result"] == [world.ours.backup.name]
    assert admin.get(here, order_by="size")[1]["result"] == [other.name, world.ours.backup.name]
    of_node = admin.get(f"/node/{world.ours.node.name}/backup", full=1, disk_id=2, vm=server.name)[1]["result"]
    assert [(row["name"], row["dc"]) for row in of_node] == [(other.name, world.ours.tenant.name)]
    assert admin.get(f"/node/{world.ours.node.name}/backup", define="none")[1]["result"] == []


@pytest.mark.parametrize(
    ("token", "found"),
    [
        ({"scope": "read"}, {"see": 200, "run": "token_scope", "note": "token_scope", "restore": "token_scope"}),
        ({"scope": "operate"}, {"see": 200, "run": 201, "note": "token_scope", "restore": 201}),
        ({"may_restore": False}, {"see": 200, "run": 201, "note": 200, "restore": "token_scope"}),
    ],
)
def test_a_key_does_what_its_scope_has(here: str, world: World, token: dict[str, Any], found: dict[str, Any]) -> None:
    asker, ours = Asker(world.people["admin_a"], **token), world.ours
    target = {"target_hostname_or_uuid": ours.server.name, "target_disk_id": 1}

    told = {
        "see": asker.get(here),
        "run": asker.create(f"{here}/{ours.definition.name}"),
        "note": asker.set(f"{here}/{ours.backup.name}", note="x"),
        "restore": asker.set(f"{here}/{ours.backup.name}", **target),
    }

    assert {name: status if status < 400 else code((status, body))[1] for name, (status, body) in told.items()} == found


def test_a_key_of_one_tenant_sees_that_one(world: World) -> None:
    bound = Asker(world.people["super"], tenant=world.theirs.tenant)

    assert bound.get("/vm")[1]["result"] == [world.theirs.server.name, world.theirs.other_server.name]
    assert code(bound.get(f"/vm/{world.ours.server.name}")) == (404, "not_found")
    # Nor by another word for it.
    assert code(bound.get("/vm", dc=world.ours.tenant.name)) == (404, "not_found")
    assert code(bound.get(f"/dc/{world.ours.tenant.pk}/vm")) == (404, "not_found")
    assert code(bound.get(f"/task/{world.ours.job.pk}")) == (404, "not_found")


def test_a_key_repeats_nothing(here: str, world: World) -> None:
    admin, address = Asker(world.people["admin_a"]), f"/api{here}/{world.ours.definition.name}"
    before = Job.objects.count()

    first, again = (admin.client.post(address, {}, HTTP_IDEMPOTENCY_KEY="one") for _ in range(2))

    assert first.json() == again.json()
    assert Job.objects.count() == before + 1
