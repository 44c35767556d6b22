"""Backup definitions by the es grammar: what can be said, in whose words errors come, and with which codes."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from agents.models import Node, Storage
from backups.models import Backup
from definitions.models import Definition
from tenants.models import ApprovalRequest, ApprovalRule, Tenant
from tests.es.asking import Asker, code, refused
from tests.factories import disk_of, make_backup, make_definition, make_person, make_server, make_storage
from tests.worlds import World

pytestmark = pytest.mark.django_db
PLAN = {"schedule": "0 4 * * *", "retention": 30}


@pytest.fixture
def admin(world: World) -> Asker:
    return Asker(world.people["admin_a"])


@pytest.fixture
def here(world: World) -> str:
    return f"/vm/{world.ours.server.name}/define/backup"


@pytest.fixture
def pool(world: World) -> Storage:
    """A second storage of the server's node: the disk does not lie on it."""
    return make_storage(world.ours.server.node)


def test_one_is_made_shown_changed_and_deleted(admin: Asker, here: str, world: World) -> None:
    made = admin.create(f"{here}/nightly", **PLAN, disk_id=1, desc="all of it", bwlimit=0, active=True)

    assert made[0] == 201
    assert made[1]["status"] == "SUCCESS"
    shown = made[1]["result"]
    assert shown == {
        "hostname": world.ours.server.name,
        "vm_uuid": str(world.ours.server.pk),
        "dc": world.ours.tenant.name,
        "name": "nightly",
        "disk_id": 1,
        "type": 3,
        "node": world.ours.node.name,
        "zpool": None,
        "desc": "all of it",
        "bwlimit": None,
        "active": True,
        "schedule": "0 4 * * *",
        "retention": 30,
        "compression": 0,
        "fsfreeze": False,
        "time_zone": "UTC",
    }
    assert admin.get(f"{here}/nightly", extended=True)[1]["result"] == {**shown, "backups": 0}
    changed = admin.set(f"{here}/nightly", retention=7, active="false", schedule="5 4 * * *", desc="")
    assert changed == (
        200,
        {
            "task_id": None,
            "status": "SUCCESS",
            "result": {**shown, "retention": 7, "active": False, "schedule": "5 4 * * *", "desc": ""},
        },
    )
    assert admin.delete(f"{here}/nightly?disk_id=1")[0] == 200
    assert code(admin.get(f"{here}/nightly")) == (404, "not_found")


@pytest.mark.parametrize(("name", "retention"), [("hourly", 24), ("daily", 30), ("weekly", 12), ("monthly", 6)])
def test_a_reserved_name_brings_schedule_and_number(admin: Asker, here: str, name: str, retention: int) -> None:
    status, body = admin.create(f"{here}/{name}")

    assert (status, body["result"]["retention"]) == (201, retention)
    assert len(body["result"]["schedule"].split()) == 5


def test_on_a_storage_by_the_words_and_numbers_of_the_grammar(
    admin: Asker, here: str, world: World, pool: Storage
) -> None:
    node = world.ours.node.name
    status, body = admin.create(f"{here}/file", **PLAN, type=2, node=node, zpool=pool.name, compression="1")

    assert status == 201
    shown = body["result"]
    assert (shown["type"], shown["compression"], shown["node"], shown["zpool"]) == (2, 1, node, pool.name)
    # What scripts say again, unchanged, is no change of place.
    assert admin.set(f"{here}/file", type="file", node=node, zpool=pool.name, desc="x")[0] == 200
    assert refused(admin.set(f"{here}/file", zpool="another")) == (400, {"zpool"})
    # Which pool is meant is clear as long as there is one, or one that has the usual name.
    assert refused(admin.create(f"{here}/which", **PLAN, type=2, node=node)) == (400, {"zpool"})
    Storage.objects.filter(pk=pool.pk).update(name="zones")
    assert admin.create(f"{here}/which", **PLAN, type=2, node=node)[1]["result"]["zpool"] == "zones"
    # A node without a type means a dataset, as ever; this disk cannot be sent as one.
    assert refused(admin.create(f"{here}/dataset", **PLAN, node=node, zpool="zones")) == (400, {"type"})


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, {"schedule", "retention"}),
        ({**PLAN, "schedule": "99 99 * * *"}, {"schedule"}),
        ({**PLAN, "retention": 65_537}, {"retention"}),
        ({**PLAN, "bwlimit": 5}, {"bwlimit"}),
        ({**PLAN, "bwlimit": 2**31}, {"bwlimit"}),
        ({**PLAN, "compression": 3}, {"compression"}),
        ({**PLAN, "compression": 1}, {"compression"}),
        ({**PLAN, "type": True}, {"type"}),
        ({**PLAN, "zpool": "zones"}, {"node"}),
        ({**PLAN, "disk": 1}, {"disk"}),
        ({**PLAN, "fsfreeze": True}, {"fsfreeze"}),
        ({**PLAN, "desc": "a\x07b"}, {"desc"}),
        ({**PLAN, "time_zone": "Nowhere/At_all"}, {"time_zone"}),
        ({**PLAN, "cb_url": "http://example.com/"}, {"cb_url"}),
    ],
)
def test_what_is_wrong_is_named_as_it_was_said(admin: Asker, here: str, given: dict[str, Any], wrong: set[str]) -> None:
    assert refused(admin.create(f"{here}/new", **given)) == (400, wrong)
    assert Definition.objects.filter(name="new").count() == 0


