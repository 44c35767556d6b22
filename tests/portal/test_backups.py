"""Backups in the portal: notes, deletion, and the restore that asks twice."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents.models import Server
from backups.models import Backup, Job
from backups.states import JobKind
from tests.factories import disk_of, make_backup, make_disk, make_job, make_server
from tests.worlds import World


def restores() -> int:
    return Job.objects.filter(kind=JobKind.RESTORE).count()


def page(world: World) -> str:
    return f"/backups/{world.ours.backup.pk}/"


def test_the_page_of_a_backup_has_all_facts(world: World) -> None:
    text = world.client("owner_a1").get(page(world)).content.decode()

    for fact in (world.ours.backup.checksum, "1 min 15 s", "Immutable until", 'title="1,073,741,824 bytes"', "1.0 GiB"):
        assert fact in text
    assert "file system was frozen" in text


def test_a_note_is_kept(world: World) -> None:
    answer = world.client("admin_a").post(page(world) + "note/", {"note": "before the upgrade"}, format="multipart")

    world.ours.backup.refresh_from_db()
    assert answer["Location"] == page(world)
    assert world.ours.backup.note == "before the upgrade"


def test_a_note_that_is_too_long_comes_back_with_what_was_typed(world: World) -> None:
    typed = "long " * 60

    answer = world.client("admin_a").post(page(world) + "note/", {"note": typed}, format="multipart")

    world.ours.backup.refresh_from_db()
    assert answer.status_code == 400
    assert typed.strip() in answer.content.decode()
    assert "at most 255 characters" in answer.content.decode()
    assert world.ours.backup.note == ""


def test_deleting_asks_first(world: World) -> None:
    client = world.client("admin_a")

    asked = client.get(page(world) + "delete/").content.decode()
    assert not Backup.objects.get(pk=world.ours.backup.pk).removed_at
    client.post(page(world) + "delete/")

    assert "cannot be restored from here any more" in asked
    assert Backup.objects.get(pk=world.ours.backup.pk).removed_at
    link = f'href="{page(world)}"'
    assert link not in client.get("/backups/").content.decode()
    assert link in client.get("/backups/?removed=true").content.decode()


def test_one_in_use_is_not_deleted_and_the_page_says_why(world: World) -> None:
    Backup.objects.update(status="restore")

    answer = world.client("admin_a").post(page(world) + "delete/")

    assert answer.status_code == 400
    assert "is in use" in answer.content.decode()
    assert not Backup.objects.get(pk=world.ours.backup.pk).removed_at


def test_a_pending_backup_offers_no_restore(world: World) -> None:
    pending = make_backup(world.ours.server, status="pending")

    text = world.client("admin_a").get(f"/backups/{pending.pk}/").content.decode()

    assert ">Restore<" not in text
    assert ">Delete<" not in text


def choose(world: World, name: str = "admin_a", query: str = "") -> Any:
    return world.client(name).get(page(world) + "restore/" + query)


def test_the_targets_are_those_where_one_may_restore_the_nearest_first(world: World) -> None:
    shown = [disk for disk, _ in choose(world).context["choices"]]

    assert shown == [disk_of(world.ours.server), disk_of(world.ours.other_server)]
    assert len(choose(world, "super").context["choices"]) == 4


def test_one_that_is_too_small_is_listed_disabled_with_the_reason(world: World) -> None:
    small = make_disk(world.ours.other_server, size_bytes=5)

    text = choose(world).content.decode()

    assert f'value="{small.pk}" disabled aria-describedby="why-{small.pk}"' in " ".join(text.split())
    assert "the backup needs 1073741824" in text


def test_targets_are_searched(world: World) -> None:
    assert [str(disk) for disk, _ in choose(world, query="?q=a-2").context["choices"]] == ["server-a-2 disk 1"]
    assert choose(world, query="?q=server-b").context["choices"] == []


def test_many_targets_need_no_more_queries(world: World, django_assert_num_queries: Any) -> None:
    client, address = world.client("admin_a"), page(world) + "restore/"
    with CaptureQueriesContext(connection) as few:
        client.get(address)
    for _ in range(10):
        make_server(world.ours.tenant)

    with django_assert_num_queries(len(few)):
        client.get(address)
    assert len(few) <= 17


def confirm(world: World, *, name: str = "admin_a", server: Any = None, typed: str | None = None) -> Any:
    server = server or world.ours.other_server
    data = {"target": str(disk_of(server).pk), "confirmation": server.name if typed is None else typed}
    return world.client(name).post(page(world) + "restore/", data, format="multipart")


def test_the_second_page_says_in_words_what_is_lost(world: World) -> None:
    target = disk_of(world.ours.other_server)

    text = choose(world, query=f"?target={target.pk}").content.decode()

    assert "Restoring destroys all data and all snapshots on server-a-2 disk 1." in text
    assert "There is no good backup of server-a-2 disk 1" in text
    assert "type the name of the target server: <strong>server-a-2</strong>" in text


def test_a_typed_name_starts_the_restore(world: World) -> None:
    answer = confirm(world)

    job = Job.objects.filter(kind=JobKind.RESTORE).latest("created_at")
    assert answer["Location"] == f"/jobs/{job.pk}/"
    assert (job.disk, job.backup, job.requested_by) == (
        disk_of(world.ours.other_server),
        world.ours.backup,
        world.people["admin_a"],
    )


@pytest.mark.parametrize("typed", ["", "wrong", "server-a-1", "SERVER-A-2"])
def test_a_wrong_name_is_said_on_the_page_and_writes_nothing(world: World, typed: str) -> None:
    before = restores()

    answer = confirm(world, typed=typed)

    text = answer.content.decode()
    assert answer.status_code == 400
    assert answer.context["form"].errors.keys() == {"confirmation"}
    assert not typed or f'value="{typed}"' in text
    at_field = text.partition('id="id_confirmation_error"')[2].partition("</div>")[0]
    assert ("What was typed is another name." in at_field) is bool(typed)
    assert "To confirm, type the name of its server: server-a-2" in at_field
    assert restores() == before


def test_a_target_of_another_tenant_does_not_exist(world: World) -> None:
    before = restores()
    target = disk_of(world.theirs.server)

    assert choose(world, query=f"?target={target.pk}").status_code == 404
    assert confirm(world, server=world.theirs.server).status_code == 404
    assert choose(world, query="?target=nonsense").status_code == 404
    assert restores() == before


def test_a_target_that_is_too_small_is_refused_on_the_page(world: World) -> None:
    small = make_server(world.ours.tenant, name="small", size_bytes=5)
    before = restores()

    answer = confirm(world, server=small)

    assert answer.status_code == 400
    assert "Choose a larger disk" in answer.content.decode()
    assert "Destroy and restore" not in answer.content.decode()
    assert restores() == before


def test_a_restore_under_way_is_said(world: World) -> None:
    make_job(world.ours.other_server, kind=JobKind.RESTORE)

    assert "is under way already" in confirm(world).content.decode()


def test_a_removed_backup_is_not_restored(world: World) -> None:
    Backup.objects.update(removed_at=timezone.now())

    assert "cannot be restored: it is removed" in confirm(world).content.decode()


@pytest.mark.case("IN-08")
@pytest.mark.parametrize(
    "path", ["backups/", "backups/<pk>/", "definitions/", "definitions/<pk>/", "servers/<pk>/", ""]
)
def test_names_and_notes_are_escaped(world: World, path: str) -> None:
    evil = "<script>alert(1)</script>"
    Backup.objects.update(note=evil, server_name=evil)
    world.ours.definition.description = evil
    world.ours.definition.save()
    world.ours.server.name = evil
    world.ours.server.save()
    world.ours.tenant.title = evil
    world.ours.tenant.save()
    key = world.ours.object_of(path.split("/")[0]).pk if "<pk>" in path else ""

    text = world.client("admin_a").get("/" + path.replace("<pk>", str(key))).content.decode()

    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_times_are_in_the_persons_zone_with_utc_in_the_title(world: World) -> None:
    person = world.people["admin_a"]
    assert person is not None
    person.time_zone = "Asia/Kolkata"
    person.save()
    Backup.objects.update(created_at=datetime(2026, 1, 15, 12, 0, tzinfo=UTC))

    text = world.client("admin_a").get(page(world)).content.decode()

    assert '<time datetime="2026-01-15T12:00:00Z" title="2026-01-15 12:00:00 UTC">15 Jan 2026, 17:30</time>' in text
    assert "Times are shown in Asia/Kolkata" in text


def test_filters_stay_in_the_address_of_the_next_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenants.listing.ROWS_PER_PAGE", 1)
    make_backup(world.ours.server)

    text = world.client("admin_a").get(f"/backups/?status=ok&server={world.ours.server.pk}").content.decode()

    (following,) = re.findall(r'rel="next" href="([^"]*)"', text)
    assert "status=ok" in following and f"server={world.ours.server.pk}" in following and "cursor=" in following


# --- who has lost everything ------------------------------------------------------------------------------------------


def main_text(world: World, name: str, address: str) -> str:
    answer = world.client(name).get(address)
    assert answer.status_code == 200
    return answer.content.decode().partition("<main")[2]


def test_the_page_says_how_to_get_it_back(world: World) -> None:
    owner, admin = main_text(world, "owner_a1", page(world)), main_text(world, "admin_a", page(world))

    assert f"Give him its name: <strong>{world.ours.backup.name}</strong>" in owner
    assert f'{page(world)}restore/"' not in owner and 'href="#serve"' not in owner
    assert f'<a href="{page(world)}restore/">Restore it</a>' in admin and "Give him" not in admin
    assert 'href="#serve"' in admin and 'id="serve"' in admin


@pytest.mark.parametrize("name", ["owner_a1", "admin_a"])
def test_of_a_server_with_an_agent_it_has_the_line_to_type_there(world: World, name: str) -> None:
    Server.objects.filter(pk=world.ours.server.pk).update(node=None)
    Backup.objects.filter(pk=world.ours.backup.pk).update(content="tree")

    text = main_text(world, name, page(world))

    assert f"backupsite-agent restore {world.ours.backup.pk} --to /restored" in text
    assert "--path PATH" in text and "If the machine is lost" in text
    enrolling = f"/servers/{world.ours.server.pk}/enrol/"
    assert (enrolling in text) is (name == "admin_a")


def test_one_that_is_lost_leads_to_good_ones(world: World) -> None:
    Backup.objects.filter(pk=world.ours.backup.pk).update(status="lost")

    text = main_text(world, "owner_a1", page(world))

    assert "It cannot be restored" in text and "How to get it back" not in text
    assert f"/backups/?server={world.ours.server.pk}&amp;status=ok" in text


def test_the_list_of_restores_says_where_one_begins(world: World) -> None:
    text = main_text(world, "owner_a1", "/restores/")

    assert "A restore begins on the page of a" in text and 'href="/servers/"' in text
