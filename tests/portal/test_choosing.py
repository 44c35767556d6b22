"""Fields in which one types the name of an object: what they find, what they suggest, and what stays hidden."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.test.utils import CaptureQueriesContext

from agents.choosing import DISKS, SERVERS
from agents.models import Node, Server
from agents.people import roles_of
from definitions.models import Definition
from tenants.choosing import LINES, MOST_SUGGESTED, TENANTS, ScopedChoiceField
from tenants.models import Invitation
from tests.factories import disk_of, make_definition, make_server, make_tenant
from tests.worlds import Estate, World


def names_of(estate: Estate) -> dict[str, list[str]]:
    """How the estate's objects may be typed, by the address of their suggestions."""
    tenant, server, disk = estate.tenant, estate.server, disk_of(estate.server)
    whole = f"{disk.server.name} disk {disk.number}"
    return {
        "tenants": [f"{tenant.title} ({tenant.name})", tenant.name, str(tenant.pk)],
        "servers": [f"{server.name} ({tenant.name})", server.name, str(server.pk)],
        "disks": [f"{whole} ({tenant.name})", whole, server.name, str(disk.pk)],
    }


def suggested(world: World, name: str, kind: str, typed: str = "") -> list[str]:
    answer = world.client(name).get(f"/choices/{kind}/", {"q": typed} if typed else {})
    assert answer.status_code == 200
    return re.findall(r'value="([^"]*)"', answer.content.decode())


@pytest.mark.parametrize("kind", ["tenants", "servers", "disks"])
def test_suggestions_are_what_one_may_choose(world: World, kind: str) -> None:
    ours, theirs = names_of(world.ours)[kind][0], names_of(world.theirs)[kind][0]

    assert {ours, theirs} <= set(suggested(world, "super", kind))
    assert ours in suggested(world, "admin_a", kind)
    assert theirs not in suggested(world, "admin_a", kind)
    # By its whole name, its id, a part of it: a foreign one is not there.
    for typed in [*names_of(world.theirs)[kind], world.theirs.server.name[:3]]:
        assert theirs not in suggested(world, "admin_a", kind, typed)
    for name in ("owner_a1", "owner_a2"):
        assert suggested(world, name, kind) == []
    assert world.client("anonymous").get(f"/choices/{kind}/").status_code == 302


@pytest.mark.parametrize(("kind", "statements"), [("tenants", 5), ("servers", 5), ("disks", 5)])
@pytest.mark.parametrize("name", ["super", "admin_a"])
def test_a_list_stays_short_however_many_there_are(world: World, kind: str, statements: int, name: str) -> None:
    for number in range(MOST_SUGGESTED + 5):
        tenant = make_tenant(title=f"Many {number}") if kind == "tenants" else world.ours.tenant
        make_server(tenant, name=f"many-{number}")
    client = world.client(name)

    with CaptureQueriesContext(connection) as queries:
        found = client.get(f"/choices/{kind}/", {"server": "many" if kind != "tenants" else "Many"}).content.decode()

    shown = found.count("<option")
    assert shown == (0 if (name, kind) == ("admin_a", "tenants") else MOST_SUGGESTED)
    assert len(queries) <= statements


@pytest.mark.parametrize("typed", ["%", "_", "\\", "'", '"><script>', "\0", "x" * 2000, "(", " ("])
def test_anything_can_be_typed(world: World, typed: str) -> None:
    for kind in ("tenants", "servers", "disks"):
        answer = world.client("super").get(f"/choices/{kind}/", {"q": typed})
        assert answer.status_code == 200
        assert "<script" not in answer.content.decode()


FIELDS = {"tenants": TENANTS, "servers": SERVERS, "disks": DISKS}


def chosen(world: World, name: str, kind: str, typed: str) -> Any:
    """The key of what was found, or the code of the refusal."""
    field = ScopedChoiceField(FIELDS[kind])
    field.offer(FIELDS[kind].offered(world.people[name]))
    try:
        return field.clean(typed).pk
    except ValidationError as error:
        return error.code


@pytest.mark.parametrize("kind", ["tenants", "servers", "disks"])
def test_one_object_by_each_of_its_names_and_no_foreign_one(world: World, kind: str) -> None:
    expected = {
        "tenants": world.ours.tenant.pk,
        "servers": world.ours.server.pk,
        "disks": disk_of(world.ours.server).pk,
    }[kind]

    for typed in names_of(world.ours)[kind]:
        assert chosen(world, "admin_a", kind, f" {typed} ") == expected, typed
        assert chosen(world, "admin_b", kind, typed) == "invalid_choice", typed
        assert chosen(world, "owner_a1", kind, typed) == "invalid_choice", typed
    assert chosen(world, "admin_a", kind, "nothing") == "invalid_choice"
    assert chosen(world, "admin_a", kind, "") == "required"


def test_a_name_that_several_have_is_not_guessed(world: World) -> None:
    for estate in (world.ours, world.theirs):
        make_server(estate.tenant, name="twin")
    twin = Server.objects.get(tenant=world.ours.tenant, name="twin")

    assert chosen(world, "super", "servers", "twin") == "ambiguous"
    assert chosen(world, "super", "disks", "twin disk 1") == "ambiguous"
    assert chosen(world, "super", "servers", f"twin ({world.ours.tenant.name})") == twin.pk
    # Who reaches one of them only has nothing to choose between.
    assert chosen(world, "admin_a", "servers", "twin") == twin.pk
    assert chosen(world, "admin_a", "disks", "twin disk 1") == disk_of(twin).pk