@pytest.mark.parametrize("name", ["x" * 17, "a b", "-a", "é", "a%0Ab", "=1"])
def test_names_of_definitions_are_safe_everywhere(admin: Asker, here: str, name: str) -> None:
    assert refused(admin.create(f"{here}/{name}", **PLAN)) == (400, {"name"})


def test_a_foreign_place_is_none(admin: Asker, here: str, world: World, pool: Storage) -> None:
    place = {"type": 2, "node": world.ours.node.name, "zpool": pool.name}

    for wrong in ({"node": "nowhere"}, {"zpool": world.theirs.storage.name}, {"zpool": "none"}):
        assert code(admin.create(f"{here}/new", **PLAN, **{**place, **wrong})) == (404, "not_found")
    assert code(Asker(world.people["disabled"]).get(here)) == (401, "not_signed_in")


def test_what_needs_a_second_person_needs_one_here_too(admin: Asker, here: str, world: World) -> None:
    ApprovalRule.objects.filter(pk=world.ours.rule.pk).update(required=True)

    told = admin.set(f"{here}/{world.ours.definition.name}", retention=1)

    assert code(told) == (409, "approval_needed")
    assert ApprovalRequest.objects.filter(pk=told[1]["approval"], requested_by__username="admin_a").exists()
    assert Definition.objects.get(pk=world.ours.definition.pk).retention_count == 14


def test_deleting_keeps_the_backups(admin: Asker, here: str, world: World) -> None:
    assert admin.delete(f"{here}/{world.ours.definition.name}")[0] == 200

    kept = Backup.objects.get(pk=world.ours.backup.pk)
    assert (kept.definition, kept.removed_at) == (None, None)


def test_who_administers_elsewhere_makes_none_on_a_server_that_he_only_owns(world: World) -> None:
    both = make_person("both", administers=[world.theirs.tenant], owns=[world.ours.server])
    asker = Asker(both)

    told = asker.create(f"/vm/{world.ours.server.name}/define/backup/new", **PLAN)

    assert code(told) == (403, "not_allowed")
    assert not Definition.objects.filter(name="new").exists()


def test_lists_are_names_or_objects_in_the_order_that_was_asked_for(world: World) -> None:
    server = make_server(world.ours.tenant, name="alpha")
    first, second = make_definition(server, name="b"), make_definition(server, name="a")
    admin = Asker(world.people["admin_a"])

    assert admin.get("/vm/define/backup", order_by="name")[1]["result"] == ["a", "b", "def-a"]
    # A minus turns it round, and in this grammar so does a plus.
    assert admin.get("/vm/define/backup", order_by="-name")[1]["result"] == ["def-a", "b", "a"]
    assert admin.get("/vm/define/backup", order_by="+name")[1]["result"] == ["def-a", "b", "a"]
    assert admin.get("/vm/define/backup")[1]["result"] == [second.name, first.name, "def-a"]
    assert admin.get("/vm/define/backup", page=2, limit=2)[1]["result"] == ["def-a"]
    assert admin.get("/vm/alpha/define/backup", order_by="created", disk_id=1)[1]["result"] == ["b", "a"]
    assert {row["hostname"] for row in admin.get("/vm/define/backup", full=1)[1]["result"]} == {"alpha", "server-a-1"}
    assert admin.get(f"/node/{server.node.name}/define/backup", order_by="name")[1]["result"] == ["a", "b"]


