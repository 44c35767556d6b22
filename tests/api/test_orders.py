"""What a SuperAdmin makes over the API: tenants, servers, disks; and jobs that are canceled; and who one is."""

from __future__ import annotations

from typing import Any

import pytest

from agents.models import Disk, Server
from backups.models import Job
from tenants.models import Company, Tenant
from tests.factories import disk_of, make_job, make_person
from tests.worlds import World
from vaults.models import Vault


def test_a_tenant_with_a_region_comes_with_company_and_vault(world: World) -> None:
    answer = world.client("super").post("/api/v1/tenants/", {"title": "Acme", "region": "RBX"})

    tenant = Tenant.objects.get(pk=answer.json()["id"])
    assert answer.status_code == 201
    assert Company.objects.get(tenant=tenant).name == f"vspc-tenant-{tenant.suffix}"
    assert Vault.objects.get(tenant=tenant).endpoint.region_id == "GRA"


def test_a_region_without_affinity_makes_no_tenant_either(world: World) -> None:
    before = Tenant.objects.count()

    answer = world.client("super").post("/api/v1/tenants/", {"title": "Acme", "region": "NIX"})

    assert (answer.status_code, answer.json()["code"]) == (400, "no_affinity")
    assert answer.json()["errors"][0]["field"] == "region"
    assert Tenant.objects.count() == before


@pytest.mark.parametrize("title", ["", " ", "x" * 101, None])
def test_a_bad_title(world: World, title: Any) -> None:
    assert world.client("super").post("/api/v1/tenants/", {"title": title}).status_code == 400


def server_body(world: World, **changes: Any) -> dict[str, Any]:
    return {
        "tenant": str(world.ours.tenant.pk),
        "name": "new",
        "region": "RBX",
        "node": str(world.ours.node.pk),
        **changes,
    }


def test_a_server_attaches_its_tenant_to_the_node(world: World) -> None:
    answer = world.client("super").post("/api/v1/servers/", server_body(world, tenant=str(world.theirs.tenant.pk)))

    assert answer.status_code == 201
    assert world.theirs.tenant in Server.objects.get(pk=answer.json()["id"]).node.tenants.all()


@pytest.mark.parametrize(("field", "value"), [("name", "server-a-1"), ("region", "NIX"), ("region", "")])
def test_a_bad_server(world: World, field: str, value: str) -> None:
    before = Server.objects.count()

    answer = world.client("super").post("/api/v1/servers/", server_body(world, **{field: value}))

    assert answer.status_code == 400
    assert Server.objects.count() == before


def disk_body(world: World, **changes: Any) -> dict[str, Any]:
    return {
        "server": str(world.ours.server.pk),
        "number": 2,
        "driver": "image",
        "storage": str(world.ours.storage.pk),
        "path": "images/new.img",
        "size_bytes": 1024,
        **changes,
    }


def test_a_disk(world: World) -> None:
    answer = world.client("super").post("/api/v1/disks/", disk_body(world))

    assert answer.status_code == 201
    assert answer.json()["server_name"] == "server-a-1"
    assert answer.json()["size_bytes"] == 1024


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("driver", "floppy"),
        ("path", "../other"),
        ("path", "/etc/shadow"),
        ("path", "a/../../b"),
        ("path", "nul\0byte"),
        ("size_bytes", 0),
        ("size_bytes", -1),
        ("size_bytes", 2**63),
        ("size_bytes", "big"),
        ("number", 0),
        ("number", 10**9),
    ],
)
def test_a_bad_disk(world: World, field: str, value: Any) -> None:
    before = Disk.objects.count()

    answer = world.client("super").post("/api/v1/disks/", disk_body(world, **{field: value}))

    assert answer.status_code == 400
    assert Disk.objects.count() == before


def test_a_storage_on_another_node(world: World) -> None:
    answer = world.client("super").post("/api/v1/disks/", disk_body(world, storage=str(world.theirs.storage.pk)))

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "storage"


def test_a_waiting_job_is_canceled_at_once(world: World) -> None:
    answer = world.client("admin_a").post(f"/api/v1/jobs/{world.ours.job.pk}/cancel/")

    assert answer.json()["state"] == "canceled"
    assert [event["code"] for event in answer.json()["events"]] == ["requested", "canceled"]


def test_a_running_job_is_asked_to_end(world: World) -> None:
    job = make_job(world.ours.server, state="running")

    answer = world.client("admin_a").post(f"/api/v1/jobs/{job.pk}/cancel/")

    assert (answer.json()["state"], answer.json()["cancel_requested"]) == ("running", True)


def test_a_job_that_ended_is_not_canceled(world: World) -> None:
    answer = world.client("admin_a").post(f"/api/v1/jobs/{world.ours.restore.pk}/cancel/")

    assert (answer.status_code, answer.json()["code"]) == (409, "job_ended")


def test_jobs_are_filtered(world: World) -> None:
    make_job(world.ours.server, state="failed", code="broken")
    client = world.client("admin_a")

    assert client.get("/api/v1/jobs/?count=true&state=failed").json()["count"] == 1
    assert client.get("/api/v1/jobs/?count=true&kind=restore").json()["count"] == 1
    assert client.get("/api/v1/jobs/?count=true&kind=backup").json()["count"] == 2
    assert client.get(f"/api/v1/jobs/?count=true&disk={disk_of(world.ours.other_server).pk}").json()["count"] == 0
    assert client.get(f"/api/v1/restores/{world.ours.job.pk}/").status_code == 404
    assert Job.objects.get(pk=world.ours.job.pk).kind == "backup"


def test_progress_is_in_bytes_and_percent(world: World) -> None:
    job = make_job(world.ours.server, state="running")

    row = world.client("owner_a1").get(f"/api/v1/jobs/{job.pk}/").json()

    assert (row["done_bytes"], row["total_bytes"], row["percent"]) == (256 * 1024**2, 1024**3, 25)


@pytest.mark.parametrize(
    ("name", "roles"),
    [("super", ["SuperAdmin"]), ("admin_a", ["DCAdmin"]), ("owner_a1", ["VmOwner"])],
)
def test_me(world: World, name: str, roles: list[str]) -> None:
    answer = world.client(name).get("/api/v1/me/").json()

    assert (answer["name"], answer["roles"], answer["time_zone"]) == (name, roles, "UTC")


def test_me_with_no_role_and_with_two(world: World) -> None:
    world.people["nobody"] = make_person("nobody")
    world.people["both"] = make_person("both", administers=[world.ours.tenant], owns=[world.theirs.server])

    assert world.client("nobody").get("/api/v1/me/").json()["roles"] == []
    assert world.client("both").get("/api/v1/me/").json()["roles"] == ["DCAdmin", "VmOwner"]
