"""The first page: its figures against a count by hand for each role, kept or live, and what each role is shown."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from agents.models import Server
from backups import days, lock_tails
from backups.alerting import look_at_due
from backups.days import Day, count_days, days_of, shown_days
from backups.figures import count_tenant, totals_of
from backups.lock_coverage import check_locks
from backups.lock_tails import tail_of
from backups.models import Backup, DayFigures, DefinitionStanding, Job
from backups.server_states import ServerState, in_state
from backups.timeline import timelines_of
from backupsite.templatetags.menu import DIRECT, GROUPS, PERSONAL, every_page
from definitions.models import BlackoutWindow, Definition, DefinitionPause, EarlierSchedule
from tenants.models import Person, Tenant
from tests.factories import GIB, make_backup, make_definition, make_job, make_manifest, make_person, make_server
from tests.signing_in import sign_in
from tests.worlds import World
from vaults.models import Domain, StoredObject, Vault

NOW = datetime(2026, 11, 20, 12, 34, tzinfo=UTC)
ROLES = ("super", "admin_a", "admin_b", "owner_a1", "owner_a2", "both")


@pytest.fixture
def fleet(world: World) -> World:
    """Some weeks of jobs and objects, drawn by lot; `both` administers one tenant and owns a server of the other."""
    lot = random.Random(7)
    world.people["both"] = make_person("both", administers=[world.theirs.tenant], owns=[world.ours.server])
    Job.objects.all().delete()
    for server in Server.objects.order_by("name"):
        domain = Domain.objects.create(
            tenant=server.tenant,
            vault=Vault.objects.get(tenant=server.tenant),
            wrapped_id_key=b"x",
            wrapped_map_key=b"x",
        )
        Server.objects.filter(pk=server.pk).update(domain=domain)
        for _ in range(12):
            _job(server, at=_before(lot), state=lot.choice(["ok", "ok", "failed", "canceled", "running"]), lot=lot)
            _object(domain, lot)
    return world


def _before(lot: random.Random) -> datetime:
    return NOW - timedelta(minutes=lot.randrange(0, 40 * 24 * 60))


def _job(server: Server, *, at: datetime, state: str, lot: random.Random) -> None:
    """One in three failures was tried again."""
    if state == "running" and server.disks.filter(jobs__state="running").exists():
        state = "pending"
    first = make_job(server, state=state)
    Job.objects.filter(pk=first.pk).update(created_at=at)
    if state == "failed" and lot.random() < 0.3:
        second = make_job(server, state=lot.choice(["ok", "failed"]), retry_of=first)
        Job.objects.filter(pk=second.pk).update(created_at=min(at + timedelta(hours=1), NOW))


def _object(domain: Domain, lot: random.Random) -> None:
    status = lot.choice(["granted", "stored", "condemned", "deleted", "never"])
    granted_at = _before(lot)
    deleted_at = min(granted_at + timedelta(days=lot.randrange(9)), NOW)
    StoredObject.objects.filter(pk=make_manifest(domain.vault).pk).update(
        domain=domain,
        size_bytes=lot.randrange(10**9),
        granted_at=granted_at,
        retain_until=NOW + timedelta(days=lot.randrange(-60, 200), hours=lot.randrange(24)),
        status="deleted" if status == "never" else status,
        deleted_at=deleted_at if status in {"deleted", "never"} else None,
        version_id="" if status in {"granted", "never"} else "1",
        condemned_epoch=1,
    )


def _seen(world: World, name: str) -> set[Any]:
    """Said once more, by hand: which servers each sees."""
    ours, theirs = world.ours, world.theirs
    mine = {ours.server.pk, ours.other_server.pk}
    others = {theirs.server.pk, theirs.other_server.pk}
    return {
        "super": mine | others,
        "admin_a": mine,
        "admin_b": others,
        "owner_a1": {ours.server.pk},
        "owner_a2": {ours.other_server.pk},
        "both": others | {ours.server.pk},
    }[name]


def _by_hand(servers: set[Any], zone: ZoneInfo) -> list[Day]:
    """Row by row, without the database's help. Objects of no server are from the fixture's own world: of today."""
    good, failed, sizes = Counter[date](), Counter[date](), Counter[date]()
    for job in Job.objects.select_related("disk"):
        if job.disk.server_id in servers and job.created_at <= NOW:
            on = job.created_at.astimezone(zone).date()
            good[on] += job.state == "ok"
            failed[on] += job.state == "failed" and not hasattr(job, "retry")
    for each in StoredObject.objects.select_related("domain__server"):
        owner = getattr(each.domain, "server", None)
        if owner is None or owner.pk not in servers or each.status == "granted" or not each.version_id:
            continue
        for day in shown_days(NOW, zone):
            end = datetime.combine(day + timedelta(days=1), time(), tzinfo=zone)
            there = each.granted_at < end and (each.deleted_at is None or each.deleted_at >= end)
            sizes[day] += each.size_bytes if there else 0
    return [Day(day, good[day], failed[day], 0, sizes[day]) for day in shown_days(NOW, zone)]


def _live_in(zone: str, world: World) -> None:
    Person.objects.update(time_zone=zone)
    for person in world.people.values():
        if person is not None:
            person.time_zone = zone


def _keep_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is too much to be counted while somebody looks, but what belongs to single servers."""
    monkeypatch.setattr(days, "LIVE_JOBS", 0)
    for tenant in Tenant.objects.all():
        count_days(tenant, now=NOW)


