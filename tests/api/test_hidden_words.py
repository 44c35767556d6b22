"""Nothing of another tenant is in any answer: every address that reads, every list in every way that it can be asked.

Generated from the routes and from what the viewsets declare, so that a new list, filter or action is asked as well.
What a list holds is compared with what the addresses of single objects answer.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import transaction

from backupsite.api_router import router
from tenants.api.filtering import Filter, by_id
from tests.api.test_permission_matrix import API, TABLE, Walk
from tests.worlds import Estate, World, make_world

pytestmark = [pytest.mark.django_db, pytest.mark.case("AZ-03")]

VIEWSETS: dict[str, Any] = {prefix: viewset for prefix, viewset, _ in router.registry}
READERS = ("admin_a", "owner_a1", "owner_a2")
# Of an owner's own tenant, and nothing that he sees. Ids of its tenant, vault and node stand in his own rows.
NOT_FOR_OWNERS = ("keys", "alarms", "webhooks", "subscriptions", "deliveries", "invitations", "companies", "approvals")
NOT_FOR_OWNERS += ("approval-rules",)
OF_SERVERS = ("servers", "disks", "definitions", "backups", "jobs", "restores", "agents")
# Both tenants have servers in the one region.
SHARED = frozenset({"regions"})


class Looker(Walk):
    """Knows besides what each of the readers must not find."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.foreign = words_of(world.theirs)
        self.hidden = {name: hidden_from(world, name) for name in READERS}

    def text(self, name: str, address: str) -> str:
        answer = self.ask(name, "GET", address, None)
        raw = b"".join(answer.streaming_content) if answer.streaming else answer.content
        return str(raw.decode())

    def told(self, name: str, address: str) -> list[str]:
        """What should be hidden and is in the answer."""
        text = self.text(name, address)
        return [what for word, what in self.hidden[name].items() if word in text]


@pytest.fixture(scope="module")
def walk(django_db_setup: None, django_db_blocker: Any) -> Iterator[Looker]:
    with django_db_blocker.unblock(), transaction.atomic():
        yield Looker(make_world())
        transaction.set_rollback(True)


def words_of(estate: Estate) -> dict[str, str]:
    """What names the estate and nothing else, with what it is."""
    keys = {str(estate.object_of(kind).pk): f"the id of its {kind}" for kind in VIEWSETS if kind not in SHARED}
    texts = {
        estate.tenant.name: "its tenant",
        estate.tenant.title: "its tenant",
        estate.server.name: "its server",
        estate.other_server.name: "its other server",
        str(estate.other_server.pk): "its other server",
        estate.node.name: "its node",
        estate.storage.name: "its storage",
        estate.vault.name: "its vault",
        estate.definition.name: "its definition",
        estate.backup.name: "its backup",
        estate.member.username: "its member",
        estate.invitation.email: "who was invited",
        estate.subscription.address: "its team's address",
        estate.key.public_key.hex(): "its key",
        estate.alarm.message: "its alarm",
    }
    return {**keys, **texts}


def hidden_from(world: World, name: str) -> dict[str, str]:
    ours, hidden = world.ours, words_of(world.theirs)
    if name == "admin_a":
        return hidden
    hidden |= {one.name: f"the name of {one}" for one in (ours.node, ours.storage, ours.vault)}
    kinds = [*NOT_FOR_OWNERS, *(OF_SERVERS if name == "owner_a2" else ())]
    peers = ours.other_server if name == "owner_a1" else ours.server
    hidden |= {peers.name: "a server of his tenant", str(peers.pk): "a server of his tenant"}
    return {**hidden, **{str(ours.object_of(kind).pk): f"{kind} of his tenant" for kind in kinds}}


def addresses(resource: str) -> Iterator[str]:
    """A list as it is, as CSV, in every order, in small pages, and by every filter that takes ids."""
    view = VIEWSETS[resource]
    base = f"{API}{resource}/"
    counting = {"count": "true"} if "count" in view.pagination_class.parameters else {}
    yield f"{base}?{urlencode({'limit': 1, **counting})}"
    yield f"{base}?format=csv"
    yield from (f"{base}?ordering={sign}{name}" for name in view.ordering_fields for sign in ("", "-"))
    yield f"{base}?limit=500"


