"""The list of vaults: who finds which, what it says of each, its orders, and the ways that lead to it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django.utils.formats import date_format
from rest_framework.test import APIClient

from backups.models import VaultFigures
from tests.factories import make_person, make_tenant, make_vault
from tests.signing_in import sign_in
from tests.worlds import World
from vaults.alarms import acknowledge_alarm
from vaults.models import Alarm, Endpoint, Region, Vault, VaultDeletion

NOW = timezone.now()


def names_of(world: World, query: str = "", name: str = "super") -> list[str]:
    answer = world.client(name).get(f"/vaults/?{query}")
    assert answer.status_code == 200
    return [vault.name for vault in answer.context["listed"].rows]


def text_of(world: World, path: str, name: str = "super") -> str:
    return " ".join(world.client(name).get(path).content.decode().split())


def row_of(world: World, vault: Vault, name: str = "super") -> str:
    text = text_of(world, f'/vaults/?q="{vault.name}"', name)
    return re.sub(r"<[^>]+>", " ", text[text.index("<tbody>") : text.index("</tbody>")])


def further_vault(world: World, title: str, region: str, **changes: Any) -> Vault:
    """Of a tenant of its own, in a region of its own."""
    vault = make_vault(make_tenant(title))
    endpoint = Endpoint.objects.create(
        region=Region.objects.get_or_create(code=region)[0], url=f"http://{region.lower()}.example"
    )
    Vault.objects.filter(pk=vault.pk).update(endpoint=endpoint, **changes)
    return Vault.objects.get(pk=vault.pk)


def test_each_filter_finds_exactly_what_it_says(world: World) -> None:
    ours, theirs = world.ours.vault, world.theirs.vault
    refused = further_vault(world, "Third", "ZZZ", status="refused")
    region = ours.endpoint.region_id
    everything = sorted([ours.name, theirs.name, refused.name])

    assert names_of(world) == everything
    assert names_of(world, "status=refused") == [refused.name]
    assert names_of(world, "region=ZZZ") == [refused.name]
    assert names_of(world, f"region={region}") == sorted([ours.name, theirs.name])
    assert names_of(world, f"tenant={ours.tenant_id}") == [ours.name]
    assert names_of(world, f'q="{ours.name}"') == [ours.name]
    assert names_of(world, "q=nothing-like-it") == []
    # Each of the world has one alarm; what somebody has seen needs nobody.
    assert names_of(world, "alarms=on") == sorted([ours.name, theirs.name])
    acknowledge_alarm(world.theirs.alarm, note="", actor=world.people["super"], now=NOW)
    assert names_of(world, "alarms=on") == [ours.name]


@pytest.mark.case("AZ-03")
def test_who_finds_which(world: World) -> None:
    ours, theirs = world.ours.vault, world.theirs.vault

    assert names_of(world, name="admin_a") == [ours.name]
    assert names_of(world, "alarms=on", name="admin_b") == [theirs.name]
    assert names_of(world, name="owner_a1") == []
    assert names_of(world, f"tenant={theirs.tenant_id}", name="admin_a") == []
    assert "Administrators of a tenant see its vaults" in text_of(world, "/vaults/", "owner_a1")


def test_a_row_says_what_it_holds_until_when_and_how_many_alarms_need_a_person(world: World) -> None:
    ours, theirs = world.ours.vault, world.theirs.vault
    VaultFigures.objects.create(
        vault=ours, counted_at=NOW, backup_count=1, violation_count=0, ending_count=0, stored_bytes=5 << 30,
        soonest_end=NOW + timedelta(days=9),
    )  # fmt: skip
    Alarm.objects.create(vault=ours, code="scrub_late", message="late", seen_at=NOW)
    Alarm.objects.filter(vault=theirs).delete()
    VaultDeletion.objects.create(
        vault=theirs, tenant=theirs.tenant, name=theirs.name, requested_at=NOW, undo_until=NOW + timedelta(days=1)
    )

    found, other = row_of(world, ours), row_of(world, theirs)

    assert "5.0 GiB" in found and date_format(NOW + timedelta(days=9), "j M Y") in found
    assert "2 need a person" in found and ours.tenant.title in found and ours.endpoint.region_id in found
    assert "being removed" not in found
    assert "Not counted yet" in other and "none" in other and "being removed" in other


def test_each_order_gives_every_vault_once_over_its_pages(world: World) -> None:
    for number in range(30):
        further_vault(world, f"More {number}", f"R{number % 7}{number:02}", status=("ready", "pending")[number % 2])
    columns = {"name": "name", "region": "endpoint__region", "status": "status", "added": "created_at"}
    client = world.client("super")
    for sort, column in columns.items():
        for sign in ("", "-"):
            found, address = [], f"?rows=25&sort={sign}{sort}"
            while address:
                listed = client.get(f"/vaults/{address}").context["listed"]
                found += [vault.pk for vault in listed.rows]
                address = listed.next_address
            assert found == list(Vault.objects.order_by(f"{sign}{column}", f"{sign}pk").values_list("pk", flat=True))


@pytest.mark.parametrize("name", ["super", "admin_a"])
def test_pages_that_name_a_vault_lead_to_it(world: World, name: str) -> None:
    ours = world.ours
    link = f'href="/vaults/{ours.vault.pk}/"'
    region = ours.vault.endpoint.region_id

    for path in (f"/backups/{ours.backup.pk}/", f"/definitions/{ours.definition.pk}/", "/vaults/", "/vaults/overview/"):
        assert link in text_of(world, path, name), path
    for path in ("/regions/", "/overview/places/"):
        assert f'href="/vaults/?region={region}"' in text_of(world, path, name), path
    for path in (f"/backups/{ours.backup.pk}/", f"/definitions/{ours.definition.pk}/"):
        assert link not in text_of(world, path, "owner_a1"), path
    assert 'href="/vaults/" aria-current="page"' in text_of(world, f"/vaults/{ours.vault.pk}/", name)


@pytest.mark.django_db
def test_without_a_vault_it_says_what_makes_one() -> None:
    people = {"super": make_person(superadmin=True), "admin": make_person(administers=[make_tenant("New")])}
    said = {}
    for name, person in people.items():
        client = APIClient()
        sign_in(client, person)
        said[name] = client.get("/vaults/").content.decode()

    assert 'href="/orders/new/"' in said["super"] and "affinity" in said["super"]
    assert "SuperAdmins add servers" in said["admin"] and 'href="/orders/new/"' not in said["admin"]
