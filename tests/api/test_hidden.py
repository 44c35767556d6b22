"""What each role sees in lists, filters and counts: exactly its own, and nothing else anywhere in the text."""

from __future__ import annotations

import csv
import io
import uuid
from typing import Any

import pytest
from django.utils import timezone

from agents.models import Disk, Node, Server, Storage
from backups.models import Backup, Job
from definitions.models import Definition
from tenants.models import Tenant
from tests.factories import make_backup, make_node, make_person
from tests.worlds import Estate, World
from vaults.models import Alarm, TenantKey, Vault

RESOURCES = (
    "tenants",
    "keys",
    "vaults",
    "alarms",
    "nodes",
    "storages",
    "servers",
    "disks",
    "definitions",
    "backups",
    "jobs",
    "restores",
)
# Lists that grow count only when they are asked to.
BY_CURSOR = {"alarms", "servers", "disks", "definitions", "backups", "jobs", "restores"}
OF_SERVERS = {"servers", "disks", "definitions", "backups", "jobs", "restores"}


def counted(resource: str) -> str:
    return f"/api/v1/{resource}/" + ("?count=true" if resource in BY_CURSOR else "")


def ids_of(estate: Estate, resource: str) -> set[str]:
    """All of the tenant's objects."""
    rows: dict[str, Any] = {
        "tenants": Tenant.objects.filter(pk=estate.tenant.pk),
        "vaults": Vault.objects.filter(tenant=estate.tenant),
        "keys": TenantKey.objects.filter(tenant=estate.tenant),
        "alarms": Alarm.objects.filter(vault__tenant=estate.tenant),
        "nodes": Node.objects.filter(tenants=estate.tenant),
        "storages": Storage.objects.filter(node__tenants=estate.tenant),
        "servers": Server.objects.filter(tenant=estate.tenant),
        "disks": Disk.objects.filter(server__tenant=estate.tenant),
        "definitions": Definition.objects.filter(tenant=estate.tenant),
        "backups": Backup.objects.filter(tenant=estate.tenant),
        "jobs": Job.objects.filter(tenant=estate.tenant),
        "restores": Job.objects.filter(tenant=estate.tenant, kind="restore"),
    }
    return {str(pk) for pk in rows[resource].values_list("pk", flat=True)}


def ids_of_server(server: Server, resource: str) -> set[str]:
    if resource not in OF_SERVERS:
        return set()
    rows: dict[str, Any] = {
        "servers": Server.objects.filter(pk=server.pk),
        "disks": Disk.objects.filter(server=server),
        "definitions": Definition.objects.filter(disk__server=server),
        "backups": Backup.objects.filter(server=server),
        "jobs": Job.objects.filter(disk__server=server),
        "restores": Job.objects.filter(disk__server=server, kind="restore"),
    }
    return {str(pk) for pk in rows[resource].values_list("pk", flat=True)}


def visible(world: World, name: str, resource: str) -> set[str]:
    ours, theirs = world.ours, world.theirs
    return {
        "super": ids_of(ours, resource) | ids_of(theirs, resource),
        "admin_a": ids_of(ours, resource),
        "admin_b": ids_of(theirs, resource),
        "owner_a1": ids_of_server(ours.server, resource),
        "owner_a2": ids_of_server(ours.other_server, resource),
    }[name]


@pytest.mark.case("AZ-03")
@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("name", ["super", "admin_a", "admin_b", "owner_a1", "owner_a2"])
def test_a_list_and_its_count_hold_exactly_what_is_visible(world: World, name: str, resource: str) -> None:
    answer = world.client(name).get(counted(resource)).json()

    assert {row["id"] for row in answer["results"]} == visible(world, name, resource)
    assert answer["count"] == len(visible(world, name, resource)) == len(answer["results"])


SEARCHED = ("tenants", "vaults", "alarms", "nodes", "storages", "servers", "disks", "definitions", "backups", "jobs")


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("name", ["admin_a", "owner_a1", "owner_a2"])
def test_an_export_holds_exactly_what_is_visible(world: World, name: str, resource: str) -> None:
    answer = world.client(name).get(f"/api/v1/{resource}/?format=csv")
    text = b"".join(answer.streaming_content).decode()

    assert {row["id"] for row in csv.DictReader(io.StringIO(text))} == visible(world, name, resource)
    assert not [key for hidden in RESOURCES for key in ids_of(world.theirs, hidden) if key in text]