def test_a_field_that_offers_nothing_finds_nothing(world: World) -> None:
    field = ScopedChoiceField(TENANTS)

    for typed in names_of(world.ours)["tenants"]:
        with pytest.raises(ValidationError, match="no such tenant"):
            field.clean(typed)


def test_the_only_one_stands_there_and_an_id_is_shown_by_its_name(world: World) -> None:
    name = names_of(world.ours)["tenants"][0]
    invite = world.client("admin_a").get("/people/invite/").content.decode()
    made = world.client("admin_a").get(f"/definitions/new/?disk={disk_of(world.ours.other_server).pk}")
    foreign = world.client("admin_a").get(f"/definitions/new/?disk={disk_of(world.theirs.server).pk}")

    assert f'value="{name}"' in invite
    assert "value=" not in re.findall(r'<input[^>]*name="tenant"[^>]*>', page(world, "super", "/people/invite/"))[0]
    assert f"{world.ours.other_server.name} disk 1" in made.content.decode()
    assert world.theirs.server.name not in foreign.content.decode()


def page(world: World, name: str, address: str) -> str:
    return str(world.client(name).get(address).content.decode())


def test_a_role_is_given_by_typing(world: World) -> None:
    person, client = world.people["owner_a1"], world.client("admin_a")
    address = f"/people/{person.pk}/grant/"

    given = client.post(address, {"server": world.ours.other_server.name, "tenant": ""}, format="multipart")
    refused = [
        client.post(address, typed, format="multipart")
        for typed in (
            {"server": "", "tenant": ""},
            {"server": world.ours.server.name, "tenant": world.ours.tenant.name},
            {"server": world.theirs.server.name},
            {"tenant": world.theirs.tenant.name},
        )
    ]

    assert given.status_code == 302
    assert {held.server for held in roles_of(person, seen_by=person)} == {world.ours.server, world.ours.other_server}
    assert [answer.status_code for answer in refused] == [400, 400, 400, 400]
    assert "Name a tenant or a server" in refused[0].content.decode()
    assert world.theirs.tenant.title not in refused[3].content.decode()


def test_servers_of_an_invitation_are_typed_line_by_line(world: World) -> None:
    own, other, foreign = world.ours.server, world.ours.other_server, world.theirs.server
    typed = {"tenant": world.ours.tenant.name, "email": "new@example.org"}

    wrong = world.client("admin_a").post(
        "/people/invite/", {**typed, "servers": [own.name, foreign.name]}, format="multipart"
    )
    good = world.client("admin_a").post(
        "/people/invite/", {**typed, "servers": [own.name, "", str(other.pk), own.name]}, format="multipart"
    )

    assert wrong.status_code == 400 and "There is no such server" in wrong.content.decode()
    assert wrong.content.decode().count('name="servers"') == LINES
    assert good.status_code == 200
    made = Invitation.objects.get(email="new@example.org")
    assert set(made.server_ids) == {str(own.pk), str(other.pk)}


def test_a_disk_of_a_definition_is_typed(world: World) -> None:
    server = make_server(world.ours.tenant, name="typed")
    form = {"disk": "typed", "name": "night", "cron": "0 1 * * *", "time_zone": "UTC", "retention_count": 3}

    answer = world.client("admin_a").post("/definitions/new/", form, format="multipart")

    assert answer.status_code == 302
    assert Definition.objects.get(name="night").disk == disk_of(server)


CHOOSING = ("/people/invite/", "/definitions/new/", "/tokens/new/", "/notifications/", "/webhooks/new/", "/approvals/")


def test_no_page_lists_all_tenants_or_servers(world: World) -> None:
    client = world.client("super")

    def asked() -> dict[str, tuple[int, int]]:
        """Length and statements of each page."""
        found = {}
        for address in CHOOSING:
            with CaptureQueriesContext(connection) as queries:
                found[address] = (len(client.get(address).content), len(queries))
        return found

    before = asked()
    for number in range(30):
        server = make_server(make_tenant(title=f"More {number}"))
        # As most nodes of a large fleet: storages of those that hold backups are few, and offered in full.
        Node.objects.filter(pk=server.node_id).update(is_backup=False)
    after = asked()

    for address in CHOOSING:
        assert after[address][0] <= before[address][0] + 200, address
        assert after[address][1] <= before[address][1], address


@pytest.mark.parametrize("most", [0, 10_000])
def test_searched_lists_are_in_order_whether_few_or_many_are_found(
    world: World, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("tenants.querysets.MOST_SOUGHT", most)
    for name in ("part-c", "part-a", "Part-b", "other"):
        make_definition(make_server(world.ours.tenant, name=name))
    make_definition(make_server(world.theirs.tenant, name="part-foreign"))
    client = world.client("admin_a")

    servers = [row.name for row in client.get("/servers/?q=PART").context["listed"].rows]
    definitions = [row.disk.server.name for row in client.get("/definitions/?q=part").context["listed"].rows]

    assert sorted(servers) == sorted(definitions) == ["Part-b", "part-a", "part-c"]
    assert [name for name in servers if name != "Part-b"] == ["part-a", "part-c"]
    assert len(suggested(world, "admin_a", "servers", "part")) == 3
    # A name of definitions finds where no server is called so.
    named = client.get(f"/definitions/?q={world.ours.definition.name[:4]}").context["listed"].rows
    assert world.ours.definition in list(named)


def test_a_person_with_very_many_roles_has_a_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.views.SHOWN_ROLES", 1)

    text = page(world, "super", f"/people/{world.people['owner_a1'].pk}/")

    assert text.count('value="1">Take') == 1
