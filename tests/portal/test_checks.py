"""Checks with keys in the portal: the button, the bar that renews itself, and canceling."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from backups.models import Backup, Job
from tests.factories import GIB, make_job
from tests.worlds import World

POLL = {"HTTP_HX_REQUEST": "true"}


def check(world: World, **changes: Any) -> Job:
    return make_job(world.ours.server, kind="verify", backup=world.ours.backup, **changes)


def page(world: World, name: str = "admin_a") -> str:
    text: str = world.client(name).get(f"/backups/{world.ours.backup.pk}/").content.decode()
    return text


def progress(world: World, seen: str = "") -> Any:
    return world.client("owner_a1").get(f"/backups/{world.ours.backup.pk}/check/?seen={seen}", **POLL)


def test_the_button_asks_for_a_check_and_shows_it(world: World) -> None:
    assert 'id="verify"' in page(world)

    answer = world.client("admin_a").post(f"/backups/{world.ours.backup.pk}/verify/")

    [job] = Job.objects.filter(kind="verify")
    assert (answer.status_code, answer.headers["Location"]) == (302, f"/backups/{world.ours.backup.pk}/")
    assert (job.backup, job.requested_by, job.state) == (world.ours.backup, world.people["admin_a"], "pending")
    text = page(world)
    assert 'id="verify"' not in text and 'id="cancel-check"' in text
    assert "waits for a worker" in text


def test_the_bar_runs_on_the_page_of_the_backup(world: World) -> None:
    check(world, state="running", phase="reading", done_bytes=GIB // 4, total_bytes=GIB)

    text = progress(world).content.decode()

    assert 'value="25"' in text and "reading" in text and "256 MiB" in text
    assert 'hx-trigger="every 2s"' in text and "<html" not in text


def test_an_answer_that_says_nothing_new_is_empty(world: World) -> None:
    job = check(world, state="running")
    seen = progress(world).context["seen"]

    assert progress(world, seen).status_code == 204
    Job.objects.filter(pk=job.pk).update(done_bytes=GIB // 2)
    assert progress(world, seen).status_code == 200


def test_the_last_answer_ends_the_asking_and_says_what_came_of_it(world: World) -> None:
    check(world, state="failed", code="backup_damaged", message="9000 bytes do not open.")

    answer = progress(world)

    assert answer.status_code == 286
    assert "hx-get" not in answer.content.decode()
    assert "9000 bytes do not open." in answer.content.decode()
    assert 'id="verify"' in page(world)


def test_only_who_may_run_and_cancel_sees_the_buttons(world: World) -> None:
    assert 'id="verify"' not in page(world, "owner_a1")

    check(world)

    assert 'id="cancel-check"' not in page(world, "owner_a1")


@pytest.mark.parametrize("changes", [{"status": "lost"}, {"removed_at": timezone.now()}])
def test_a_backup_that_is_not_good_has_no_button(world: World, changes: dict[str, Any]) -> None:
    Backup.objects.filter(pk=world.ours.backup.pk).update(**changes)

    assert 'id="verify"' not in page(world)
    answer = world.client("admin_a").post(f"/backups/{world.ours.backup.pk}/verify/")
    assert answer.status_code == 302 and not Job.objects.filter(kind="verify").exists()


def test_the_check_of_a_backup_whose_disk_is_gone_is_shown_everywhere(world: World) -> None:
    job = check(world)
    Job.objects.filter(pk=job.pk).update(disk=None, node=None)
    client = world.client("admin_a")

    for address in ("/", "/jobs/", f"/jobs/{job.pk}/", f"/backups/{world.ours.backup.pk}/"):
        answer = client.get(address)
        assert answer.status_code == 200 and "None" not in answer.content.decode()


def test_a_failed_check_needs_a_person_until_one_of_the_same_backup_succeeds(world: World) -> None:
    job = check(world, state="failed", code="store_unavailable", message="The vault does not answer.")
    Job.objects.filter(pk=job.pk).update(disk=None, node=None)
    client = world.client("admin_a")
    assert "The vault does not answer." in client.get("/").content.decode()

    later = check(world, state="ok")
    Job.objects.filter(pk=later.pk).update(created_at=timezone.now() + timedelta(minutes=1))

    assert "The vault does not answer." not in client.get("/").content.decode()


def test_damage_that_a_check_found_is_named_once(world: World) -> None:
    check(world, state="failed", code="backup_damaged", message="9000 bytes do not open.")
    Backup.objects.filter(pk=world.ours.backup.pk).update(health="damaged", damage=[[0, 9000]], damaged_bytes=9000)

    text = world.client("admin_a").get("/").content.decode()

    assert "Backup damaged" in text and "Verify failed" not in text
