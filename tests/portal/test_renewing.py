"""A page that is left open stays true: its parts ask again, and are answered alone or by nothing at all."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from agents.models import Agent, Node
from backups.models import AskedRestore, Backup, Job
from tenants.models import ApprovalRequest
from tests.factories import (
    make_approval_request,
    make_asked_restore,
    make_backup,
    make_job,
    make_manifest,
    make_server,
    make_tenant_key,
)
from tests.worlds import World
from vaults.alarms import raise_alarm
from vaults.custody import fingerprint
from vaults.models import Envelope, ObjectUse, StoredObject, TenantKey, Vault
from vaults.rotation import REWRAP_ALARM

PAGES = (
    *("servers/", "backups/", "definitions/", "agents/", "nodes/", "vaults/", "jobs/", "restores/", "people/"),
    *("keys/", "approvals/", "keys/<pk>/", "tenants/<pk>/", "definitions/load/"),
    *("tenants/", "tokens/", "policies/", "audit/", "definitions/overview/"),
    *("notifications/", "webhooks/<pk>/", "pauses/"),
    *("servers/<pk>/", "backups/<pk>/", "nodes/<pk>/", "vaults/<pk>/", "definitions/<pk>/", "agents/<pk>/"),
)
OF_SUPERADMINS = ("orders/", "releases/", "copies/", "budgets/", "policies/<pk>/")
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


@pytest.mark.parametrize("path", PAGES + OF_SUPERADMINS)
def test_it_is_told_nothing_where_nothing_changed_and_the_part_alone_otherwise(world: World, path: str) -> None:
    address, client = address_of(world, path), world.client("super" if path in OF_SUPERADMINS else "admin_a")
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


def test_what_waits_for_an_administrator_is_found_while_the_page_is_open(world: World) -> None:
    """Agents that nobody let in yet, restores that servers ask for, and requests for a second person."""
    ours, client = world.ours, world.client("admin_a")
    AskedRestore.objects.all().delete()
    ApprovalRequest.objects.all().delete()
    agents, approvals = client.get("/agents/").text, client.get("/approvals/").text
    assert "Waiting for you" not in agents and "Nothing waits" in approvals

    Agent.objects.filter(pk=ours.agent.pk).update(status="pending")
    make_asked_restore(ours.agent, ours.backup)
    make_approval_request(ours.definition, by=ours.member)

    part = ask(client, "/agents/", seen_of(agents, "waiting"), "waiting").text
    assert "Waiting for you" in part and "Restores that servers ask for" in part
    assert ours.member.username in ask(client, "/approvals/", seen_of(approvals)).text


def test_a_node_that_drains_is_asked_for_often(world: World) -> None:
    address, client = f"/nodes/{world.ours.node.pk}/", world.client("super")
    make_job(world.ours.server, state="running")
    Node.objects.filter(pk=world.ours.node.pk).update(status="maintenance")
    page = client.get(address).text
    seen = re.search(r'id="renewed" data-seen="([0-9a-f]+)" hx-get="[^"]+" hx-trigger="every 5s, renew"', page)
    assert seen and "Draining: 1 job still to end" in page

    Job.objects.filter(state="running").update(state="ok", lease_until=None)

    part = ask(client, address, seen[1]).text
    assert "Drained: nothing runs on it" in part and "every 45s" in part


def seal(world: World, key: TenantKey, *sessions: str) -> None:
    """Envelopes of these sessions for the key, each with a manifest that needs it."""
    for session in sessions:
        manifest, row = make_manifest(world.ours.vault), make_manifest(world.ours.vault)
        StoredObject.objects.filter(pk=row.pk).update(kind="k")
        Envelope.objects.create(stored_object=row, writer_session=session, recipient=fingerprint(key))
        ObjectUse.objects.create(manifest=manifest, needed=row)


def test_keys_that_are_re_wrapped_say_how_far_they_are(world: World) -> None:
    key, client = world.ours.key, world.client("admin_a")
    address = f"/keys/{key.pk}/"
    assert "Re-wrapping" not in client.get(address).text
    earlier = make_tenant_key(world.ours.tenant, status="retired")
    seal(world, earlier, "1", "2", "3", "4")
    seal(world, key, "1")

    page = client.get(address).text
    assert 'value="25"' in page and "could not be sealed" not in page
    assert "<strong>1</strong> of 4 sessions open with this key" in page and "3 not yet" in page
    # Counting is not for every few seconds, and rounds take longer.
    part = ask(client, address, "another")
    assert seen_of(part.text) == seen_of(page) and "every 45s" in page

    raise_alarm(world.ours.vault, code=REWRAP_ALARM, message="3 sessions.", now=timezone.now())
    failing = client.get(address).text
    assert "could not be sealed" in failing and "3 not yet" in failing and "<progress" not in failing

    seal(world, key, "2", "3", "4")
    assert "Re-wrapping" not in client.get(address).text


def test_what_only_an_earlier_key_of_the_customer_opens_is_no_progress(world: World) -> None:
    """It stays so: the service never opens it."""
    tenant, client = world.ours.tenant, world.client("admin_a")
    TenantKey.objects.filter(pk=world.ours.key.pk).update(mode="customer", wrapped_private_key=None)
    earlier = make_tenant_key(tenant, status="retired", mode="customer", wrapped_private_key=None)
    seal(world, earlier, "1", "2")
    seal(world, world.ours.key, "3")

    page = client.get(f"/keys/{world.ours.key.pk}/").text

    assert "<strong>1</strong> of 3 sessions open with this key" in page and "2 with no key of the service" in page
    assert "is not re-wrapped: keep that key until those backups are gone" in page
    assert "<progress" not in page and "not yet" not in page and "A round is made" not in page


def test_a_page_whose_thing_is_gone_or_is_seen_no_more_is_loaded_again(world: World) -> None:
    """The scripts put no answer that is an error into a page: it went on to show what was."""
    client = world.client("admin_a")
    gone, foreign = f"/vaults/{uuid4()}/", f"/servers/{world.theirs.server.pk}/"

    for answer in (ask(client, gone, "seen"), ask(client, foreign, "seen")):
        assert (answer.status_code, answer.headers["HX-Refresh"], answer.content) == (200, "true", b"")
    assert [client.get(path).status_code for path in (gone, foreign)] == [404, 404]
