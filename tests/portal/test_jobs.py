"""Jobs in the portal: progress that renews itself, and canceling."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from agents.models import Disk, Node
from backups import watching
from backups.models import Backup, Job
from definitions.models import Definition
from tests.factories import GIB, make_job, make_person
from tests.worlds import World
from vaults.models import Vault

POLL = {"HTTP_HX_REQUEST": "true"}


def running(world: World, **changes: Any) -> Job:
    return make_job(world.ours.server, state="running", **changes)


def progress(world: World, job: Job, seen: str = "") -> Any:
    return world.client("owner_a1").get(f"/jobs/{job.pk}/progress/?seen={seen}", **POLL)


def test_the_page_shows_phase_bytes_rate_and_time_left(world: World) -> None:
    now = timezone.now()
    job, client = running(world, started_at=now - timedelta(seconds=10)), world.client("owner_a1")

    text = look(client, f"/jobs/{job.pk}/", now).content.decode()

    assert 'value="25"' in text
    assert "writing" in text
    assert "256 MiB" in text
    assert "25.6 MiB</span>/s" in text
    assert "about 30 s left" in text
    assert "requested" in text


def test_it_asks_again_every_two_seconds_while_it_runs(world: World) -> None:
    job = running(world)

    text = progress(world, job).content.decode()

    assert text.count('hx-trigger="every 2s"') == 1
    assert "<html" not in text


def test_the_last_answer_ends_the_asking(world: World) -> None:
    job = make_job(world.ours.server, state="failed", code="broken", message="The disk is gone.")

    answer = progress(world, job)

    assert answer.status_code == 286
    assert "hx-get" not in answer.content.decode()
    assert "The disk is gone." in answer.content.decode()


def test_nothing_is_sent_while_nothing_changes(world: World) -> None:
    job = running(world)
    seen = progress(world, job).context["seen"]

    unchanged = progress(world, job, seen)
    Job.objects.filter(pk=job.pk).update(done_bytes=GIB // 2)
    changed = progress(world, job, seen)

    assert (unchanged.status_code, unchanged.content) == (204, b"")
    assert changed.status_code == 200
    assert 'value="50"' in changed.content.decode()


def look(client: Any, address: str, now: datetime, **query: str) -> Any:
    with time_machine.travel(now, tick=False):
        return client.get(address, query, **(POLL if query else {}))


def row_of(text: str) -> str:
    """What the one job of a list does, without markup."""
    found = re.search(r'data-label="Progress"[^>]*>(.*?)</td>', text, re.DOTALL)
    assert found, text
    return " ".join(re.sub(r"<[^>]*>", "", found[1]).split())


@pytest.mark.parametrize("address", ["/", "/jobs/"])
def test_rows_say_phase_bytes_rate_and_time_left(world: World, address: str) -> None:
    now = timezone.now()
    job, client = running(world), world.client("owner_a1")
    Job.objects.filter(pk=job.pk).update(started_at=now - timedelta(seconds=8))

    text = row_of(look(client, address, now).content.decode())

    assert text == "writing · 25 % · 256 MiB of 1.0 GiB · 32.0 MiB/s · about 24 s left"


@pytest.mark.parametrize("address", ["/", "/jobs/"])
def test_rows_without_a_total_say_phase_and_bytes(world: World, address: str) -> None:
    now = timezone.now()
    job, client = running(world, total_bytes=0), world.client("owner_a1")
    Job.objects.filter(pk=job.pk).update(started_at=now - timedelta(seconds=8))

    text = row_of(look(client, address, now).content.decode())

    assert text == "writing · 256 MiB, the whole is not known yet · 32.0 MiB/s"


def test_a_row_that_waits_says_for_what(world: World) -> None:
    make_job(world.ours.server, state="pending", waits="another job works on this disk")

    text = world.client("owner_a1").get("/jobs/?state=pending").content.decode()

    assert row_of(text) == "waits: another job works on this disk"


@pytest.mark.parametrize("address", ["/", "/jobs/", "/jobs/<pk>/progress/"])
def test_a_page_left_open_says_when_nothing_moves_any_more(world: World, address: str) -> None:
    """It was answered with 204 and kept the rate for as long as the job stood still."""
    now, job, client = timezone.now(), running(world), world.client("owner_a1")
    address = address.replace("<pk>", str(job.pk))
    first = look(client, address, now, seen="none")
    assert "MiB</span>/s" in first.content.decode()

    soon = look(client, address, now + timedelta(seconds=10), seen=first.context["seen"])
    later = look(client, address, now + timedelta(seconds=40), seen=first.context["seen"])
    same = look(client, address, now + timedelta(seconds=42), seen=later.context["seen"])

    assert soon.status_code == 204
    assert "nothing has moved for 40 s" in later.content.decode()
    assert "</span>/s" not in later.content.decode()
    assert "left" not in later.content.decode()
    assert same.status_code == 204


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"kind": "serve", "phase": "serving", "total_bytes": 0, "done_bytes": 0}, "serving · 0 bytes read"),
        ({"phase": "checking", "total_bytes": 0}, "checking · 256 MiB, the whole is not known yet"),
        ({"phase": "checking", "done_bytes": GIB}, "checking · 100 % · 1.0 GiB of 1.0 GiB"),
    ],
)
def test_what_is_in_good_order_does_not_stand_still(world: World, changes: dict[str, Any], shown: str) -> None:
    now, job, client = timezone.now(), running(world), world.client("owner_a1")
    Job.objects.filter(pk=job.pk).update(**changes)
    look(client, "/jobs/", now)

    assert row_of(look(client, "/jobs/", now + timedelta(minutes=5)).content.decode()) == shown


@pytest.mark.parametrize("address", ["/jobs/", "/jobs/<pk>/progress/"])
def test_a_page_left_open_says_for_what_it_waits_now(world: World, address: str) -> None:
    job, client = make_job(world.ours.server, state="pending", waits="its turn"), world.client("owner_a1")
    address = address.replace("<pk>", str(job.pk))
    seen = client.get(address, {"seen": "none"}, **POLL).context["seen"]
    Job.objects.filter(pk=job.pk).update(waits="another job works on this disk")

    answer = client.get(address, {"seen": seen}, **POLL)

    assert answer.status_code == 200 and "another job works on this disk" in answer.content.decode()


def test_the_rate_is_that_of_what_moved_lately(world: World) -> None:
    now, job, client = timezone.now(), running(world, done_bytes=GIB // 2), world.client("owner_a1")
    look(client, "/jobs/", now)
    Job.objects.filter(pk=job.pk).update(done_bytes=GIB // 2 + 10 * 2**20)

    text = row_of(look(client, "/jobs/", now + timedelta(seconds=10)).content.decode())

    assert "1.0 MiB/s · about 8 min 22 s left" in text


def test_a_cache_that_is_away_costs_the_rate_of_late_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("away")

    running(world)
    monkeypatch.setattr(watching.cache, "get", refuse)
    monkeypatch.setattr(watching.cache, "set", refuse)

    assert "256 MiB of 1.0 GiB" in row_of(world.client("owner_a1").get("/jobs/").content.decode())


@pytest.mark.parametrize("address", ["/", "/jobs/", "/restores/"])
def test_lists_renew_themselves_in_one_fragment(world: World, address: str) -> None:
    job = running(world, kind="restore")
    client = world.client("owner_a1")

    page = client.get(address).content.decode()
    again = client.get(address, {"seen": client.get(address).context["seen"]}, **POLL)
    Job.objects.update(state="ok", lease_until=None)
    ended = client.get(address, {"seen": "old"}, **POLL)

    assert page.count("every 2s") == 1
    assert str(job.pk) in page
    assert again.status_code == 204
    # People leave pages open: they go on asking, seldom, and find what begins.
    assert ended.status_code == 200
    assert "every 20s" in ended.content.decode()
    assert "every 20s" in client.get(address).content.decode()
    assert "<html" not in ended.content.decode()


def test_a_filter_of_a_list_stays_while_it_renews(world: World) -> None:
    running(world)

    text = world.client("admin_a").get("/jobs/?state=running").content.decode()

    assert re.search(r'hx-get="/jobs/\?state=running&amp;seen=', text)


def test_who_may_cancels(world: World) -> None:
    job = running(world)
    client = world.client("admin_a")

    answer = client.post(f"/jobs/{job.pk}/cancel/")

    job.refresh_from_db()
    assert answer["Location"] == f"/jobs/{job.pk}/"
    assert job.cancel_requested
    assert "canceling" in client.get(f"/jobs/{job.pk}/").content.decode()


def test_what_ended_meanwhile_is_said_on_the_page(world: World) -> None:
    answer = world.client("admin_a").post(f"/jobs/{world.ours.restore.pk}/cancel/", follow=True)

    assert "The job has ended already." in answer.content.decode()


def concerns(world: World, name: str = "admin_a") -> list[str]:
    """Without the alarm that each tenant of the world has; those have tests of their own (test_reports)."""
    found = [concern.title for concern in world.client(name).get("/").context["concerns"]]
    return [title for title in found if title != "Critical: damaged objects"]


def test_all_is_well(world: World) -> None:
    assert concerns(world) == []


def test_what_needs_a_person_is_on_the_first_page(world: World) -> None:
    make_job(world.ours.server, state="failed", message="The disk is gone.")
    Disk.objects.filter(server=world.ours.server).update(incomplete_since=timezone.now())
    Backup.objects.filter(pk=world.ours.backup.pk).update(status="lost")
    Definition.objects.filter(pk=world.ours.definition.pk).update(next_run_at=timezone.now() - timedelta(hours=1))
    Vault.objects.filter(tenant=world.ours.tenant).update(status="refused")
    Node.objects.filter(pk=world.ours.node.pk).update(status="offline")

    assert concerns(world) == [
        "Backup failed",
        "Restore not finished",
        "Backup lost",
        "Backup overdue",
        "Vault refused",
        "Node offline",
    ]
    assert concerns(world, "admin_b") == []
    assert concerns(world, "owner_a2") == []
    assert "Vault refused" not in concerns(world, "owner_a1")


def test_a_failure_that_a_later_success_answered_needs_nobody(world: World) -> None:
    make_job(world.ours.server, state="failed")
    make_job(world.ours.server, state="ok")

    assert concerns(world) == []


def test_the_next_step_for_each(world: World) -> None:
    world.people["nobody"] = make_person("nobody")

    assert "An administrator adds the servers" in world.client("nobody").get("/").content.decode()
    assert "An administrator of the tenant makes" in world.client("owner_a2").get("/").content.decode()
    Definition.objects.all().delete()
    assert "Make the first definition" in world.client("admin_a").get("/").content.decode()


def test_a_list_of_jobs_is_ordered_by_its_headings_and_the_overview_is_not(world: World) -> None:
    """Where few are found; the rows that renew themselves have the same headings."""
    running(world)
    client = world.client("owner_a1")

    listed, again = client.get("/jobs/").text, client.get("/jobs/", {"seen": "old"}, **POLL).text

    for text in (listed, again):
        head = text[text.index("<thead>") : text.index("</thead>")]
        for title in ("Job", "Disk", "State", "Asked for", "Ended"):
            assert re.search(rf"<a [^>]*>\s*{title}", head), title
    first = client.get("/").text
    assert "sort=" not in first[first.index("Running and waiting") : first.index("Last backups")]
