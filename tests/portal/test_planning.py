"""Pages and addresses about many definitions: overview, load, policies, choices, and what deleting says."""

from __future__ import annotations

from datetime import time
from typing import Any

import pytest

from agents.models import Node
from backups.models import Backup
from definitions.models import Definition, DefinitionPause, EarlierRules
from tests.factories import disk_of, make_backup, make_definition
from tests.worlds import World

API = "/api/v1/"


def test_the_overview_has_the_columns_and_says_why_nothing_starts(world: World) -> None:
    make_backup(world.ours.server, definition=world.ours.definition)

    (row,) = world.client("admin_a").get(f"{API}definitions/overview/?server={world.ours.server.pk}").json()["results"]

    assert (row["name"], row["tenant_name"], row["node"]) == ("def-a", world.ours.tenant.name, world.ours.node.name)
    assert row["backups"] == Backup.objects.in_catalogue().filter(definition=world.ours.definition, status="ok").count()
    assert row["held_because"] == "The definition is paused: pause a"
    assert row["state"] and row["sentence"]


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
    assert world.client("admin_a").get(f"/definitions/overview/?tenant={world.theirs.tenant.pk}").status_code == 404


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
    assert types["vault"] == "" and types["dataset"] and types["file"]
    nodes = {choice["value"]: choice["why_not"] for choice in found["backup_node"]}
    assert nodes[str(world.ours.node.pk)] == "It is not a backup node."
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
