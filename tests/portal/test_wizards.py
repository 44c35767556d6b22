"""Long ways in the portal: the timeline of a server, a restore in steps, help with schedules, moving on a node."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from backups.models import Backup, Job, VaultFigures
from backups.states import JobKind, JobState
from backups.timeline import Point, days_of, open_slots
from definitions.models import Definition, SpreadAct
from definitions.promised import Era
from tests.factories import disk_of, make_backup, make_definition, make_job, make_region
from tests.worlds import World
from vaults.lock_ends import lock_weeks
from vaults.models import Region

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def text_of(world: World, name: str, address: str) -> str:
    answer = world.client(name).get(address)
    assert answer.status_code == 200, answer.status_code
    return str(answer.content.decode())


def point(hours_ago: float, *, kept: bool = True, health: str = "verified") -> Point:
    at = NOON - timedelta(hours=hours_ago)
    return Point(disk_key, f"p{hours_ago}", at, "ok", health, kept, at)


disk_key = Definition().pk


def test_days_show_the_worst_of_their_points_and_what_is_missing() -> None:
    points = [point(1), point(2, health="missing"), point(30), point(54, kept=False)]
    gaps = [NOON - timedelta(hours=31), NOON - timedelta(hours=80)]

    days = days_of(points, gaps, now=NOON, zone=UTC)

    assert len(days) == 30
    assert [day.mark for day in days[-5:]] == ["none", "gap", "removed", "partly", "lost"]
    assert days[-1].sentence == "1 lost, 1 verified"
    assert days[-2].sentence == "1 verified, 1 promised and not made"


@pytest.mark.parametrize(
    ("made_hours_ago", "missing"),
    [((), 3), ((13.9, 37.9, 61.9), 0), ((13.9, 61.9), 1), ((1,), 2), ((20,), 2)],
    ids=["none", "all", "one lost", "late by half a day", "belongs to the slot before"],
)
def test_a_slot_without_a_backup_until_the_next_one_is_a_gap(made_hours_ago: tuple[float, ...], missing: int) -> None:
    eras = [Era("0 22 * * *", "UTC", active=True, begin=NOON - timedelta(days=3))]
    points = [point(ago, kept=False) for ago in made_hours_ago]

    assert len(open_slots(eras, points, since=NOON - timedelta(days=30), now=NOON)) == missing


def test_a_server_has_a_line_of_days_for_each_disk_and_a_day_names_its_points(world: World) -> None:
    server, now = world.ours.server, timezone.now()
    Definition.objects.filter(pk=world.ours.definition.pk).update(
        created_at=now - timedelta(days=4), cron="0 * * * *", time_zone="UTC"
    )
    damaged = make_backup(server, definition=world.ours.definition, health="damaged")
    Backup.objects.filter(pk=damaged.pk).update(created_at=now - timedelta(days=2))
    on = f"{now - timedelta(days=2):%Y-%m-%d}"
    number = disk_of(server).number

    page = text_of(world, "owner_a1", f"/servers/{server.pk}/?disk={number}&day={on}")
    odd = text_of(world, "owner_a1", f"/servers/{server.pk}/?disk=x&day=2026-13-40")

    assert "promised runs without a backup" in page and "was promised, and no backup was made" in page
    assert f'<a href="/backups/{damaged.pk}/">' in page and "1 damaged" in page
    assert 'id="points"' not in odd
    assert f"/servers/{server.pk}/restore/" not in page
    assert f"/servers/{server.pk}/restore/" in text_of(world, "admin_a", f"/servers/{server.pk}/")


def test_a_restore_leads_from_the_point_to_the_job_and_back(world: World) -> None:
    backup, server = world.ours.backup, world.ours.server
    client, restore = world.client("admin_a"), f"/backups/{backup.pk}/restore/"

    source = client.get(f"/servers/{server.pk}/restore/").content.decode()
    target = client.get(restore).content.decode()
    lost = client.get(f"{restore}?target={backup.disk_id}").content.decode()
    data = {"target": str(backup.disk_id), "confirmation": server.name}
    job = client.get(client.post(restore, data, format="multipart")["Location"]).content.decode()

    assert restore in source
    assert f"/servers/{server.pk}/restore/?disk={backup.disk_number}&amp;day=" in target
    assert f"{restore}?chosen={backup.disk_id}" in lost
    for number, page in enumerate((source, target, lost, job)):
        assert page.count('aria-current="step"') == 1
        name = ("Source", "Target", "What is lost", "Progress")[number]
        assert f'<li aria-current="step">{name}' in page


def test_what_was_typed_about_files_is_there_after_another_target_was_chosen(world: World) -> None:
    backup = world.ours.backup
    Backup.objects.filter(pk=backup.pk).update(content="tree")
    disk = disk_of(world.ours.server)
    type(disk).objects.filter(pk=disk.pk).update(driver="filesystem")
    client, address = world.client("admin_a"), f"/backups/{backup.pk}/restore/"
    typed = {"target": str(disk.pk), "place": "over", "paths": "etc/hosts\nsrv", "confirmation": "half"}

    again = client.post(address, {**typed, "step": "target"}, format="multipart").content.decode()
    back = client.post(address, {**typed, "step": "confirm"}, format="multipart").content.decode()

    assert 'name="paths" value="etc/hosts\nsrv"' in again and "half" not in again
    assert "etc/hosts\nsrv</textarea>" in back and re.search('value="over"[^>]* checked', back)
    assert 'value="exact"' in back
    type(disk).objects.filter(pk=disk.pk).update(driver="host")
    assert 'value="exact"' not in client.get(f"{address}?target={disk.pk}").content.decode()
    assert not Job.objects.filter(kind=JobKind.RESTORE, backup=backup).exclude(pk=world.ours.restore.pk).exists()


def test_a_finished_job_says_the_next_step_and_what_is_read_out(world: World) -> None:
    server = world.ours.server
    well = make_job(server, kind=JobKind.RESTORE, state=JobState.OK, backup=world.ours.backup)
    failed = make_job(server, kind=JobKind.RESTORE, state=JobState.FAILED, backup=world.ours.backup)

    assert "Start the server" in text_of(world, "owner_a1", f"/jobs/{well.pk}/")
    assert "Restore again" in text_of(world, "admin_a", f"/jobs/{failed.pk}/")
    assert "Restore again" not in text_of(world, "owner_a1", f"/jobs/{failed.pk}/")
    polled = world.client("owner_a1").get(f"/jobs/{failed.pk}/progress/", headers={"HX-Request": "true"})
    assert polled.status_code == 286 and 'hx-swap-oob="innerHTML:#said"' in polled.content.decode()


@pytest.mark.parametrize(
    ("often", "at", "cron"),
    [
        ("hourly", "03:20", "20 * * * *"),
        ("six-hours", "22:05", "5 4,10,16,22 * * *"),
        ("weekdays", "07:00", "0 7 * * 1-5"),
        ("weekly", "x", "0 22 * * 0"),
        ("monthly", "00:00", "0 0 1 * *"),
    ],
)
def test_help_fills_in_the_schedule_with_its_next_runs(world: World, often: str, at: str, cron: str) -> None:
    page = text_of(world, "admin_a", f"/definitions/preview/?often={often}&at={at}&time_zone=Europe/Paris")

    assert f'value="{cron}"' in page and page.count("<time") == 10


def test_help_without_scripts_keeps_all_that_was_typed_and_makes_nothing(world: World) -> None:
    before = Definition.objects.count()
    typed = {"disk": str(disk_of(world.ours.server).pk), "name": "mine", "description": "why", "time_zone": "UTC"}

    answer = world.client("admin_a").post(
        "/definitions/new/", {**typed, "help": "1", "often": "weekdays", "at": "05:10"}, format="multipart"
    )

    page = answer.content.decode()
    assert answer.status_code == 200 and Definition.objects.count() == before
    assert all(f'value="{text}"' in page for text in ("10 5 * * 1-5", "mine", "why"))
    assert not re.search('name="active"[^>]* checked', page)


def test_what_cannot_be_chosen_for_the_disk_is_there_with_the_reason(world: World) -> None:
    disk = disk_of(world.ours.server)
    address = f"/definitions/places/?disk={disk.pk}&type=dataset"

    page = text_of(world, "admin_a", address)
    foreign = text_of(world, "admin_b", address)

    assert '<option value="dataset" disabled>' in page and '<option value="vault" selected>' in page
    assert "Only disks on ZFS are sent as datasets" in page and "The disk lies on it" in page
    assert "cannot be chosen" not in foreign and str(disk.storage) not in foreign


def move(world: World, name: str, chosen: list[Definition], to: Any) -> Any:
    address = f"/definitions/load/move/?node={world.ours.node.pk}&hour=22"
    data = {"definition": [str(one.pk) for one in chosen], "to": to}
    return world.client(name).post(address, data, format="multipart")


def test_definitions_are_moved_to_an_hour_and_taken_back(world: World) -> None:
    server = world.ours.server
    rows = [make_definition(server, name=f"m{n}", cron="30 22 * * *", time_zone="Asia/Kolkata") for n in range(3)]
    crons = Definition.objects.filter(pk__in=[one.pk for one in rows]).order_by("name").values_list("cron", flat=True)

    address = f"/definitions/load/move/?node={server.node.pk}&hour=22"
    data = {"definition": [str(one.pk) for one in rows[:2]], "to": 9, "look": "1"}
    looked = world.client("admin_a").post(address, data, format="multipart").content.decode()
    assert "Move 2 definitions" in looked and "afterwards" in looked and not SpreadAct.objects.exists()

    answer = move(world, "admin_a", rows[:2], 9)
    moved = list(crons.all())
    load = world.client("admin_a").get("/definitions/load/")
    act = SpreadAct.objects.get()
    world.client("admin_a").post("/definitions/load/", {"undo": str(act.pk)}, format="multipart")

    assert answer.status_code == 302 and answer["Location"] == "/definitions/load/"
    # 9:00 UTC is 14:30 in Kolkata.
    clocks = [cron.split()[:2] for cron in moved]
    assert all(14 * 60 + 30 <= int(hour) * 60 + int(minute) < 15 * 60 + 30 for minute, hour in clocks[:2])
    assert clocks[0] != clocks[1] and moved[2] == "30 22 * * *"
    assert "Take back what was spread" in load.content.decode()
    assert list(crons.all()) == ["30 22 * * *"] * 3


def test_what_may_not_be_moved_stays(world: World) -> None:
    mine, theirs = world.ours.definition, world.theirs.definition
    Definition.objects.filter(pk=mine.pk).update(policy=world.ours.policy, time_zone=world.ours.policy.time_zone)
    before = list(Definition.objects.order_by("pk").values_list("cron", flat=True))

    outside = move(world, "admin_a", [mine], 12)
    foreign, nobody = move(world, "admin_a", [theirs], 3), move(world, "admin_b", [mine], 3)
    owner, odd = move(world, "owner_a1", [mine], 3), move(world, "admin_a", [mine], "99")

    assert [foreign.status_code, nobody.status_code, owner.status_code, odd.status_code] == [404, 404, 404, 302]
    assert "window of the policy" in json.dumps([str(one) for one in outside.wsgi_request._messages])
    assert list(Definition.objects.order_by("pk").values_list("cron", flat=True)) == before
    assert not SpreadAct.objects.exists()

    # Within the window, but the provider's to move.
    type(world.ours.policy).objects.filter(pk=world.ours.policy.pk).update(restricted=True)
    move(world, "admin_a", [mine], 0)
    assert not SpreadAct.objects.exists()
    move(world, "super", [mine], 0)
    assert SpreadAct.objects.count() == 1


def test_the_end_of_locks_by_week_and_what_stays_locked() -> None:
    today = date(2026, 11, 18)
    tail = [("2026-11-17", 9), ("2026-11-18", 1), ("2026-11-22", 2), ("2026-11-23", 4), ("2027-02-01", 8)]
    many = [((today + timedelta(weeks=week)).isoformat(), 1) for week in range(60)]

    found = lock_weeks(tail, today=today)
    weeks = lock_weeks(many, today=today)

    assert [(week.first.isoformat(), week.ending_bytes, week.left_bytes) for week in found] == [
        ("2026-11-16", 3, 12),
        ("2026-11-23", 4, 8),
        ("2027-02-01", 8, 0),
    ]
    assert len(weeks) == 26 and (weeks[-1].ending_bytes, weeks[-1].left_bytes) == (35, 0)
    assert weeks[-1].until == today + timedelta(weeks=59)


def test_a_vault_shows_each_call_of_its_probe_what_it_holds_and_the_ends_of_its_locks(world: World) -> None:
    vault, now = world.ours.vault, timezone.now()
    calls = [
        {"check": "lock kept", "result": "ok", "note": ""},
        {"check": "ranges", "result": "failed", "note": "no 206"},
    ]
    type(vault).objects.filter(pk=vault.pk).update(probe_report=calls, probed_at=now)
    tail = [[f"{now + timedelta(days=9):%Y-%m-%d}", 3 << 30]]
    VaultFigures.objects.create(
        vault=vault,
        counted_at=now,
        backup_count=2,
        violation_count=0,
        ending_count=0,
        stored_bytes=5 << 30,
        lock_tail=tail,
    )

    page = text_of(world, "admin_a", f"/vaults/{vault.pk}/")
    bare = text_of(world, "super", f"/vaults/{world.theirs.vault.pk}/")

    assert "ranges: no 206" in page and "lock kept" in page
    assert all(f'title="{size << 30:,} bytes"' in page for size in (3, 5))
    assert "It was not probed yet." in bare and bare.count("Not counted yet") == 2


def test_an_order_says_where_the_vault_will_be(world: World) -> None:
    make_region("RBX", vault_code="GRA")
    Region.objects.filter(pk="GRA").update(title="Gravelines")

    assert "RBX → vault in GRA (Gravelines)" in text_of(world, "super", "/orders/new/").replace("RBX (RBX)", "RBX")