@pytest.mark.parametrize("resource", SEARCHED)
@pytest.mark.parametrize("name", ["admin_a", "owner_a1", "owner_a2"])
def test_a_search_finds_nothing_that_is_hidden(world: World, name: str, resource: str) -> None:
    """`e` is in nearly every name; the names of the others' things are in nothing that is one's own."""
    client, everything = world.client(name), visible(world, name, resource)

    found = {row["id"] for row in client.get(f"/api/v1/{resource}/?search=e").json()["results"]}
    assert found <= everything
    for text in (world.theirs.server.name, world.theirs.tenant.name, world.theirs.definition.name):
        assert client.get(f"/api/v1/{resource}/", {"search": text}).json()["results"] == []


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("name", ["admin_a", "owner_a1", "owner_a2"])
def test_an_ordering_shows_neither_more_nor_less(world: World, name: str, resource: str) -> None:
    client = world.client(name)
    for ordering in ("created_at", "-created_at"):
        answer = client.get(f"/api/v1/{resource}/?ordering={ordering}").json()

        assert {row["id"] for row in answer["results"]} == visible(world, name, resource)


def test_pages_together_hold_exactly_what_is_visible(world: World) -> None:
    for _ in range(5):
        make_backup(world.ours.server)
        make_backup(world.theirs.server)
    address, seen = "/api/v1/backups/?limit=2", []
    while address:
        body = world.client("owner_a1").get(address).json()
        seen.extend(row["id"] for row in body["results"])
        address = body["next"]

    assert sorted(seen) == sorted(visible(world, "owner_a1", "backups"))


FILTERS = [
    ("servers", "tenant", lambda estate: estate.tenant.pk),
    ("servers", "node", lambda estate: estate.node.pk),
    ("disks", "server", lambda estate: estate.server.pk),
    ("disks", "storage", lambda estate: estate.storage.pk),
    ("storages", "node", lambda estate: estate.node.pk),
    ("definitions", "tenant", lambda estate: estate.tenant.pk),
    ("definitions", "server", lambda estate: estate.server.pk),
    ("definitions", "disk", lambda estate: estate.definition.disk_id),
    ("backups", "tenant", lambda estate: estate.tenant.pk),
    ("backups", "server", lambda estate: estate.server.pk),
    ("backups", "disk", lambda estate: estate.definition.disk_id),
    ("backups", "definition", lambda estate: estate.definition.pk),
    ("jobs", "tenant", lambda estate: estate.tenant.pk),
    ("jobs", "disk", lambda estate: estate.definition.disk_id),
    ("jobs", "definition", lambda estate: estate.definition.pk),
    ("jobs", "backup", lambda estate: estate.backup.pk),
    ("restores", "disk", lambda estate: estate.definition.disk_id),
]


@pytest.mark.parametrize(("resource", "parameter", "value"), FILTERS, ids=[f"{row[0]}-{row[1]}" for row in FILTERS])
def test_a_filter_by_a_foreign_id_finds_nothing(world: World, resource: str, parameter: str, value: Any) -> None:
    address = counted(resource) + ("&" if "?" in counted(resource) else "?") + f"{parameter}="

    foreign = world.client("admin_a").get(f"{address}{value(world.theirs)}")
    missing = world.client("admin_a").get(f"{address}{uuid.uuid4()}")
    own = world.client("admin_a").get(f"{address}{value(world.ours)}").json()

    assert (foreign.json()["count"], foreign.json()["results"]) == (0, [])
    assert foreign.content == missing.content
    assert own["count"] >= 1
    assert {row["id"] for row in own["results"]} <= ids_of(world.ours, resource)


def test_a_node_of_two_tenants_is_listed_once_for_the_admin_of_both(world: World) -> None:
    both = [world.ours.tenant, world.theirs.tenant]
    shared = make_node(*both)
    world.people["both"] = make_person("both", administers=both)

    answer = world.client("both").get("/api/v1/nodes/").json()

    assert [row["id"] for row in answer["results"]].count(str(shared.pk)) == 1
    assert answer["count"] == len(answer["results"])


def test_a_node_does_not_tell_of_its_other_tenants(world: World) -> None:
    shared = make_node(world.ours.tenant, world.theirs.tenant)

    text = world.client("admin_a").get(f"/api/v1/nodes/{shared.pk}/").content.decode()

    assert str(world.theirs.tenant.pk) not in text


def test_removed_backups_are_listed_only_when_asked_for_and_still_only_own_ones(world: World) -> None:
    Backup.objects.update(removed_at=timezone.now())
    client = world.client("admin_a")

    assert client.get("/api/v1/backups/?count=true").json()["count"] == 0
    assert [row["id"] for row in client.get("/api/v1/backups/?removed=true").json()["results"]] == [
        str(world.ours.backup.pk)
    ]


@pytest.mark.case("AZ-06")
def test_losing_a_grant_hides_everything_at_once(world: World) -> None:
    client = world.client("admin_a")
    assert client.get("/api/v1/servers/?count=true").json()["count"] == 2

    world.ours.tenant.user_grants.all().delete()

    assert client.get("/api/v1/servers/?count=true").json()["count"] == 0
    assert client.get(f"/api/v1/servers/{world.ours.server.pk}/").status_code == 404