def test_a_longer_list_takes_no_more_queries(world: World) -> None:
    client = world.client("admin_a")
    resources = ("/vm", "/vm/define/backup", f"/node/{world.ours.node.name}/backup", "/dc", "/node")

    def queries() -> list[int]:
        counts = []
        for resource in resources:
            with CaptureQueriesContext(connection) as found:
                assert client.get(f"/api{resource}?extended=true").status_code == 200
            counts.append(len(found))
        return counts

    before = queries()
    for number in range(3):
        server = make_server(world.ours.tenant, name=f"more-{number}")
        make_backup(server, definition=make_definition(server))
    assert queries() == before
    assert max(before) <= 15


def test_more_rows_than_fit_are_refused_and_never_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    make_definition(world.ours.server)
    monkeypatch.setattr("backupsite.es_api.listing.MOST_ROWS", 1)
    admin = Asker(world.people["admin_a"])

    assert code(admin.get("/vm/define/backup", limit=1)) == (400, "too_many_rows")
    assert len(admin.get("/vm/define/backup", limit=1, page=1)[1]["result"]) == 1


def test_a_virtual_data_center_by_name_title_and_id(world: World) -> None:
    """`-dc admin` is what an operator calls it; a name that two visible tenants have is refused with the way out."""
    Tenant.objects.filter(pk=world.ours.tenant.pk).update(title="admin")
    operator, owner = Asker(world.people["super"]), Asker(world.people["owner_a1"])
    for said in ("admin", "Admin", world.ours.tenant.name, str(world.ours.tenant.pk)):
        assert operator.get("/vm/define/backup", dc=said)[1]["result"] == ["def-a"]
        assert owner.get(f"/dc/{said}/vm")[1]["result"] == ["server-a-1"]
    assert operator.client.get("/api/vm?dc=admin")["es_dc"] == world.ours.tenant.name
    assert refused(operator.get(f"/dc/admin/vm?dc={world.theirs.tenant.name}")) == (400, {"dc"})

    Tenant.objects.filter(pk=world.theirs.tenant.pk).update(title="admin")
    assert code(operator.get("/vm", dc="admin")) == (409, "ambiguous_name")
    assert owner.get("/vm", dc="admin")[0] == 200
    assert [row["name"] for row in owner.get("/dc", full=True)[1]["result"]] == [world.ours.tenant.name]


def test_a_server_whose_name_two_tenants_use(world: World) -> None:
    twin = make_server(world.theirs.tenant, name=world.ours.server.name)
    operator = Asker(world.people["super"])

    assert code(operator.get(f"/vm/{twin.name}/define/backup")) == (409, "ambiguous_name")
    assert operator.get(f"/vm/{twin.name}", dc=world.theirs.tenant.name)[1]["result"]["uuid"] == str(twin.pk)
    assert operator.get(f"/vm/{twin.pk}")[1]["result"]["hostname"] == twin.name
    assert Asker(world.people["admin_a"]).get(f"/vm/{twin.name}")[1]["result"]["uuid"] == str(world.ours.server.pk)


def test_nodes_and_their_storages(world: World, pool: Storage) -> None:
    Storage.objects.filter(pk=pool.pk).update(total_bytes=3 << 30, free_bytes=1 << 30)
    node, admin = world.ours.node, Asker(world.people["admin_a"])
    Node.objects.filter(pk=node.pk).update(status="maintenance")

    shown = admin.get(f"/node/{node.name}", extended=True)[1]["result"]
    assert (shown["status"], shown["node_status"], shown["is_backup"]) == (1, "maintenance", True)
    assert (shown["vms"], shown["backups"]) == (1, 1)
    # Its own nodes, of which it shares one with somebody.
    node.tenants.add(world.theirs.tenant)
    [dc] = admin.get("/dc", extended=True)[1]["result"]
    assert (dc["nodes"], dc["vms"], dc["backups"]) == (2, 2, 1)
    stored = admin.get(f"/node/{node.pk}/storage/{pool.name}", extended=True)[1]["result"]
    assert (stored["size"], stored["size_free"], stored["backups"]) == (3072, 1024, 0)
    assert admin.get("/node", dc=world.ours.tenant.name, full=True)[0] == 200
    assert code(admin.get(f"/node/{node.name}", dc=world.theirs.tenant.name)) == (404, "not_found")
    assert disk_of(world.ours.server).number == 1
