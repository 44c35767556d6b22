"""Every empty list and part of a page says what to do next, or who does it: for each role, and with nothing there."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from django.conf import settings
from django.urls import reverse
from rest_framework.test import APIClient

from agents.models import Node, Storage
from backupsite.templatetags.menu import every_page
from definitions.models import Definition, Policy
from tenants.models import Person
from tests.factories import make_person, make_tenant
from tests.signing_in import sign_in
from tests.worlds import World
from vaults.models import Region

# What an empty part is in: a card of its own, or the body of one in which a table would be.
_EMPTY = re.compile(r"\bempty\b(?!-)")
_BODY = re.compile(r"\bcard-body\b.*\btext-secondary\b")
# Who does it; or when it comes by itself; or that nothing is to be done.
_WHO = r"SuperAdmin|administrator|administers|operator"
_WHEN = r"within the hour|as soon as|within a minute|each hour|by itself|when an event comes"
_DONE = r"Nothing\. All is well|None stands|Nothing waits"
_DO = r"\b(Add one|Say below|Choose|The command)\b"
_STEP = re.compile(rf"<a |<button|{_WHO}|{_WHEN}|{_DONE}|{_DO}")
_VOID = {"input", "br", "img", "hr", "meta", "link", "progress"}


class Parts(HTMLParser):
    """The empty parts of a page, each as markup. Only within <main>; what says that something is shown is no such."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._open: list[tuple[str, int | None]] = []
        self._is_main = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_main = self._is_main or tag == "main"
        names = dict(attrs).get("class") or ""
        is_empty = self._is_main and bool(_EMPTY.search(names) or (_BODY.search(names) and tag == "div"))
        for _, place in self._open:
            if place is not None:
                self.found[place] += f"<{tag} "
        if tag not in _VOID:
            self._open.append((tag, len(self.found) if is_empty else None))
        if is_empty:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if any(name == tag for name, _ in self._open):
            while self._open.pop()[0] != tag:
                pass
        self._is_main = self._is_main and tag != "main"

    def handle_data(self, data: str) -> None:
        for _, place in self._open:
            if place is not None:
                self.found[place] += data


def empty_parts(text: str) -> list[str]:
    parser = Parts()
    parser.feed(text)
    return [" ".join(part.split()) for part in parser.found if not _is_a_table(part)]


def _is_a_table(part: str) -> bool:
    return "<table" in part or not part.strip()


def without_a_step(text: str) -> list[str]:
    return [part for part in empty_parts(text) if not _STEP.search(part)]


PEOPLE = ("super", "admin", "owner")
PAGES = [reverse(page.name) for page in every_page() if page.name not in {"api:docs", "mfa_index"}]
PARTS = ["/overview/days/", "/overview/places/", "/vaults/overview/", "/agents/?unused=on", "/definitions/overview/"]


@pytest.fixture
def nothing(db: None) -> dict[str, Person]:
    """Nobody has anything: a SuperAdmin, the administrator of a tenant without servers, somebody who owns none."""
    return {
        "super": make_person("super", superadmin=True),
        "admin": make_person("admin", administers=[make_tenant("Empty")]),
        "owner": make_person("owner"),
    }


def client_of(person: Person) -> Any:
    client = APIClient()
    sign_in(client, person)
    return client


@pytest.mark.parametrize("address", sorted({*PAGES, *PARTS}))
def test_an_empty_page_says_the_next_step_to_each_role(nothing: dict[str, Person], address: str) -> None:
    for name in PEOPLE:
        answer = client_of(nothing[name]).get(address)
        if answer.status_code == 200:
            assert without_a_step(answer.content.decode()) == [], (name, address)


def test_the_lists_are_really_empty(nothing: dict[str, Person]) -> None:
    """Otherwise the test above would look at nothing."""
    said = [part for address in PAGES for part in empty_parts(client_of(nothing["super"]).get(address).text)]

    assert len(said) >= 15, said


def test_one_that_says_nothing_is_found() -> None:
    page = '<main><div class="empty card"><p class="empty-title">There is no definition yet.</p></div></main>'

    assert without_a_step(page) == ["<p There is no definition yet."]
    assert without_a_step(page.replace("yet.", 'yet. <a href="/">Make one</a>')) == []


def empty_objects(world: World) -> dict[str, str]:
    """Pages of things that have nothing in them."""
    tenant = world.ours.tenant
    node = Node.objects.create(name="bare", region=Region.objects.first())
    node.tenants.add(tenant)
    Definition.objects.filter(tenant=tenant).delete()
    Storage.objects.filter(node=node).delete()
    policy = Policy.objects.create(name="unused", restricted=False)
    return {
        "node": f"/nodes/{node.pk}/",
        "policy": f"/policies/{policy.pk}/",
        "server": f"/servers/{world.ours.other_server.pk}/",
        "restore": f"/servers/{world.ours.other_server.pk}/restore/",
        "tenant": f"/tenants/{tenant.pk}/",
        "vault": f"/vaults/{world.ours.vault.pk}/",
        "backup": f"/backups/{world.ours.backup.pk}/restore/?q=nothing-like-that",
    }


