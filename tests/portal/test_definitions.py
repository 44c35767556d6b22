"""Definitions in the portal: forms that keep what was typed, and the preview while typing."""

from __future__ import annotations

from typing import Any

import pytest
import time_machine

from backups.models import Backup, Job
from definitions.models import Definition
from tests.api.test_definitions import BAD_CRONS
from tests.factories import disk_of
from tests.worlds import World
from vaults.models import Vault


def form(world: World, **changes: Any) -> dict[str, Any]:
    return {
        "disk": str(disk_of(world.ours.server).pk),
        "name": "new",
        "cron": "0 22 * * *",
        "time_zone": "Europe/Paris",
        "retention_count": 7,
        "description": "typed text",
        "active": "on",
        **changes,
    }


def create(world: World, data: dict[str, Any], name: str = "admin_a") -> Any:
    return world.client(name).post("/definitions/new/", data, format="multipart")


def test_it_is_made(world: World) -> None:
    answer = create(world, form(world))

    made = Definition.objects.get(name="new")
    assert answer["Location"] == f"/definitions/{made.pk}/"
    assert (made.cron, made.time_zone, made.retention_count, made.active) == ("0 22 * * *", "Europe/Paris", 7, True)
    assert made.tenant == world.ours.tenant


def test_the_first_backup_at_once(world: World) -> None:
    with time_machine.travel("2026-01-15T12:00:00Z", tick=False):
        create(world, form(world, run_at_once="on"))

    assert f"{Definition.objects.get(name='new').next_run_at:%H:%M}" == "12:00"


@pytest.mark.parametrize("cron", [cron for cron in BAD_CRONS if cron])
def test_a_bad_schedule_comes_back_on_its_field_with_everything_typed(world: World, cron: str) -> None:
    answer = create(world, form(world, cron=cron))

    assert answer.status_code == 400
    assert answer.context["form"].errors.keys() == {"cron"}
    assert 'value="typed text"' in answer.content.decode()
    assert not Definition.objects.filter(name="new").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cron", ""),
        ("time_zone", "Mars/Olympus"),
        ("name", "-bad"),
        ("name", "x" * 17),
        ("retention_count", "-1"),
        ("retention_count", "65537"),
        ("retention_count", "9" * 30),
        ("immutable_days", "1"),
        ("bandwidth_limit", "1"),
        ("disk", "nonsense"),
        ("disk", ""),
    ],
)
def test_other_bad_fields(world: World, field: str, value: str) -> None:
    answer = create(world, form(world, **{field: value}))

    assert answer.status_code == 400
    assert answer.context["form"].errors
    assert not Definition.objects.filter(description="typed text").exists()


def test_a_name_that_is_taken(world: World) -> None:
    answer = create(world, form(world, name=world.ours.definition.name))

    assert "has a definition" in str(answer.context["form"].errors["name"])


def test_only_disks_where_one_may_create_are_offered_and_taken(world: World) -> None:
    client = world.client("admin_a")
    foreign = disk_of(world.theirs.server)

    offered = client.get("/definitions/new/").content.decode()
    answer = create(world, form(world, disk=str(foreign.pk)))

    assert str(foreign.pk) not in offered
    assert answer.status_code == 400
    assert "disk" in answer.context["form"].errors
    assert not Definition.objects.filter(name="new").exists()


def test_the_disk_of_the_page_before_is_chosen(world: World) -> None:
    disk = disk_of(world.ours.server)

    text = world.client("admin_a").get(f"/definitions/new/?disk={disk.pk}").content.decode()

    assert f'value="{disk.server.name} disk 1 ({disk.tenant.name})"' in text


def test_an_owner_creates_nothing(world: World) -> None:
    assert create(world, form(world), "owner_a1").status_code == 403
    assert not Definition.objects.filter(name="new").exists()


def test_it_is_changed_but_not_renamed(world: World) -> None:
    address = f"/definitions/{world.ours.definition.pk}/edit/"

    answer = world.client("admin_a").post(address, form(world, cron="15 3 * * *"), format="multipart")

    world.ours.definition.refresh_from_db()
    assert answer.status_code == 302
    assert (world.ours.definition.cron, world.ours.definition.name) == ("15 3 * * *", "def-a")


def test_a_bad_change_is_shown_and_not_kept(world: World) -> None:
    address = f"/definitions/{world.ours.definition.pk}/edit/"

    answer = world.client("admin_a").post(address, form(world, cron="99 * * * *"), format="multipart")

    world.ours.definition.refresh_from_db()
    assert answer.status_code == 400
    assert 'value="99 * * * *"' in answer.content.decode()
    assert world.ours.definition.cron == "0 22 * * *"


def test_deleting_asks_first_and_keeps_the_backups(world: World) -> None:
    client, address = world.client("admin_a"), f"/definitions/{world.ours.definition.pk}/delete/"

    asked = client.get(address)
    assert Definition.objects.filter(pk=world.ours.definition.pk).exists()
    client.post(address)

    assert "The backups that it made stay" in asked.content.decode()
    assert not Definition.objects.filter(pk=world.ours.definition.pk).exists()
    assert Backup.objects.filter(pk=world.ours.backup.pk).exists()


def test_the_preview_speaks_and_shows_runs_in_the_persons_zone(world: World) -> None:
    person = world.people["admin_a"]
    assert person is not None
    person.time_zone = "Asia/Kolkata"
    person.save()

    with time_machine.travel("2026-01-15T12:00:00Z", tick=False):
        text = (
            world.client("admin_a")
            .get("/definitions/preview/", {"cron": "0 22 * * *", "time_zone": "Europe/Paris"})
            .content.decode()
        )

    assert "At 22:00 every day" in text
    assert "Asia/Kolkata" in text
    assert "Fri 16 Jan 2026, 02:30" in text
    assert 'title="2026-01-15 21:00:00 UTC"' in text
    assert "<html" not in text


@pytest.mark.parametrize("cron", [cron for cron in BAD_CRONS if cron != "0 0 30 2 *"])
def test_the_preview_says_what_is_wrong(world: World, cron: str) -> None:
    answer = world.client("admin_a").get("/definitions/preview/", {"cron": cron, "time_zone": "UTC"})

    assert answer.status_code == 200
    assert 'role="alert"' in answer.content.decode()


def test_backup_now_leads_to_its_job(world: World) -> None:
    answer = world.client("admin_a").post(f"/definitions/{world.ours.definition.pk}/backup-now/")

    job = Job.objects.filter(kind="backup").latest("created_at")
    assert answer["Location"] == f"/jobs/{job.pk}/"
    assert job.requested_by == world.people["admin_a"]


@pytest.mark.parametrize("there", ["servers", "definitions"])
def test_what_forbids_backup_now_is_said_where_the_button_was(world: World, there: str) -> None:
    Vault.objects.update(status="refused", refusal="It cannot lock.")
    page = f"/{there}/{world.ours.object_of(there).pk}/"
    before = Job.objects.count()

    answer = world.client("admin_a").post(
        f"/definitions/{world.ours.definition.pk}/backup-now/", {"next": page}, format="multipart", follow=True
    )

    assert answer.redirect_chain == [(page, 302)]
    assert "It cannot lock." in answer.content.decode()
    assert Job.objects.count() == before


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/", "/\\evil.example"])
def test_the_way_back_leads_nowhere_else(world: World, target: str) -> None:
    Vault.objects.update(status="refused")

    answer = world.client("admin_a").post(
        f"/definitions/{world.ours.definition.pk}/backup-now/", {"next": target}, format="multipart"
    )

    assert answer["Location"] == f"/definitions/{world.ours.definition.pk}/"
