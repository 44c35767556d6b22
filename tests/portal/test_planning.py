"""Pages and addresses about many definitions: overview, load, policies, choices, and what deleting says."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.utils import timezone

from agents.models import Node
from backups.models import Backup
from backups.overview import overview_of
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
