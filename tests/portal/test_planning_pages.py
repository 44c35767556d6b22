"""What an operator and an administrator do on the pages of policies, pauses, times without backups, and budgets."""

from __future__ import annotations

from typing import Any

import pytest

from backups.models import Budget
from definitions.models import BlackoutWindow, Definition, DefinitionPause, Policy
from tests.worlds import World

WEEK = ["1", "2", "3", "4", "5", "6", "7"]


def send(client: Any, address: str, form: dict[str, Any]) -> Any:
    return client.post(address, form, format="multipart")


def test_a_policy_is_made_given_changed_taken_back_and_deleted(world: World) -> None:
    client = world.client("super")
    form = {
        "name": "night",
        "window_start": "22:00",
        "window_end": "06:00",
        "time_zone": "Europe/Berlin",
        "retention_count": 0,
        "retention_days": 14,
        "lock_whole_retention": "on",
    }

    made = send(client, "/policies/new/", form)
    policy = Policy.objects.get(name="night")
    given = send(client, made["Location"], {"tenant": world.theirs.tenant.name})
    followers = Definition.objects.filter(policy=policy)
    assert given.status_code == 302
    assert {(row.retention_days, row.immutable_days) for row in followers} == {(14, 14)}

    send(client, f"/policies/{policy.pk}/edit/", {**form, "retention_days": 30})
    assert {row.retention_days for row in followers.all()} == {30}

    (assignment,) = policy.assignments.all()
    client.post(f"/policies/{policy.pk}/delete/")
    assert Policy.objects.filter(pk=policy.pk).exists()
    for name in ("admin_b", "owner_a1"):
        refused = world.client(name).post(f"/policies/{policy.pk}/take-back/{assignment.pk}/")
        assert refused.status_code in {403, 404}
    client.post(f"/policies/{policy.pk}/take-back/{assignment.pk}/")
    assert client.post(f"/policies/{policy.pk}/take-back/{assignment.pk}/").status_code == 404
    client.post(f"/policies/{policy.pk}/delete/")
    assert not Policy.objects.filter(pk=policy.pk).exists()


def test_a_policy_that_cannot_be_is_refused_where_it_is_typed(world: World) -> None:
    form = {
        "name": "forever",
        "window_start": "22:00",
        "window_end": "06:00",
        "time_zone": "Europe/Nowhere",
        "retention_count": 3,
    }
    client = world.client("super")

    zone = send(client, "/policies/new/", form)
    lock = send(client, "/policies/new/", {**form, "time_zone": "UTC", "lock_whole_retention": "on"})
    two = send(
        client,
        f"/policies/{world.ours.policy.pk}/",
        {"tenant": world.ours.tenant.name, "tag": "gold"},
    )

    assert (zone.status_code, lock.status_code, two.status_code) == (400, 400, 400)
    assert "is not a time zone" in zone.context["form"].errors["time_zone"][0]
    assert "keep them by age" in lock.context["form"].errors["lock_whole_retention"][0]
    assert not Policy.objects.filter(name="forever").exists()


def test_an_administrator_pauses_his_own_only(world: World) -> None:
    client, definition = world.client("admin_a"), world.ours.definition
    DefinitionPause.objects.all().delete()

    page = client.get(f"/pauses/new/?definition={definition.pk}").content.decode()
    own = send(client, "/pauses/new/", {"definition": str(definition.pk), "reason": "moving house"})
    foreign = send(client, "/pauses/new/", {"definition": str(world.theirs.definition.pk), "reason": "x"})
    fleet = send(client, "/pauses/new/", {"fleet": "on", "reason": "x"})
    tenant = send(client, "/pauses/new/", {"tenant": world.theirs.tenant.name, "reason": "x"})

    assert definition.name in page and "whole fleet" not in page
    assert (own.status_code, foreign.status_code, fleet.status_code, tenant.status_code) == (302, 400, 400, 400)
    (made,) = DefinitionPause.objects.all()
    assert (made.definition, made.reason) == (definition, "moving house")
    assert "moving house" in client.get("/pauses/").content.decode()
    assert "moving house" not in world.client("admin_b").get("/pauses/").content.decode()


def test_the_whole_fleet_is_paused_on_purpose_and_until_a_time_to_come(world: World) -> None:
    client = world.client("super")
    DefinitionPause.objects.all().delete()

    silent = send(client, "/pauses/new/", {"reason": "x"})
    past = send(client, "/pauses/new/", {"fleet": "on", "reason": "x", "until": "2020-01-01T00:00"})
    meant = send(client, "/pauses/new/", {"fleet": "on", "reason": "power", "until": "2099-01-01T00:00"})

    assert (silent.status_code, past.status_code, meant.status_code) == (400, 400, 302)
    assert "exactly one" in silent.content.decode()
    assert past.context["form"].errors["until"] == ["The end is in the past."]
    (made,) = DefinitionPause.objects.all()
    assert (made.definition, made.node, made.tenant) == (None, None, None)


def test_a_time_without_backups(world: World) -> None:
    client = world.client("admin_a")
    BlackoutWindow.objects.all().delete()
    form = {"tenant": world.ours.tenant.name, "reason": "month's end", "start": "08:00", "end": "18:00"}
    form |= {"time_zone": "Europe/Berlin", "weekdays": ["1", "5"]}

    assert send(client, "/blackouts/new/", {**form, "weekdays": []}).status_code == 400
    assert send(client, "/blackouts/new/", form).status_code == 302

    (made,) = BlackoutWindow.objects.all()
    assert (made.tenant, made.weekdays, made.weekday_names) == (world.ours.tenant, "15", "Monday, Friday")
    shown = client.get("/pauses/").content.decode()
    assert "08:00 to 18:00 Europe/Berlin" in shown and "Monday, Friday" in shown


def test_a_budget_is_set_changed_and_removed_by_the_operator(world: World) -> None:
    client = world.client("super")
    Budget.objects.all().delete()
    form = {"kind": "tenant", "tenant": world.ours.tenant.name, "most_jobs": 2, "time_zone": "UTC"}

    assert send(client, "/budgets/new/", form).status_code == 302
    (budget,) = Budget.objects.all()
    assert (budget.tenant, budget.most_jobs) == (world.ours.tenant, 2)
    send(client, f"/budgets/{budget.pk}/edit/", {"most_jobs": 5, "time_zone": "UTC"})
    budget.refresh_from_db()
    assert budget.most_jobs == 5
    assert world.ours.tenant.name not in world.client("admin_a").get("/budgets/").content.decode()
    client.post(f"/budgets/{budget.pk}/remove/")
    assert not Budget.objects.exists()


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"kind": "fleet"}, "Say how many jobs"),
        ({"kind": "fleet", "most_jobs": 1, "from_time": "08:00"}, "beginning and another end"),
        ({"kind": "link", "most_jobs": 1, "region": "RBX"}, "two regions"),
        ({"kind": "vault", "most_jobs": 1, "vault": "not an id"}, "no vault with this id"),
        ({"kind": "fleet", "bytes_per_second": 1}, "65536"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(world: World, form: dict[str, Any], words: str) -> None:
    answer = send(world.client("super"), "/budgets/new/", {"time_zone": "UTC", **form})

    assert answer.status_code == 400
    assert words in answer.content.decode()
