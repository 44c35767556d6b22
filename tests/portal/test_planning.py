"""Pages and addresses about many definitions: overview, load, policies, choices, and what deleting says."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone

from agents.models import Node
from backups.models import Backup
from backups.overview import overview_of
from backups.views import planning
from definitions.models import Definition, DefinitionPause, EarlierRules
from tests.factories import disk_of, make_backup, make_definition
from tests.worlds import World
from vaults.models import StoredObject

API = "/api/v1/"


def test_the_overview_has_the_columns_and_says_why_nothing_starts(world: World) -> None:
    make_backup(world.ours.server, definition=world.ours.definition)

    (row,) = world.client("admin_a").get(f"{API}definitions/overview/?server={world.ours.server.pk}").json()["results"]

    assert (row["name"], row["tenant_name"], row["node"]) == ("def-a", world.ours.tenant.name, world.ours.node.name)
    assert row["backups"] == Backup.objects.in_catalogue().filter(definition=world.ours.definition, status="ok").count()
    assert row["held_because"] == "The definition is paused: pause a"
    assert row["state"] and row["sentence"]


@pytest.mark.parametrize(("locked_hours", "over"), [(24, False), (-1, True)])
def test_the_overview_says_last_good_last_verified_and_until_when_it_is_locked(
    world: World, locked_hours: int, over: bool
) -> None:
    now, client = timezone.now().replace(microsecond=0), world.client("admin_a")
    until = now + timedelta(hours=locked_hours)
    times = {"finished_at": now, "verified_at": now - timedelta(hours=3), "immutable_until": until}
    Backup.objects.filter(definition=world.ours.definition).update(**times)
    StoredObject.objects.update(retain_until=until)
    definition = Definition.objects.get(pk=world.ours.definition.pk)

    (row,) = client.get(f"{API}definitions/overview/?server={world.ours.server.pk}").json()["results"]
    pages = [
        client.get(address).content.decode() for address in ("/definitions/overview/", f"/definitions/{definition.pk}/")
    ]

    def shown(at: datetime) -> str:
        return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    for name, at in (("last_good_at", now), ("last_verified_at", times["verified_at"]), ("locked_until", until)):
        assert row[name] == shown(at), name
        assert all(shown(at) in page for page in pages), name
    assert (row["state"] == "unlocked") is over
    assert all(("The lock of its last good backup ended at" in page) is over for page in pages)


def test_the_overview_costs_as_much_for_many_as_for_few(world: World, django_assert_max_num_queries: Any) -> None:
    for number in range(12):
        row = make_definition(world.ours.server, name=f"m{number}")
        make_backup(world.ours.server, definition=row)
    rows = list(Definition.objects.all())

    with django_assert_max_num_queries(13):
        found = overview_of(rows, person=world.people["super"], now=timezone.now())

    assert [row.definition for row in found] == rows and all(row.facts.locked_until for row in found[-12:])


def test_an_owner_sees_his_rows_without_the_node(world: World) -> None:
    rows = world.client("owner_a1").get(f"{API}definitions/overview/").json()["results"]
    text = world.client("owner_a1").get("/definitions/overview/").content.decode()

    assert [(row["name"], row["node"]) for row in rows] == [("def-a", "")]
    assert world.ours.node.name not in text and "def-a" in text and "def-b" not in text
    assert world.client("owner_a1").get(f"{API}definitions/heat-map/").json()["rows"] == []


def test_by_node_and_by_tenant(world: World) -> None:
    client = world.client("super")

    by_node = client.get(f"/definitions/overview/?node={world.ours.node.pk}").content.decode()
    by_tenant = client.get(f"/definitions/overview/?tenant={world.theirs.tenant.pk}").content.decode()

    assert "def-a" in by_node and "def-b" not in by_node
    assert "def-b" in by_tenant and "def-a" not in by_tenant
    foreign = world.client("admin_a").get(f"/definitions/overview/?tenant={world.theirs.tenant.pk}").content.decode()
    assert "def-a" not in foreign and "def-b" not in foreign and "Nothing is listed" in foreign


def test_the_load_of_nodes_is_shown_spread_and_taken_back(world: World) -> None:
    for number in range(4):
        row = make_definition(world.ours.server, name=f"n{number}", cron="0 22 * * *")
        Definition.objects.filter(pk=row.pk).update(policy=world.ours.policy)
    client, crons = world.client("super"), Definition.objects.order_by("pk").values_list("cron", flat=True)
    before = list(crons.all())

    piled = client.get("/definitions/load/").content.decode()
    client.post("/definitions/load/")
    after = list(crons.all())
    spread = client.get("/definitions/load/")
    client.post("/definitions/load/", {"undo": str(spread.context["last_act"].pk)}, format="multipart")

    assert "definitions start on" in piled
    assert "definitions start on" not in spread.content.decode()
    assert len(set(after)) > len(set(before))
    assert list(crons.all()) == before
    assert world.client("admin_a").post("/definitions/load/").status_code == 403


WINTER, SUMMER = datetime(2026, 1, 14, 12, tzinfo=UTC), datetime(2026, 7, 15, 12, tzinfo=UTC)


def looks_from(world: World, zone: str, monkeypatch: pytest.MonkeyPatch, *, now: datetime = WINTER) -> Any:
    """An administrator with this zone, who looks at the planner at that time."""
    person = world.people["admin_a"]
    assert person is not None
    person.time_zone = zone
    person.save()
    monkeypatch.setattr(planning, "timezone", SimpleNamespace(now=lambda: now))
    return world.client("admin_a")


def heads_of(page: str) -> list[tuple[str, str]]:
    """Of the columns of hours: the title and the label."""
    return re.findall(r'<th scope="col" class="numbers" title="([^"]+)">([^<]+)</th>', page)


def columns_of(page: str, node: Node) -> dict[int, str]:
    """The label of the column in which each linked hour (of the UTC day) of the node stands."""
    labels = [label for _, label in heads_of(page)]
    row = page.partition(f">{node.name}</th>")[2].partition("</tr>")[0]
    cells = re.findall(r'<td class="numbers heat-\d">(.*?)</td>', row)
    assert len(cells) == len(labels) == 24
    found = [(re.search(r"hour=(\d+)", cell), label) for cell, label in zip(cells, labels, strict=True)]
    return {int(hour[1]): label for hour, label in found if hour}


@pytest.mark.parametrize(
    ("zone", "now", "first", "last", "shown", "offset"),
    [
        ("Asia/Kolkata", WINTER, ("19:00 UTC", "00:30"), ("18:00 UTC", "23:30"), ("03:30", "04:29"), "UTC+05:30"),
        ("America/New_York", WINTER, ("05:00 UTC", "00:00"), ("04:00 UTC", "23:00"), ("17:00", "17:59"), "UTC-05:00"),
        ("America/New_York", SUMMER, ("04:00 UTC", "00:00"), ("03:00 UTC", "23:00"), ("18:00", "18:59"), "UTC-04:00"),
        ("Europe/Berlin", WINTER, ("23:00 UTC", "00:00"), ("22:00 UTC", "23:00"), ("23:00", "23:59"), "UTC+01:00"),
        ("Europe/Berlin", SUMMER, ("22:00 UTC", "00:00"), ("21:00 UTC", "23:00"), ("00:00", "00:59"), "UTC+02:00"),
    ],
)
def test_the_hours_of_the_planner_are_those_of_who_looks(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    *,
    zone: str,
    now: datetime,
    first: tuple[str, str],
    last: tuple[str, str],
    shown: tuple[str, str],
    offset: str,
) -> None:
    """In the order of his day, with UTC as title; what is sent, and what the API says, stays UTC."""
    for number in range(4):
        make_definition(world.ours.server, name=f"n{number}", cron="0 22 * * *", time_zone="UTC")
    client, node = looks_from(world, zone, monkeypatch, now=now), world.ours.node
    address, between = f"node={node.pk}&hour=22", f"between {shown[0]} and {shown[1]} {zone}"

    load = client.get("/definitions/load/").content.decode()
    pile = client.get(f"/definitions/load/spread/?{address}").content.decode()
    chosen = {"definition": str(Definition.objects.get(name="n0").pk), "to": "9", "look": "1"}
    move = client.post(f"/definitions/load/move/?{address}", chosen, format="multipart").content.decode()
    heat = client.get(f"{API}definitions/heat-map/").json()

    heads = heads_of(load)
    assert (heads[0], heads[-1], heads) == (first, last, heads_of(move))
    assert [label for _, label in heads] == sorted(label for _, label in heads)
    assert columns_of(load, node)[22] == shown[0]
    assert re.search(rf'title="22:00 to 22:59 UTC">\d definitions start on {node.name} {between}, ', load)
    assert f'<span title="22:00 to 22:59 UTC">{between}</span></h1>' in pile
    assert f'<option value="22" disabled title="22:00 UTC">{shown[0]}, ' in pile
    assert re.search(rf'data-drop="22" title="22:00 UTC, \d+ bytes a second">{shown[0]}</li>', pile)
    drops = [int(hour) for hour in re.findall(r'data-drop="(\d+)"', pile)]
    assert drops == [int(title[:2]) for title, _ in heads]
    assert "09:00 to 09:59 UTC" in move and '<input type="hidden" name="to" value="9">' in move
    for page in (load, pile, move):
        assert page.count(f"the clock of {zone} is {offset}") == 1
        assert "(UTC)" not in page
    assert [item["hour"] for item in heat["advice"]] == [22]
    assert "between 22:00 and 22:59 UTC" in heat["advice"][0]["sentence"]


def test_who_has_utc_sees_utc(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        make_definition(world.ours.server, name=f"n{number}", cron="0 22 * * *", time_zone="UTC")
    client, node = looks_from(world, "UTC", monkeypatch), world.ours.node

    load = client.get("/definitions/load/").content.decode()
    pile = client.get(f"/definitions/load/spread/?node={node.pk}&hour=22").content.decode()

    assert heads_of(load) == [(f"{hour:02}:00 UTC", str(hour)) for hour in range(24)]
    assert columns_of(load, node)[22] == "22"
    assert "in each hour (UTC)" in load and "the clock of" not in load + pile
    assert "between 22:00 and 22:59 UTC, " in load and "between 22:00 and 22:59 UTC</span></h1>" in pile
    assert re.findall(r'data-drop="\d+"[^>]*>(\d+)<', pile) == [str(hour) for hour in range(24)]


@pytest.mark.parametrize(
    ("zone", "wanted"), [("Asia/Kolkata", "14:30"), ("America/New_York", "20:00"), ("Europe/Berlin", "00:00")]
)
def test_what_is_moved_lands_in_the_hour_that_was_chosen(
    world: World, monkeypatch: pytest.MonkeyPatch, zone: str, wanted: str
) -> None:
    """By the clock of who chose it: in New York, eight in the evening is the next day of UTC."""
    row = make_definition(world.ours.server, name="moved", cron="0 12 * * *", time_zone=zone)
    client, node = looks_from(world, zone, monkeypatch), world.ours.node
    hour = datetime.combine(WINTER.date(), time(12), tzinfo=ZoneInfo(zone)).astimezone(UTC).hour
    address = f"?node={node.pk}&hour={hour}"
    pile = client.get(f"/definitions/load/spread/{address}").content.decode()
    found = re.search(rf'<option value="(\d+)"[^>]*>{wanted}, ', pile)
    assert found and str(row.pk) in pile

    form = {"definition": str(row.pk), "to": found[1]}
    answer = client.post(f"/definitions/load/move/{address}", form, format="multipart")

    assert answer.status_code == 302
    row.refresh_from_db()
    minute, moved_to = map(int, row.cron.split()[:2])
    begin = time.fromisoformat(wanted)
    assert 0 <= moved_to * 60 + minute - begin.hour * 60 - begin.minute < 60
    load = client.get("/definitions/load/").content.decode()
    assert columns_of(load, node)[int(found[1])] == wanted


def test_choices_say_why_not(world: World) -> None:
    Node.objects.filter(pk=world.ours.node.pk).update(is_backup=False)

    found = world.client("admin_a").get(f"{API}definitions/choices/?disk={disk_of(world.ours.server).pk}").json()

    types = {choice["value"]: choice["why_not"] for choice in found["type"]}
    assert types["vault"] == types["file"] == "" and "ZFS" in types["dataset"]
    nodes = {choice["value"]: choice["why_not"] for choice in found["backup_node"]}
    assert nodes[str(world.ours.node.pk)] == f"{world.ours.node.name} is not a backup node."
    assert str(world.theirs.node.pk) not in nodes


def test_a_policy_by_the_api_gives_definitions_and_its_change_remembers_the_rules(world: World) -> None:
    client = world.client("super")
    made = client.post(f"{API}policies/", {"name": "night", "retention_days": 30, "time_zone": "Europe/Berlin"}).json()
    address = f"{API}policies/{made['id']}/"

    given = client.post(f"{address}assign/", {"tenant": str(world.theirs.tenant.pk)})
    client.patch(address, {"retention_days": 14})

    assert given.json()["target"].startswith("the tenant")
    followers = Definition.objects.filter(policy=made["id"])
    assert followers.count() == 2
    assert {row.retention_days for row in followers} == {14}
    # Of both, and of the one that followed another policy before.
    assert EarlierRules.objects.count() == 3
    assert client.delete(address).json()["code"] == "policy_assigned"
    assert client.post(f"{address}unassign/", {"tenant": str(world.theirs.tenant.pk)}).status_code == 204
    assert time.fromisoformat(made["window_start"]) == time(22)


def test_a_paused_one_can_be_let_go(world: World) -> None:
    address = f"{API}pauses/{world.ours.pause.pk}/end/"

    assert world.client("admin_a").post(address).json()["ended_at"]
    assert world.client("admin_a").post(address).json()["code"] == "pause_ended"
    assert DefinitionPause.objects.get(pk=world.theirs.pause.pk).ended_at is None


@pytest.mark.parametrize(
    ("query", "code"),
    [("backups=adopt", "bad_adopter"), ("backups=keep_until_age", "bad_days"), ("backups=burn", "invalid_choice")],
)
def test_deleting_refuses_half_an_answer(world: World, query: str, code: str) -> None:
    answer = world.client("admin_a").delete(f"{API}definitions/{world.ours.definition.pk}/?{query}")

    assert answer.status_code == 400
    assert code in answer.content.decode()
    assert Definition.objects.filter(pk=world.ours.definition.pk).exists()


def test_the_page_of_deleting_hands_the_backups_over(world: World) -> None:
    heir = make_definition(world.ours.server, name="heir")
    form: dict[str, Any] = {"backups": "adopt", "adopter": str(heir.pk)}
    address = f"/definitions/{world.ours.definition.pk}/delete/"

    answer = world.client("admin_a").post(address, form, format="multipart")

    assert answer.status_code == 302
    assert Backup.objects.get(pk=world.ours.backup.pk).definition == heir


def test_the_simulation_shows_each_day_with_reasons(world: World) -> None:
    body = {"cron": "0 1 * * *", "retention_days": 3, "size_bytes": 1000, "change_bytes": 10, "days": 10}

    days = world.client("owner_a1").post(f"{API}definitions/simulate/", body).json()

    assert len(days) == 10
    assert (len(days[-1]["kept"]), days[-1]["kept"][0]["reasons"]) == (3, ["days", "last good"])
    assert days[-1]["tail_count"] > 0
