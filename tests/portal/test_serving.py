"""Serving a backup from its page; where it is served, and its end, on the job's."""

from __future__ import annotations

import pytest

from backups.models import Backup, Job
from tests.factories import make_job
from tests.worlds import World

pytestmark = pytest.mark.django_db


def page(world: World, who: str = "admin_a") -> str:
    return world.client(who).get(f"/backups/{world.ours.backup.pk}/").content.decode()


def test_it_is_asked_for_and_ended_on_the_page(world: World) -> None:
    assert 'id="serve"' in page(world)

    answer = world.client("admin_a").post(f"/backups/{world.ours.backup.pk}/serve/", {"hours": 2}, format="multipart")

    job = Job.objects.get(kind="serve")
    assert answer["location"] == f"/jobs/{job.pk}/" and job.serve_seconds == 7200
    Job.objects.filter(pk=job.pk).update(state="running", lease_until=job.created_at, message="Served at /run/x.")
    shown = world.client("admin_a").get(f"/jobs/{job.pk}/").content.decode()
    assert "Served at /run/x." in shown and 'id="cancel"' in shown


def test_wrong_hours_and_what_cannot_be_served_are_told(world: World) -> None:
    backup = world.ours.backup
    for hours, content in (("25", "disk"), ("", "disk"), ("2", "tree")):
        Backup.objects.filter(pk=backup.pk).update(content=content)
        order = {"hours": hours}
        answer = world.client("admin_a").post(f"/backups/{backup.pk}/serve/", order, follow=True, format="multipart")
        told = "holds no disk image" if content == "tree" else "1 to 24 hours"
        assert told in answer.content.decode()
    assert 'id="serve"' not in page(world)
    assert not Job.objects.filter(kind="serve").exists()


def test_an_owner_sees_that_it_is_served_and_cannot_serve_it(world: World) -> None:
    make_job(world.ours.server, kind="serve", backup=world.ours.backup, serve_seconds=60)

    assert 'id="serve"' not in page(world, "owner_a1")
    assert "serve" in world.client("owner_a1").get("/jobs/").content.decode()
