"""Definitions and schedules over the API."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from agents.models import Disk
from backups.models import Backup, Job
from definitions.models import Definition
from tenants.services import grant_tenant_administration
from tests.factories import disk_of
from tests.worlds import World
from vaults.models import Vault

BAD_CRONS = [
    "",
    "* * * *",
    "* * * * * *",
    "61 * * * *",
    "* 24 * * *",
    "* * 32 * *",
    "* * * 13 *",
    "* * * * 8",
    "5-1 * * * *",
    "*/0 * * * *",
    "@daily",
    "a b c d e",
    "0 22 * * *; rm",
    "٠ 22 * * *",
    "0 0 30 2 *",
    "0 " * 200,
]


def body(world: World, **changes: Any) -> dict[str, Any]:
    return {"disk": str(disk_of(world.ours.server).pk), "name": "new", "cron": "0 22 * * *", **changes}


def create(world: World, data: dict[str, Any], name: str = "admin_a") -> Any:
    return world.client(name).post("/api/v1/definitions/", data)


def test_it_is_made_in_the_tenant_of_its_disk_and_in_the_persons_zone(world: World) -> None:
    person = world.people["admin_a"]
    assert person is not None
    person.time_zone = "Europe/Paris"
    person.save()

    with time_machine.travel("2026-01-15T12:00:00Z", tick=False):
        answer = create(world, body(world))

    made = Definition.objects.get(pk=answer.json()["id"])
    assert answer.status_code == 201
    assert (made.tenant, made.vault.tenant, made.time_zone) == (world.ours.tenant, world.ours.tenant, "Europe/Paris")
    assert answer.json()["next_run_at"] == "2026-01-15T21:00:00Z"


def test_run_at_once_is_due_now(world: World) -> None:
    with time_machine.travel("2026-01-15T12:00:00Z", tick=False):
        answer = create(world, body(world, run_at_once=True))

    assert answer.json()["next_run_at"] == "2026-01-15T12:00:00Z"


@pytest.mark.parametrize("cron", BAD_CRONS)
def test_a_bad_schedule_is_said_on_its_field_and_writes_nothing(world: World, cron: str) -> None:
    before = Definition.objects.count()

    answer = create(world, body(world, cron=cron))

    assert answer.status_code == 400
    assert [item["field"] for item in answer.json()["errors"]] == ["cron"]
    assert Definition.objects.count() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time_zone", "Mars/Olympus"),
        ("time_zone", ""),
        ("name", "-begins-badly"),
        ("name", "x" * 17),
        ("name", "a/b"),
        ("retention_count", -1),
        ("retention_count", "many"),
        ("immutable_days", 13),
        ("immutable_days", 3651),
        ("immutable_days", "for ever"),
        ("bandwidth_limit", 0),
        ("bandwidth_limit", 65535),
        ("bandwidth_limit", 2**62),
        ("description", "x" * 129),
        ("active", "perhaps"),
    ],
)
def test_other_bad_fields(world: World, field: str, value: Any) -> None:
    answer = create(world, body(world, **{field: value}))

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == field


def test_longer_locks_and_a_bandwidth_limit(world: World) -> None:
    answer = create(world, body(world, immutable_days=365, bandwidth_limit=1_000_000))

    assert answer.status_code == 201
    assert (answer.json()["immutable_days"], answer.json()["bandwidth_limit"]) == (365, 1_000_000)


def test_a_huge_retention_is_refused(world: World) -> None:
    assert create(world, body(world, retention_count=65537)).status_code == 400
    assert create(world, body(world, retention_count=10**30)).status_code == 400


def test_a_name_that_is_taken(world: World) -> None:
    answer = create(world, body(world, name=world.ours.definition.name))

    assert (answer.status_code, answer.json()["code"]) == (409, "name_taken")
    assert answer.json()["errors"][0]["field"] == "name"


def test_a_foreign_disk_does_not_exist(world: World) -> None:
    before = Definition.objects.count()

    foreign = create(world, body(world, disk=str(disk_of(world.theirs.server).pk)))
    missing = create(world, body(world, disk=str(uuid.uuid4())))

    assert foreign.status_code == missing.status_code == 404
    assert foreign.json() == missing.json()
    assert foreign.json()["errors"][0]["field"] == "disk"
    assert Definition.objects.count() == before


def test_who_administers_one_tenant_and_owns_a_server_of_another_creates_only_in_the_first(world: World) -> None:
    person = world.people["owner_a1"]
    assert person is not None
    grant_tenant_administration(person=person, tenant=world.theirs.tenant)

    on_owned = create(world, body(world), "owner_a1")
    on_administered = create(world, body(world, disk=str(disk_of(world.theirs.server).pk)), "owner_a1")

    assert (on_owned.status_code, on_administered.status_code) == (403, 201)
    assert not Definition.objects.filter(name="new", tenant=world.ours.tenant).exists()


def test_a_change_plans_the_next_run_anew(world: World) -> None:
    address = f"/api/v1/definitions/{world.ours.definition.pk}/"

    with time_machine.travel("2026-01-15T12:00:00Z", tick=False):
        answer = world.client("admin_a").patch(address, {"cron": "0 23 * * *", "time_zone": "UTC"})
        stopped = world.client("admin_a").patch(address, {"active": False})

    assert answer.json()["next_run_at"] == "2026-01-15T23:00:00Z"
    assert stopped.json()["next_run_at"] is None


@pytest.mark.parametrize("field", ["name", "disk", "tenant", "vault", "next_run_at", "id", "type"])
def test_what_stays_for_life_is_not_writable(world: World, field: str) -> None:
    answer = world.client("super").patch(f"/api/v1/definitions/{world.ours.definition.pk}/", {field: "x"})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == field


def test_deleting_keeps_the_backups(world: World) -> None:
    answer = world.client("admin_a").delete(f"/api/v1/definitions/{world.ours.definition.pk}/")

    assert answer.status_code == 204
    assert Backup.objects.get(pk=world.ours.backup.pk).definition is None


def test_backup_now_answers_with_the_job(world: World) -> None:
    client = world.client("admin_a")

    answer = client.post(f"/api/v1/definitions/{world.ours.definition.pk}/backup-now/")

    job = Job.objects.get(pk=answer.json()["id"])
    assert (answer.status_code, answer["Location"]) == (202, f"/api/v1/jobs/{job.pk}/")
    assert (job.kind, job.state, job.requested_by) == ("backup", "pending", world.people["admin_a"])
    assert job.backup is not None
    assert job.backup.status == "pending"


def test_backup_now_says_what_is_not_ready(world: World) -> None:
    address = f"/api/v1/definitions/{world.ours.definition.pk}/backup-now/"
    before = Job.objects.count()

    Vault.objects.update(status="refused", refusal="It cannot lock.")
    vault = world.client("admin_a").post(address)
    Vault.objects.update(status="ready")
    Disk.objects.update(incomplete_since=timezone.now())
    disk = world.client("admin_a").post(address)

    assert (vault.status_code, vault.json()["code"]) == (409, "vault_not_ready")
    assert (disk.status_code, disk.json()["code"]) == (409, "disk_incomplete")
    assert Job.objects.count() == before


def test_the_preview_shows_the_offset_before_and_after_clocks_change(world: World) -> None:
    with time_machine.travel("2026-10-23T12:00:00Z", tick=False):
        answer = world.client("owner_a1").post(
            "/api/v1/definitions/preview/", {"cron": "0 22 * * *", "time_zone": "Europe/Paris"}
        )

    shown = answer.json()
    assert answer.status_code == 200
    assert shown["explanation"] == "At 22:00 every day"
    assert len(shown["runs"]) == 10
    assert shown["runs"][1] == {
        "utc": "2026-10-24T20:00:00Z",
        "local": "2026-10-24T22:00:00+02:00",
        "utc_offset": "+02:00",
        "abbreviation": "CEST",
        "note": "",
    }
    assert shown["runs"][2]["note"] == "the clock has changed: CET from here on"
    assert shown["runs"][2]["utc"] == "2026-10-25T21:00:00Z"
    assert shown["runs"][2]["utc_offset"] == "+01:00"


@pytest.mark.parametrize("cron", [cron for cron in BAD_CRONS if cron != "0 0 30 2 *"])
def test_the_preview_refuses_what_creation_refuses(world: World, cron: str) -> None:
    answer = world.client("admin_a").post("/api/v1/definitions/preview/", {"cron": cron})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "cron"


def test_the_preview_of_what_never_runs_is_empty(world: World) -> None:
    answer = world.client("admin_a").post("/api/v1/definitions/preview/", {"cron": "0 0 30 2 *"})

    assert answer.status_code in {200, 400}
    if answer.status_code == 200:
        assert answer.json()["runs"] == []