# In the shown days the second one has a day of 25 hours.
@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles"])
@pytest.mark.parametrize("kept", [False, True], ids=["live", "kept"])
def test_days_are_what_a_count_by_hand_finds(
    fleet: World, monkeypatch: pytest.MonkeyPatch, kept: bool, zone: str
) -> None:
    # What the world brings along is younger than NOW and of no day that is shown.
    _live_in(zone, fleet)
    if kept:
        _keep_only(monkeypatch)

    for name in ROLES:
        found = days_of(fleet.people[name], now=NOW)  # type: ignore[arg-type]  # all of them are persons
        assert list(found.days) == _by_hand(_seen(fleet, name), ZoneInfo(zone)), name
        assert found.time_zone == zone
        assert (found.counted_at == NOW) == (kept and not name.startswith("owner")), name


def test_until_a_zone_is_counted_the_days_are_those_of_utc_and_it_is_said(
    fleet: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _keep_only(monkeypatch)
    boss = fleet.people["super"]
    assert boss is not None
    _live_in("Asia/Kathmandu", fleet)

    before = days_of(boss, now=NOW)
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW)
    page = fleet.client("super").get("/overview/days/").content.decode()
    # Of one of the two tenants is not enough: its figures alone would look like all.
    count_days(fleet.ours.tenant, now=NOW)
    half = days_of(boss, now=NOW)
    count_days(fleet.theirs.tenant, now=NOW)

    assert before == half
    assert (before.time_zone, list(before.days)) == ("UTC", _by_hand(_seen(fleet, "super"), ZoneInfo("UTC")))
    assert "Days are those of UTC: for Asia/Kathmandu nothing was counted yet" in page and "utc=on" in page
    assert days_of(boss, now=NOW).time_zone == "Asia/Kathmandu"


@pytest.mark.parametrize(
    ("now", "hours"), [(datetime(2026, 3, 31, 12, tzinfo=UTC), 23), (datetime(2026, 10, 27, 12, tzinfo=UTC), 25)]
)
def test_a_day_on_which_the_clock_changes_has_its_own_hours(world: World, now: datetime, hours: int) -> None:
    """In the calendar and on the line of a disk: of an hourly schedule that nobody dispatched."""
    BlackoutWindow.objects.all().delete()
    DefinitionPause.objects.all().delete()
    definition = world.ours.definition
    Definition.objects.filter(pk=definition.pk).update(cron="30 * * * *", created_at=now - timedelta(days=9))
    person, berlin, first = world.people["admin_a"], ZoneInfo("Europe/Berlin"), now.date() - timedelta(days=3)
    assert person is not None

    calendar = days.count(days.rows_of_tenant(world.ours.tenant), first, now=now, zone=berlin)
    disk = definition.disk
    chosen = Definition.objects.filter(disk=disk).select_related("disk__server")
    (line,) = timelines_of([disk], chosen, person=person, now=now, zone=berlin)

    assert [day.missed_count for day in calendar[:3]] == [24, hours, 24]
    assert [len(day.gaps) for day in line.days[-4:-1]] == [24, hours, 24]


