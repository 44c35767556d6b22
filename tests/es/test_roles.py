"""Every es resource and method, for nine principals, on an own and a foreign object, by each way to name it.

The table is walked against the URLconf: a route or method without a row fails. Each answer is looked through for what
the principal must not know of. What a request does is rolled back behind it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import transaction
from django.urls import get_resolver

from tenants.models import AuditEvent
from tests.api.test_hidden_words import hidden_from, words_of
from tests.api.test_permission_matrix import AGENTS, ES_ROUTES, KNOWN, NOBODY, Walk, _patterns
from tests.worlds import Estate, World, make_world

pytestmark = [pytest.mark.django_db]
HERE = "/api/"
OF_SERVERS = "dc/<dc>/"


@dataclass(frozen=True)
class Row:
    """Statuses for a SuperAdmin, the DCAdmin, the VmOwner of the server, and those who may know nothing of it."""

    superadmin: int
    admin: int
    owner: int
    other: int = 404
    given: Callable[[Estate], dict[str, Any]] = lambda estate: {}

    def on(self, world: World, estate: Estate) -> dict[str, int]:
        mine = estate is world.ours
        people = {
            "super": self.superadmin,
            "admin_a": self.admin if mine else self.other,
            "admin_b": self.other if mine else self.admin,
            "owner_a1": self.owner if mine else self.other,
            "owner_a2": self.other,
        }
        return {**people, **dict.fromkeys((*AGENTS, *NOBODY), 401)}


def everybody(**more: Any) -> Row:
    return Row(200, 200, 200, other=200, **more)


def restore(estate: Estate) -> dict[str, Any]:
    return {"target_hostname_or_uuid": estate.server.name, "target_disk_id": 1}


FULL = {"given": lambda estate: {"full": "true", "extended": "true"}}
DEFINITION = {"given": lambda estate: {"schedule": "0 4 * * *", "retention": 30}}
TABLE: dict[tuple[str, str], Row] = {
    ("GET", "vm"): everybody(**FULL),
    ("GET", "vm/<vm>"): Row(200, 200, 200),
    ("GET", "vm/define/backup"): everybody(**FULL),
    ("GET", "vm/<vm>/define/backup"): Row(200, 200, 200, **FULL),
    ("GET", "vm/<vm>/define/backup/<definition>"): Row(200, 200, 200),
    ("POST", "vm/<vm>/define/backup/<definition>"): Row(201, 201, 403, **DEFINITION),
    ("PUT", "vm/<vm>/define/backup/<definition>"): Row(200, 200, 403, given=lambda estate: {"desc": "changed"}),
    ("DELETE", "vm/<vm>/define/backup/<definition>"): Row(200, 200, 403),
    ("GET", "vm/<vm>/backup"): Row(200, 200, 200, **FULL),
    ("DELETE", "vm/<vm>/backup"): Row(200, 200, 403, given=lambda estate: {"bkpnames": [estate.backup.name]}),
    ("GET", "vm/<vm>/backup/<name>"): Row(200, 200, 200),
    ("POST", "vm/<vm>/backup/<name>"): Row(201, 201, 403, given=lambda estate: {"note": "by hand"}),
    ("PUT", "vm/<vm>/backup/<name>"): Row(201, 201, 403, given=restore),
    ("DELETE", "vm/<vm>/backup/<name>"): Row(200, 200, 403),
    ("GET", "dc"): everybody(**FULL),
    # Everybody who owns a server of it knows its name.
    ("GET", "dc/<name>"): Row(200, 200, 200),
    ("GET", "node"): everybody(**FULL),
    ("GET", "node/<node>"): Row(200, 200, 404),
    ("GET", "node/<node>/define/backup"): Row(200, 200, 404, **FULL),
    ("GET", "node/<node>/backup"): Row(200, 200, 404, **FULL),
    ("GET", "node/<node>/storage"): Row(200, 200, 404, **FULL),
    ("GET", "node/<node>/storage/<zpool>"): Row(200, 200, 404),
    ("PUT", "node/<node>/storage/<zpool>/snapshot"): Row(200, 403, 404),
    ("GET", "task"): everybody(),
    ("GET", "task/log"): everybody(),
    ("GET", "task/log/stats"): everybody(),
    ("GET", "task/<task>"): Row(200, 200, 200),
    ("GET", "task/<task>/status"): Row(201, 201, 201),
    ("GET", "task/<task>/done"): Row(201, 201, 201),
    ("PUT", "task/<task>/cancel"): Row(410, 410, 403),
}
# Not by the server alone: of these an owner of another server of the tenant sees something.
SHARED_IN_TENANT = {("GET", "dc/<name>"): "owner_a2"}


class EsWalk(Walk):
    def __init__(self, world: World) -> None:
        super().__init__(world)
        everything = {**words_of(world.ours), **words_of(world.theirs)}
        self.hidden = {name: hidden_from(world, name) for name in ("admin_a", "owner_a1", "owner_a2")}
        # A task is known by the id of its job, and a server by its own; ids are in answers to those who see them.
        self.hidden |= {"admin_b": words_of(world.ours)} | dict.fromkeys((*AGENTS, *NOBODY), everything)

    def told(self, name: str, asked: str, answer: Any) -> list[str]:
        text = answer.content.decode()
        hidden = {word: what for word, what in self.hidden.get(name, {}).items() if word in text and word not in asked}
        # Whole words: node-1 is not in node-17.
        return [what for word, what in hidden.items() if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)]


@pytest.fixture(scope="module")
def walk(django_db_setup: None, django_db_blocker: Any) -> Iterator[EsWalk]:
    with django_db_blocker.unblock(), transaction.atomic():
        yield EsWalk(make_world())
        transaction.set_rollback(True)


def routes() -> dict[str, Any]:
    """The view of each address, as the URLconf has them."""
    found = [(path, call) for path, call in _patterns(get_resolver().url_patterns, "/") if path.startswith(ES_ROUTES)]
    return {path.removeprefix(HERE).removesuffix("/?"): call.view_class for path, call in found}


def filled(path: str, method: str, estate: Estate) -> str:
    to_make = {"POST": {"<definition>": "new", "<name>": estate.definition.name}}.get(method, {})
    names = {
        "<dc>": estate.tenant.name,
        "<vm>": estate.server.name,
        "<definition>": estate.definition.name,
        "<name>": estate.backup.name if "/backup/" in path else estate.tenant.name,
        "<node>": estate.node.name,
        "<zpool>": estate.storage.name,
        "<task>": str(estate.job.pk),
        **to_make,
    }
    for name, value in names.items():
        path = path.replace(name, value)
    return HERE + path


def asked(walk: EsWalk, name: str, method: str, address: str, given: dict[str, Any]) -> Any:
    if method != "GET":
        return walk.ask(name, method, address, given)
    return walk.ask(name, method, address + "?" + "&".join(f"{key}={value}" for key, value in given.items()), None)


def test_the_table_has_a_row_for_every_route_and_method() -> None:
    present = {(method, path) for path, view in routes().items() for method in view.role_actions}
    plain = {(method, path) for method, path in present if not path.startswith(OF_SERVERS)}

    assert plain == set(TABLE)
    # And all that is about servers is there once more below a data center.
    below = {(method, path.removeprefix(OF_SERVERS)) for method, path in present - plain}
    assert below == {key for key in TABLE if key[1].startswith("vm")}


@pytest.mark.parametrize(("method", "path"), sorted(TABLE))
def test_on_an_own_and_on_a_foreign_object(walk: EsWalk, method: str, path: str) -> None:
    row, world = TABLE[method, path], walk.world
    for estate in (world.ours, world.theirs):
        expected = row.on(world, estate)
        if (method, path) in SHARED_IN_TENANT and estate is world.ours:
            expected[SHARED_IN_TENANT[method, path]] = row.owner
        address, given = filled(path, method, estate), row.given(estate)

        for name, status in expected.items():
            answer = asked(walk, name, method, address, given)

            assert answer.status_code == status, (name, address, answer.content)
            assert walk.told(name, address + json.dumps(given), answer) == [], (name, address)
            if status in {401, 403, 404}:
                assert answer["Content-Type"] == "application/problem+json"
                assert answer.json()["detail"]


@pytest.mark.parametrize(("method", "path"), sorted(key for key in TABLE if key[1].startswith("vm")))
def test_below_a_data_center_it_is_the_same_and_below_another_there_is_nothing(
    walk: EsWalk, method: str, path: str
) -> None:
    row, world = TABLE[method, path], walk.world
    address, given = filled(OF_SERVERS + path, method, world.ours), row.given(world.ours)
    elsewhere = address.replace(world.ours.tenant.name, world.theirs.tenant.name)

    assert asked(walk, "admin_a", method, address, given).status_code == row.admin
    assert asked(walk, "admin_b", method, address, given).status_code == 404
    # A SuperAdmin sees the other data center, and no server of ours in it.
    found = asked(walk, "super", method, elsewhere, given)
    lists = {"vm", "vm/define/backup"}
    assert (
        (found.status_code == 200 and world.ours.server.name not in found.content.decode())
        if path in lists
        else (found.status_code == 404)
    )


@pytest.mark.parametrize(("method", "path"), sorted(key for key in TABLE if "<" in key[1]))
def test_what_is_no_name_is_not_there(walk: EsWalk, method: str, path: str) -> None:
    ours = walk.world.ours
    for part in re.findall(r"<\w+>", path):
        if (method, part) == ("POST", "<definition>"):
            continue
        for name in ("no-such-thing", "1", "%00", "..%2f..", "%F0%9F%92%BE", "x" * 300):
            address = filled(path.replace(part, name), method, ours)

            assert asked(walk, "super", method, address, TABLE[method, path].given(ours)).status_code == 404, address


def test_nothing_is_found_below_a_foreign_name_by_any_parameter(walk: EsWalk) -> None:
    theirs = walk.world.theirs
    for query in (
        f"vm?dc={theirs.tenant.name}",
        f"vm?dc={theirs.tenant.title}",
        f"vm/define/backup?dc={theirs.tenant.pk}",
        f"vm/{walk.world.ours.server.name}/backup?hostname={theirs.server.name}",
        f"vm/{theirs.server.pk}/backup",
        f"dc/{theirs.tenant.title}",
    ):
        for name in ("admin_a", "owner_a1", "owner_a2"):
            answer = walk.ask(name, "GET", HERE + query, None)

            assert answer.status_code == 404, (name, query)
    for query in (f"task/log?object_type=vm&object_name={theirs.server.name}&page=1", "task/log?page=2"):
        assert walk.ask("admin_a", "GET", HERE + query, None).json()["results"] == []


@pytest.mark.parametrize(("method", "path"), sorted(key for key in TABLE if key[0] != "GET"))
def test_what_is_done_and_what_is_refused_is_in_the_audit(walk: EsWalk, method: str, path: str) -> None:
    row, ours = TABLE[method, path], walk.world.ours
    for name, status in (("super", row.superadmin), ("owner_a1", row.owner)):
        with transaction.atomic():
            text = json.dumps(row.given(ours))
            client = walk._clients[name]
            answer = client.generic(method, filled(path, method, ours), text, content_type="application/json")
            records = list(AuditEvent.objects.filter(request_id=answer["X-Request-Id"]))
            transaction.set_rollback(True)

        assert answer.status_code == status
        # A backup, a restore and a cancel are jobs, with events of their own.
        assert records or path in {"vm/<vm>/backup/<name>", "task/<task>/cancel"}, name
        assert all(record.action == "access.refused" for record in records) is (status in {403, 404} or not records)


def test_a_method_that_is_not_there_is_405_and_options_tell_what_is(walk: EsWalk) -> None:
    for path in sorted(routes()):
        address = filled(path, "GET", walk.world.ours)
        known = {method for method, row_path in TABLE if row_path == path.removeprefix(OF_SERVERS)} or {"GET"}
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - known:
            assert walk.ask("super", method, address, {}).status_code == 405, (method, path)
        told = walk.ask("owner_a2", "OPTIONS", address, None)
        assert told.status_code == 200
        assert all(method in told.json()["description"] for method in known)
    assert walk.ask("anonymous", "OPTIONS", HERE + "vm", None).status_code == 401
    assert set(KNOWN) > set(walk.hidden) & set(KNOWN)