def ids(answer: Any) -> set[str]:
    return {str(row.get("id", row.get("code"))) for row in json.loads(answer.content)["results"]}


# The same for everybody, whatever there is.
DESCRIBED = {"schema/", "docs/"}


def test_every_resource_is_asked(walk: Looker) -> None:
    assert {path for method, path in TABLE if method == "GET" and path.count("/") == 1 and path != "me/"} <= {
        *(f"{name}/" for name in VIEWSETS),
        "events/",
        # For SuperAdmins.
        "health/",
        # Figures; the places of vaults are in test_no_address_that_reads_tells_of_what_is_hidden.
        "overview/",
        "schema/",
        "docs/",
    }
    words = walk.foreign
    assert len(words) > len(VIEWSETS) + 10
    # They are really there to be found: who sees everything meets each of them.
    super_text = "".join(walk.text("super", f"{API}{name}/?format=csv") for name in VIEWSETS if name != "audit")
    missing = [what for word, what in words.items() if word not in super_text]
    assert set(missing) <= {"the id of its audit", "its key"}, missing


@pytest.mark.parametrize("path", sorted(path for method, path in TABLE if method == "GET" and path not in DESCRIBED))
def test_no_address_that_reads_tells_of_what_is_hidden(walk: Looker, path: str) -> None:
    ours, row = walk.world.ours, TABLE["GET", path]
    key = str(ours.object_of(path.split("/")[0]).pk) if "<pk>" in path else ""
    address = (path if path.startswith("/api/") else API + path).replace("<pk>", key) + row.query(ours)

    for name in READERS:
        assert walk.told(name, address) == [], name


@pytest.mark.parametrize("resource", sorted(VIEWSETS))
def test_no_way_to_ask_a_list_tells_of_what_is_hidden(walk: Looker, resource: str) -> None:
    for name in READERS:
        for address in addresses(resource):
            assert walk.told(name, address) == [], (name, address)


@pytest.mark.parametrize("resource", sorted(VIEWSETS))
def test_a_list_its_count_and_its_export_hold_what_has_an_address(walk: Looker, resource: str) -> None:
    """What a list holds can be opened, and what can be opened is in it: of both tenants' objects."""
    counting = "count" in VIEWSETS[resource].pagination_class.parameters
    for name in READERS:
        address = f"{API}{resource}/?limit=500" + ("&count=true" if counting else "")
        answer = walk.ask(name, "GET", address, None)
        listed = ids(answer)

        for estate in (walk.world.ours, walk.world.theirs):
            key = str(estate.object_of(resource).pk)
            opens = walk.ask(name, "GET", f"{API}{resource}/{key}/", None).status_code == 200
            assert opens is (key in listed), (name, key)
        assert answer.json()["count"] == len(listed), name
        rows = list(csv.DictReader(io.StringIO(walk.text(name, f"{API}{resource}/?format=csv"))))
        assert {row.get("id") or row["code"] for row in rows} == listed, name


@pytest.mark.parametrize("resource", sorted(VIEWSETS))
def test_no_filter_finds_by_what_is_hidden(walk: Looker, resource: str) -> None:
    """Each filter by ids with each foreign id, and each foreign word as search: nothing, as for an id of nobody."""
    view, hidden = VIEWSETS[resource], walk.foreign
    keys = [word for word, what in hidden.items() if what.startswith("the id of")]
    by_ids = [name for name, declared in view.filters.items() if _takes_ids(declared)]

    for name in READERS:
        asked = [{parameter: ",".join(keys[:50])} for parameter in by_ids]
        if view.search_fields:
            asked += [{"search": word[:100]} for word, what in hidden.items() if not what.startswith("the id of")]
        for query in asked:
            answer = walk.ask(name, "GET", f"{API}{resource}/?{urlencode(query)}", None)

            assert (answer.status_code, answer.json().get("results")) == (200, []), (name, query, answer.content)


def _takes_ids(declared: Any) -> bool:
    return isinstance(declared, Filter) and type(declared.field) is type(by_id("x").field)