def test_locks_end_as_a_count_by_hand_finds(fleet: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backups.lock_coverage._keeper_trouble", lambda vault: "")
    tenant = fleet.ours.tenant
    by_hand: Counter[date] = Counter()
    for each in StoredObject.objects.filter(vault__tenant=tenant, status__in=["stored", "condemned", "deleting"]):
        if each.retain_until > NOW:
            day = each.retain_until.date()
            last = (day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
            by_hand[day if day - NOW.date() <= timedelta(days=62) else last] += each.size_bytes

    live = tail_of(fleet.people["admin_a"], now=NOW)  # type: ignore[arg-type]  # a person
    check_locks(Vault.objects.select_related("endpoint").get(tenant=tenant), now=NOW)
    monkeypatch.setattr(lock_tails, "LIVE_OBJECTS", 0)
    kept = tail_of(fleet.people["admin_a"], now=NOW)  # type: ignore[arg-type]  # a person

    assert live.ends == sorted(by_hand.items())
    assert kept == replace(live, counted_at=NOW)
    assert live.locked_bytes == sum(by_hand.values()) > 0 == live.still_locked()[-1][1]


def test_the_chart_of_locks_is_one_of_steps_to_a_day_after_the_last(world: World) -> None:
    """A line from end to end would say that something is unlocked every day."""
    now = timezone.now()
    StoredObject.objects.update(size_bytes=GIB, status="stored", version_id="1", retain_until=now + timedelta(days=20))
    (further,) = StoredObject.objects.filter(vault__tenant=world.ours.tenant)
    further.pk, further.key, further.retain_until = None, "another", now + timedelta(days=5)
    further.save(force_insert=True)

    chart = world.client("admin_a").get("/overview/days/").context["tail_chart"]

    assert chart["kind"] == "steps"
    assert chart["days"] == [f"{now + timedelta(days=day):%Y-%m-%d}" for day in (0, 5, 20, 21)]
    assert chart["series"][0]["values"] == [2 * GIB, GIB, 0, 0]
    assert world.client("admin_a").get("/overview/days/").context["growth"]["kind"] == "area"


def _old(definition: Definition, *, ago: int) -> None:
    at = NOW - timedelta(days=ago)
    Definition.objects.filter(pk=definition.pk).update(created_at=at, changed_at=at, cron="0 3 * * *")


def _missed(world: World) -> dict[int, int]:
    """Day of November -> how many, of the tenant."""
    found = days_of(world.people["admin_a"], now=NOW).days  # type: ignore[arg-type]  # a person
    return {day.day.day: day.missed_count for day in found if day.missed_count}


def test_missed_is_what_was_due_and_had_no_job_and_nothing_held(world: World) -> None:
    DefinitionPause.objects.all().delete()
    BlackoutWindow.objects.all().delete()
    _old(world.ours.definition, ago=7)
    assert _missed(world) == dict.fromkeys(range(14, 21), 1)

    job = make_job(world.ours.server, definition=world.ours.definition, slot_at=datetime(2026, 11, 15, 3, tzinfo=UTC))
    Job.objects.filter(pk=job.pk).update(created_at=datetime(2026, 11, 15, 9, tzinfo=UTC))
    BlackoutWindow.objects.create(
        tenant=world.ours.tenant, reason="Mondays", start=time(2), end=time(4), time_zone="UTC", weekdays="1"
    )
    BlackoutWindow.objects.update(created_at=NOW - timedelta(days=30))
    DefinitionPause.objects.create(
        tenant=world.ours.tenant,
        reason="move",
        starts_at=datetime(2026, 11, 17, 2, tzinfo=UTC),
        ended_at=datetime(2026, 11, 18, 2, tzinfo=UTC),
    )
    # Neither of another tenant nor of a node that is not its own.
    DefinitionPause.objects.create(tenant=world.theirs.tenant, reason="other", starts_at=NOW - timedelta(days=9))
    DefinitionPause.objects.create(node=world.theirs.node, reason="other", starts_at=NOW - timedelta(days=9))
    assert _missed(world) == {14: 1, 18: 1, 19: 1, 20: 1}

    # What is switched off now was promised until then, by the schedule of that time.
    EarlierSchedule.objects.create(
        definition=world.ours.definition,
        tenant=world.ours.tenant,
        cron="0 5 * * *",
        time_zone="UTC",
        active=True,
        until=datetime(2026, 11, 19, 4, tzinfo=UTC),
    )
    Definition.objects.filter(pk=world.ours.definition.pk).update(active=False)
    assert _missed(world) == {14: 1, 15: 1, 16: 1, 18: 1}


def test_a_day_is_counted_once_it_is_settled_and_until_then_again(fleet: World) -> None:
    tenant = fleet.ours.tenant
    count_days(tenant, now=NOW)
    before = list(DayFigures.objects.filter(tenant=tenant).order_by("day").values())
    count_days(tenant, now=NOW)
    assert list(DayFigures.objects.filter(tenant=tenant).order_by("day").values()) == before

    # Five days nobody counted; meanwhile rows of long ago went, as those of a server that was removed.
    later = NOW + timedelta(days=5)
    Job.objects.filter(created_at__lt=NOW - timedelta(days=3)).delete()
    lately = make_job(fleet.ours.server, state="failed")
    Job.objects.filter(pk=lately.pk).update(created_at=NOW + timedelta(hours=1))
    count_days(tenant, now=later)

    after = {row["day"]: row for row in DayFigures.objects.filter(tenant=tenant).values()}
    assert set(shown_days(later)) <= set(after)
    assert [after[row["day"]] for row in before[:-2]] == before[:-2]
    today = before[-1]
    assert after[today["day"]]["failed_count"] == today["failed_count"] + 1
    assert after[today["day"]]["counted_at"] == later


def test_each_server_is_in_one_state_and_the_tile_leads_to_those_that_are_counted(world: World) -> None:
    for state in ("protected", "late", "missed", "unverified", "unlocked"):
        definition = make_definition(make_server(world.ours.tenant), name=f"is-{state}")
        DefinitionStanding.objects.create(definition=definition, state=state, looked_at=NOW, look_again_at=NOW)
    for name in ("super", "owner_a1"):
        person = world.people[name]
        totals = totals_of(person)  # type: ignore[arg-type]  # a person
        servers = Server.objects.for_user(person)

        assert totals.states == {str(state): in_state(servers, state).count() for state in ServerState}
        assert sum(totals.states.values()) == totals.server_count == servers.count()
        text = world.client(name).get("/").content.decode()
        for state in ("protected", "late", "failed", "unverified", "unlocked", "unprotected"):
            tile = re.search(rf'href="/servers/\?state={state}">(.*?)</a>', text, re.DOTALL)
            assert tile and re.search(rf">{totals.states[state]}\s", tile[1]), (name, state)


def test_a_good_backup_is_seen_by_the_next_look(world: World) -> None:
    """The states are those of honest_states, and no second truth."""
    Definition.objects.filter(pk=world.theirs.definition.pk).update(active=False)
    look_at_due(now=max(Backup.objects.values_list("created_at", flat=True)) + timedelta(minutes=1))

    assert totals_of(world.people["super"]).states["held"] == 1  # type: ignore[arg-type]  # a person
    DefinitionPause.objects.all().delete()
    # A minute of the week without backups, in which this test may run.
    BlackoutWindow.objects.all().delete()
    DefinitionStanding.objects.all().delete()
    look_at_due(now=max(Backup.objects.values_list("created_at", flat=True)) + timedelta(minutes=1))
    assert totals_of(world.people["super"]).states["held"] == 0  # type: ignore[arg-type]  # a person


@pytest.mark.parametrize("name", ["super", "admin_a", "owner_a1", "owner_a2"])
def test_the_parts_are_of_what_one_sees_alone_or_in_the_page(
    world: World, name: str, django_assert_max_num_queries: Any
) -> None:
    make_backup(world.theirs.server)
    client = world.client(name)
    for path in ("/overview/days/", "/overview/places/"):
        with django_assert_max_num_queries(30):
            page = client.get(path)
        part = client.get(path, headers={"HX-Request": "true"}).content.decode()
        assert "<html" in page.content.decode() and "<html" not in part
        assert page["Vary"].count("HX-Request") == 1
    seen = client.get("/overview/places/").content.decode()
    assert ("RBX" in seen) == (name in {"super", "admin_a"})
    figures = client.get("/api/v1/overview/").json()
    assert figures["server_count"] == len(_seen(world, name))
    assert [place["vault_count"] for place in figures["places"]] == {"super": [2], "admin_a": [1]}.get(name, [])
    told = client.get("/api/v1/overview/days/").json()
    assert sum(day["good_count"] + day["failed_count"] for day in told["days"]) == 0
    assert len(told["days"]) == 30 and told["counted_at"] is None


def test_a_page_that_is_left_open_hears_what_has_changed(world: World) -> None:
    client = world.client("admin_a")
    page = client.get("/")
    ask = {"part": "state", "seen": page.context["state_seen"]}

    unchanged = client.get("/", ask, headers={"HX-Request": "true"})
    Backup.objects.filter(pk=world.ours.backup.pk).update(status="lost")
    changed = client.get("/", ask, headers={"HX-Request": "true"}).content.decode()

    assert f"part=state&amp;seen={ask['seen']}" in page.content.decode()
    assert 'role="status" id="overview-said"></p>' in page.content.decode()
    assert (unchanged.status_code, unchanged.content) == (204, b"")
    assert "Backup lost" in changed and 'hx-swap-oob="innerHTML:#overview-said"' in changed and "<html" not in changed


def test_an_empty_installation_says_the_next_step(db: None) -> None:
    client = Client()
    sign_in(client, make_person("first", superadmin=True))

    first = client.get("/").content.decode()
    parts = client.get("/overview/days/").content.decode() + client.get("/overview/places/").content.decode()
    assert "Next step" in first and "There is no server yet" in first
    assert "No backup was due" in parts and "Nothing is locked" in parts and "no region with servers" in parts


def test_the_hourly_count_keeps_the_days_too(fleet: World) -> None:
    count_tenant(fleet.ours.tenant, now=NOW)
    assert DayFigures.objects.filter(tenant=fleet.ours.tenant).count() == days.SHOWN_DAYS


@pytest.mark.parametrize("name", ["super", "admin_a", "owner_a1"])
def test_the_menu_has_what_one_can_use_and_marks_where_one_is(world: World, name: str) -> None:
    client, most = world.client(name), {"super": 2, "admin_a": 1, "owner_a1": 0}[name]
    text = client.get("/").content.decode()
    header = text[text.index("<header") : text.index("</header>")]
    wanted = {page.name for page in every_page() if page.who <= most}

    assert set(re.findall(r'href="([^"]+)"', header)) == {reverse(page) for page in wanted}
    assert header.count('aria-current="page"') == 1
    assert header.count("<details") == (1 if name == "owner_a1" else len(GROUPS) + 1)
    for page in wanted if name == "super" else ():
        shown = client.get(reverse(page)).content.decode()
        assert re.search(rf'href="{re.escape(reverse(page))}" aria-current="page"', shown), page
    server = client.get(f"/servers/{world.ours.server.pk}/").content.decode()
    assert 'href="/servers/" aria-current="page"' in server
    assert len({page.name for page in every_page()}) == len(DIRECT) + len(PERSONAL) + sum(len(g.pages) for g in GROUPS)


def test_a_page_is_called_as_the_menu_calls_it(world: World) -> None:
    """Its heading may say more."""
    client = world.client("super")
    for page in every_page():
        shown = client.get(reverse(page.name), follow=True).content.decode()
        [heading] = re.findall(r"<h1[^>]*>(.*?)</h1>", shown, re.DOTALL)
        assert f"<title>{page.title} ·" in shown, page
        assert page.title.lower() in heading.lower(), page
        # Pages below it lead back to it by the same word.
    at = {"node": str(world.ours.server.node_id), "hour": "1"}
    assert ">Planner</a>" in client.get(reverse("definition-spread"), at).content.decode().partition("</header>")[2]
