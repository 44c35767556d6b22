"""Space, locks, alarms, damage and checks through the API: the figures, and that what is asked for is sent."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from backups.models import Backup
from tests.factories import make_backup, make_manifest
from tests.worlds import World
from vaults.models import ObjectUse, StoredObject


def get(world: World, path: str, name: str = "admin_a") -> Any:
    answer = world.client(name).get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.content
    return answer.json()


@pytest.fixture
def pack(world: World) -> StoredObject:
    """A pack of 5000 bytes that our backup needs, in its server's domain; and figures as the commit leaves them."""
    backup = world.ours.backup
    world.ours.server.domain = backup.manifest.domain
    world.ours.server.save()
    pack = make_manifest(world.ours.vault)
    pack.kind, pack.domain, pack.size_bytes = "p", backup.manifest.domain, 5000
    pack.save()
    ObjectUse.objects.create(manifest=backup.manifest, needed=pack)
    Backup.objects.filter(pk=backup.pk).update(unique_bytes=6000)
    return pack


@pytest.mark.parametrize("resource", ["tenants", "servers", "disks"])
def test_usage_is_counted(world: World, pack: StoredObject, resource: str) -> None:
    usage = get(world, f"{resource}/{world.ours.object_of(resource).pk}/usage/")

    assert usage == {
        "used_bytes": 6000,
        "unique_bytes": 6000,
        "shared_bytes": 0,
        "pending_delete_bytes": 0,
        "locked_bytes": 0,
        "total_bytes": 6000,
        "counted_at": None,
    }


def test_locks_are_reported_with_what_is_short(world: World, pack: StoredObject) -> None:
    address = f"vaults/{world.ours.vault.pk}/locks/"
    Backup.objects.filter(pk=world.ours.backup.pk).update(immutable_until=pack.retain_until - timedelta(days=2))
    kept = get(world, address)
    assert (kept["kept"], kept["backup_count"], kept["violations"]) == (True, 1, [])
    assert 0 < kept["least_slack_seconds"] <= 2 * 86400

    StoredObject.objects.filter(pk=pack.pk).update(retain_until=timezone.now())
    short = get(world, address)

    assert (short["kept"], short["violation_count"]) == (False, 1)
    assert short["violations"][0]["backup"] == str(world.ours.backup.pk)
    assert short["violations"][0]["key"] == pack.key
    assert short["ending_count"] == 1


def test_alarms_that_stand_and_those_that_did(world: World) -> None:
    [alarm] = get(world, "alarms/")["results"]
    assert (alarm["code"], alarm["vault_name"]) == ("damaged_objects", world.ours.vault.name)

    world.ours.alarm.cleared_at = timezone.now()
    world.ours.alarm.save()

    assert get(world, "alarms/?count=true")["count"] == 0
    assert get(world, "alarms/?count=true&cleared=true")["count"] == 1
    assert get(world, f"alarms/?count=true&cleared=true&vault={world.theirs.vault.pk}")["count"] == 0


def test_a_backup_tells_its_health_and_what_is_damaged(world: World, pack: StoredObject) -> None:
    fields: dict[str, Any] = {"health": "damaged", "damage": [[0, 512], [4096, 512]], "damaged_bytes": 1024}
    Backup.objects.filter(pk=world.ours.backup.pk).update(**fields)
    StoredObject.objects.filter(pk=pack.pk).update(retain_until=timezone.now() + timedelta(hours=1))
    pack.refresh_from_db()

    detail = get(world, f"backups/{world.ours.backup.pk}/", "owner_a1")
    [row] = get(world, "backups/", "owner_a1")["results"]

    assert {name: detail[name] for name in fields} == fields
    assert (detail["unique_bytes"], detail["shared_bytes"], detail["verified_at"]) == (6000, 0, None)
    assert detail["locked_until"] == pack.retain_until.isoformat().replace("+00:00", "Z")
    assert (row["health"], row["damaged_bytes"]) == ("damaged", 1024)
    assert "damage" not in row


def test_a_pending_backup_has_no_lock(world: World) -> None:
    pending = make_backup(world.ours.server, status="pending")

    assert get(world, f"backups/{pending.pk}/")["locked_until"] is None


def test_a_check_is_asked_for(world: World, monkeypatch: Any, django_capture_on_commit_callbacks: Any) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("backups.queue.hint_job", lambda job: sent.append(str(job.pk)))
    address = f"/api/v1/backups/{world.ours.backup.pk}/verify/"

    assert world.client("owner_a1").post(address).status_code == 403
    assert world.client("admin_b").post(address).status_code == 404
    with django_capture_on_commit_callbacks(execute=True):
        answer = world.client("admin_a").post(address)

    job = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/api/v1/jobs/{job['id']}/")
    assert (job["kind"], job["state"], job["backup"]) == ("verify", "pending", str(world.ours.backup.pk))
    assert (job["requested_by"], job["node"], job["total_bytes"]) == ("admin_a", None, world.ours.backup.size_bytes)
    assert sent == [job["id"]]


def test_two_clicks_ask_for_one_check(world: World) -> None:
    address = f"/api/v1/backups/{world.ours.backup.pk}/verify/"
    first = world.client("admin_a").post(address).json()["id"]

    assert world.client("super").post(address).json()["id"] == first
    assert world.client("admin_a").post(f"/api/v1/jobs/{first}/cancel/").json()["state"] == "canceled"
    assert world.client("admin_a").post(address).json()["id"] != first


@pytest.mark.parametrize("change", [{"removed_at": timezone.now()}, {"status": "lost"}])
def test_only_a_good_backup_is_checked(world: World, monkeypatch: Any, change: dict[str, Any]) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("backups.queue._send", lambda *arguments, **options: sent.append(arguments))
    Backup.objects.filter(pk=world.ours.backup.pk).update(**change)

    answer = world.client("admin_a").post(f"/api/v1/backups/{world.ours.backup.pk}/verify/")

    assert (answer.status_code, answer.json()["code"], sent) == (409, "backup_not_ok", [])
