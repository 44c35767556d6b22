"""A page that is left open stays true: its parts ask again, and are answered alone or by nothing at all."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agents.models import Node
from backups.models import Backup
from tests.factories import make_backup, make_job, make_server
from tests.worlds import World
from vaults.models import Vault

PAGES = (
    *("servers/", "backups/", "definitions/", "agents/", "nodes/", "vaults/", "jobs/", "restores/", "people/"),
    *("servers/<pk>/", "backups/<pk>/", "nodes/<pk>/", "vaults/<pk>/", "definitions/<pk>/", "agents/<pk>/"),
)
MOST_SECONDS = 60


def address_of(world: World, path: str) -> str:
    kind = path.split("/")[0]
    return "/" + (path.replace("<pk>", str(world.ours.object_of(kind).pk)) if "<pk>" in path else path)


def seen_of(text: str, part: str = "renewed") -> str:
    found = re.search(
        rf'<div id="{part}" data-seen="([0-9a-f]+)" hx-get="[^"]+" hx-trigger="every (\d+)s, renew"', text
    )
    assert found, text[:2000]
    assert 30 <= int(found[2]) <= (MOST_SECONDS if part in {"renewed", "last-backups"} else 300)
    return found[1]


def ask(client: Any, address: str, seen: str, part: str = "renewed") -> Any:
    headers = {"HX-Request": "true", "HX-Target": part, "X-Seen": seen}
    return client.get(address, headers=headers)


@pytest.mark.parametrize("path", PAGES)
def test_it_is_told_nothing_where_nothing_changed_and_the_part_alone_otherwise(world: World, path: str) -> None:
    address, client = address_of(world, path), world.client("admin_a")
    page = client.get(address).content.decode()

    same, other = ask(client, address, seen_of(page)), ask(client, address, "another")

    assert (same.status_code, same.content) == (204, b"")
    part = other.content.decode()
    assert other.status_code == 200 and part.startswith('<div id="renewed"') and "<html" not in part
    assert seen_of(part) == seen_of(page)


def test_what_changed_is_in_the_part(world: World) -> None:
    ours, client = world.ours, world.client("admin_a")
    addresses = [f"/backups/{ours.backup.pk}/", f"/nodes/{ours.node.pk}/", f"/vaults/{ours.vault.pk}/", "/servers/"]
    seen = {address: seen_of(client.get(address).content.decode()) for address in addresses}

    Backup.objects.filter(pk=ours.backup.pk).update(status="lost")
    Node.objects.filter(pk=ours.node.pk).update(status="maintenance")
    Vault.objects.filter(pk=ours.vault.pk).update(status="refused", refusal="It forgets locks.")
    make_server(ours.tenant, name="quite-new")

    texts = [ask(client, address, seen[address]).content.decode() for address in addresses]
    for text, word in zip(texts, ["lost", "nothing begins", "It forgets locks.", "quite-new"], strict=True):
        assert word in text


@pytest.mark.parametrize("address", ["/jobs/", "/restores/"])
def test_a_list_without_any_job_finds_the_first_one(world: World, address: str) -> None:
    client = world.client("owner_a2")
    page = client.get(address).content.decode()
    assert "There are none yet" in page

    job = make_job(world.ours.other_server, kind="restore", state="running")

    assert str(job.pk) in ask(client, address, seen_of(page)).content.decode()


def test_the_parts_of_the_first_page(world: World) -> None:
    client = world.client("admin_a")
    page = client.get("/").content.decode()
    make_backup(world.ours.server)

    assert ask(client, "/", seen_of(page, "last-backups"), "last-backups").status_code == 200
    for address, part in (
        ("/overview/days/", "overview-days"),
        ("/overview/places/", "overview-places"),
        ("/vaults/overview/", "overview-vaults"),
    ):
        text = client.get(address, headers={"HX-Request": "true"}).content.decode()
        assert ask(client, address, seen_of(text, part), part).status_code == 204
        again = ask(client, address, "another", part).content.decode()
        assert again.startswith(f'<div id="{part}"')


def test_an_open_list_goes_on_with_what_it_shows(world: World) -> None:
    """Whatever was chosen in another window; and its asking is not remembered."""
    client = world.client("admin_a")
    here = client.get("/backups/").content.decode()
    client.get("/backups/?keep=1&status=lost")

    answer = ask(client, "/backups/", seen_of(here))
    ask(client, "/backups/?keep=1&status=ok", "another")

    assert answer.status_code == 204
    assert client.get("/backups/")["Location"] == "/backups/?status=lost&keep=1"


def test_a_refused_form_is_not_asked_for_again(world: World) -> None:
    typed = {"note": "x" * 999}
    answer = world.client("super").post(f"/alarms/{world.ours.alarm.pk}/acknowledge/", typed, format="multipart")

    assert answer.status_code == 400
    assert "data-seen" not in answer.content.decode()


def test_other_fragments_and_whole_pages_are_what_they_were(world: World) -> None:
    client = world.client("admin_a")
    boosted = {"HX-Request": "true", "HX-Boosted": "true", "HX-Target": "list"}

    assert "<html" in client.get("/servers/", headers=boosted).content.decode()
    assert 'id="live"' in client.get("/jobs/", headers={"HX-Request": "true", "HX-Target": "live"}).content.decode()
    # Signed out meanwhile: the whole page is loaded anew, and asks who it is.
    assert ask(world.client("anonymous"), "/servers/", "seen")["HX-Refresh"] == "true"