@pytest.mark.parametrize("kind", ["node", "policy", "server", "restore", "tenant", "vault", "backup"])
def test_the_page_of_a_thing_that_has_nothing_in_it(world: World, kind: str) -> None:
    address = empty_objects(world)[kind]
    for name in ("super", "admin_a", "owner_a2"):
        answer = world.client(name).get(address)
        if answer.status_code == 200:
            assert without_a_step(answer.content.decode()) == [], (name, address)


def test_a_node_without_a_storage_and_a_policy_given_to_nobody(world: World) -> None:
    found = empty_objects(world)
    supers, admins = world.client("super"), world.client("admin_a")

    assert "Add one below" in supers.get(found["node"]).text
    assert "SuperAdmins do that" in admins.get(found["node"]).text
    assert 'href="#give"' in supers.get(found["policy"]).text


@pytest.mark.parametrize("name", ["super", "admin_a"])
def test_a_node_that_is_offline_says_what_to_do_and_leads_there(world: World, name: str) -> None:
    Node.objects.filter(pk=world.ours.node.pk).update(status="offline")

    [concern] = [one for one in world.client(name).get("/").context["concerns"] if one.title == "Node offline"]

    assert concern.address == f"/nodes/{world.ours.node.pk}/"
    assert ("backupsite-node.service" if name == "super" else "operator") in concern.text


@pytest.mark.parametrize(
    ("address", "title"),
    [
        ("/backups/00000000-0000-0000-0000-000000000000/", "Backups"),
        ("/jobs/00000000-0000-0000-0000-000000000000/", "Jobs"),
        ("/servers/00000000-0000-0000-0000-000000000000/restore/", "Servers"),
        ("/definitions/00000000-0000-0000-0000-000000000000/edit/", "Definitions"),
    ],
)
def test_what_is_not_there_leads_to_the_list_of_its_kind(world: World, address: str, title: str) -> None:
    answer = world.client("owner_a1").get(address)

    assert answer.status_code == 404
    listed = "/" + address.split("/")[1] + "/"
    assert re.search(rf'Look for it under\s*<a href="{listed}">{title}</a>', answer.text)


def test_an_address_that_nobody_knows_leads_to_the_main_lists(world: World) -> None:
    text = world.client("owner_a1").get("/nothing/like/that/").text

    assert [link in text for link in ('href="/servers/">Servers', 'href="/backups/">Backups')] == [True, True]


def test_nobody_who_is_not_signed_in_is_led_anywhere(world: World) -> None:
    answer = world.client("anonymous").get("/nothing/like/that/")

    assert answer.status_code == 404
    assert "Look for it under" not in answer.text


@pytest.fixture
def contact(monkeypatch: pytest.MonkeyPatch) -> str:
    told = "help@provider.example"
    monkeypatch.setattr(settings, "CONFIG", settings.CONFIG.model_copy(update={"contact": told}))
    return told


REFUSED = ["/backups/<pk>/restore/", "/definitions/<pk>/edit/", "/servers/<pk>/restore/"]
ASKING = ["/backups/<pk>/", "/servers/<pk>/"]


@pytest.mark.parametrize("path", [*REFUSED, *ASKING])
def test_an_owner_is_told_whom_to_ask(world: World, contact: str, path: str) -> None:
    kind = path.split("/")[1]
    address = path.replace("<pk>", str(world.ours.object_of(kind).pk))

    owners, admins = (world.client(name).get(address).text for name in ("owner_a1", "admin_a"))

    assert f'<a href="mailto:{contact}">{contact}</a>' in owners
    assert contact not in admins
    # Nobody by name: an owner sees himself alone.
    assert "admin_a" not in owners and "member_a" not in owners


def test_without_a_contact_nobody_is_named(world: World) -> None:
    assert "Whom to ask" not in world.client("owner_a1").get(f"/backups/{world.ours.backup.pk}/restore/").text


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("https://help.example.com/", '<a href="https://help.example.com/">https://help.example.com/</a>'),
        ("the night desk, 555-0100", "Whom to ask: the night desk, 555-0100."),
        ("https://chat.example.com/@help", '<a href="https://chat.example.com/@help">'),
        ("help@example.com", '<a href="mailto:help@example.com">'),
        ("@night-desk", "Whom to ask: @night-desk."),
        ("javascript:alert(1)//@x y", "Whom to ask: javascript:alert(1)//@x y."),
        ("<b>help</b>", "Whom to ask: &lt;b&gt;help&lt;/b&gt;."),
    ],
)
def test_a_contact_is_a_link_only_where_it_is_an_address(
    nothing: dict[str, Person], monkeypatch: pytest.MonkeyPatch, told: str, shown: str
) -> None:
    monkeypatch.setattr(settings, "CONFIG", settings.CONFIG.model_copy(update={"contact": told}))

    assert shown in client_of(nothing["owner"]).get("/servers/").text


def test_an_owner_without_servers_is_told_on_the_first_page(nothing: dict[str, Person], contact: str) -> None:
    assert contact in client_of(nothing["owner"]).get("/").text
