"""Every member of the es grammar's answers, with its value: scripts read them by name.

Definitions, backups and the status of a task are in the tests beside this one.
"""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from agents.models import Storage
from backups.models import Backup, TenantFigures
from definitions.models import Definition
from tests.es.asking import Asker
from tests.factories import GIB, disk_of, make_backup, make_definition, make_job
from tests.worlds import World

pytestmark = pytest.mark.django_db
MIB = 1024**2


@pytest.fixture
def admin(world: World) -> Asker:
    return Asker(world.people["admin_a"])


def shown(told: tuple[int, Any]) -> dict[str, Any]:
    status, body = told
    assert (status, body["status"], body["task_id"]) == (200, "SUCCESS", None)
    found: dict[str, Any] = body["result"]
    return found


def moment(value: Any) -> str:
    return str(value.isoformat().replace("+00:00", "Z"))


def test_a_server(admin: Asker, world: World) -> None:
    server = world.ours.server
    type(disk_of(server)).objects.filter(server=server).update(size_bytes=3 * GIB)
    plain = {
        "hostname": server.name,
        "uuid": str(server.pk),
        "alias": server.name,
        "dc": world.ours.tenant.name,
        "node": server.node.name,
        "owner": None,
        "status": "unknown",
        "node_status": server.node.status,
        "vcpus": None,
        "ram": None,
        "disk": 3 * 1024,
        "ips": [],
        "uptime": None,
        "locked": False,
    }
    make_definition(server, name="off", active=False)
    make_backup(server, stored_bytes=7 * MIB)
    kept = Backup.objects.filter(server=server)
    counts = {
        "backup_define_active": Definition.objects.filter(disk__server=server, active=True).count(),
        "backup_define_inactive": 1,
        "backups": kept.count(),
        "size_backups": round(sum(one.stored_bytes or 0 for one in kept) / MIB),
    }

    assert shown(admin.get(f"/vm/{server.name}")) == plain
    assert shown(admin.get(f"/vm/{server.name}", extended=True)) == plain | counts
    assert plain in shown(admin.get("/vm", full=True))
    assert plain | counts in shown(admin.get("/vm", extended=True))
    assert server.name in shown(admin.get("/vm"))


def test_a_data_centre(admin: Asker, world: World) -> None:
    tenant = world.ours.tenant
    plain = {
        "name": tenant.name,
        "alias": tenant.title,
        "site": None,
        "owner": None,
        "access": 3,
        "desc": "",
        "created": moment(tenant.created_at),
        "status": "active",
    }
    counts = {
        "nodes": tenant.nodes.count(),
        "vms": tenant.servers.count(),
        "backups": Backup.objects.filter(tenant=tenant).count(),
        "size_backups": round(sum(one.stored_bytes or 0 for one in Backup.objects.filter(tenant=tenant)) / MIB),
        "counted": None,
    }

    assert shown(admin.get(f"/dc/{tenant.name}")) == plain
    assert shown(admin.get(f"/dc/{tenant.name}", extended=True)) == plain | counts
    assert shown(admin.get("/dc", extended=True)) == [plain | counts]

    # Of a large tenant they were counted before, and say when.
    others = [one.name for one in TenantFigures._meta.fields if one.name.endswith(("_count", "_definitions", "_bytes"))]
    numbers = dict.fromkeys(others, 1) | {"backup_count": 2_000_000, "backup_bytes": 5 * MIB}
    figures = TenantFigures.objects.create(tenant=tenant, counted_at=timezone.now(), **numbers)
    told = {"backups": 2_000_000, "size_backups": 5, "counted": moment(figures.counted_at)}
    assert shown(admin.get(f"/dc/{tenant.name}", extended=True)) == plain | counts | told


def test_a_storage(admin: Asker, world: World) -> None:
    storage = world.ours.storage
    Storage.objects.filter(pk=storage.pk).update(total_bytes=10 * MIB, free_bytes=4 * MIB, problem="It is slow.")
    kept = make_backup(world.ours.server, stored_bytes=3 * MIB)
    Backup.objects.filter(pk=kept.pk).update(type="dataset", vault=None, manifest=None, storage=storage, place="a@b")
    plain = {
        "node": storage.node.name,
        "zpool": storage.name,
        "alias": storage.name,
        "type": 1,
        "size": 10,
        "size_free": 4,
        "created": moment(storage.created_at),
        "desc": "It is slow.",
    }
    place = f"/node/{storage.node.name}/storage"

    assert shown(admin.get(f"{place}/{storage.name}")) == plain
    assert plain in shown(admin.get(place, full=True))
    assert shown(admin.get(f"{place}/{storage.name}", extended=True)) == plain | {"backups": 1, "size_backups": 3}
    kept.delete()
    assert shown(admin.get(f"{place}/{storage.name}", extended=True)) == plain | {"backups": 0, "size_backups": 0}


def test_the_details_of_a_task(admin: Asker, world: World) -> None:
    job = make_job(world.ours.other_server, state="running")

    status, body = admin.get(f"/task/{job.pk}")

    assert status == 200
    assert body == {
        "task_id": str(job.pk),
        "view": "vm_backup",
        "method": "POST",
        "hostname": world.ours.other_server.name,
        "disk_id": 1,
        "bkpname": job.backup_name,
        "status": "PENDING",
        "state": "running",
        "phase": job.phase,
        "done_bytes": job.done_bytes,
        "total_bytes": job.total_bytes,
        "percent": job.percent(),
        "waits": job.waits,
        "created": moment(job.created_at),
        "started": moment(job.started_at),
    }


def test_the_commands_that_the_package_installs_are_there() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]

    assert set(project["scripts"]) == {"es", "backupsite-agent", "backupsite-restore"}
    for place in project["scripts"].values():
        module, name = place.split(":")
        assert callable(getattr(import_module(module), name))
