"""Every id that a body or a query may hold, as the OpenAPI document names them: another tenant's is as good as none.

Nothing here is listed by hand but what kind of object a field means; a field that nobody told of fails.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connection
from drf_spectacular.generators import SchemaGenerator

from backupsite.api_router import router
from tests.api.test_permission_matrix import API, ONLY_BY_TOKEN, TABLE, Row, Walk, walk
from tests.worlds import Estate

__all__ = ["walk"]
pytestmark = pytest.mark.django_db

# What a field of ids names: any object of a tenant, by the resource that lists it.
KINDS = {
    "tenant": "tenants",
    "server": "servers",
    "servers": "servers",
    "node": "nodes",
    "backup_node": "nodes",
    "storage": "storages",
    "disk": "disks",
    "definition": "definitions",
    "definitions": "definitions",
    "adopter": "definitions",
    "vault": "vaults",
    # What was done before, to take it back: no object has this id.
    "spread": "definitions",
    "target": "disks",
    "person": "people",
}
CALLERS = ("admin_a", "owner_a1", "owner_a2")
# What is written when a request is refused, and by whom it was asked.
MAY_BE_WRITTEN = (
    '"tenants_auditevent"',
    '"tenants_auditpointer"',
    '"tenants_refusalbucket"',
    '"tenants_idempotencyrecord"',
    # Once a minute: when it was seen last.
    '"tenants_portalsession"',
    '"tenants_visit"',
)


@dataclass(frozen=True)
class Link:
    """A field or query parameter of one operation that takes ids."""

    method: str
    path: str
    name: str
    many: bool
    in_query: bool

    @property
    def row(self) -> Row:
        return TABLE[self.method, self.path]

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.name}"


def links() -> Iterator[Link]:
    document = SchemaGenerator().get_schema(request=None, public=True)
    for address, operations in document["paths"].items():
        path = (address.removeprefix(API) if address.startswith(API) else address).replace("{id}", "<pk>")
        for method, operation in operations.items():
            for name, schema in _sent(document, operation):
                if _takes_ids(schema):
                    yield Link(method.upper(), path, name, many=schema.get("type") == "array", in_query=False)
            for parameter in operation.get("parameters", []) if not operation["operationId"].endswith("_list") else []:
                if parameter["in"] == "query" and _takes_ids(parameter["schema"]):
                    yield Link(method.upper(), path, parameter["name"], many=False, in_query=True)


def _sent(document: Any, operation: Any) -> list[tuple[str, Any]]:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    schema = _resolved(document, body)
    return list(schema.get("properties", {}).items())


def _resolved(document: Any, schema: Any) -> Any:
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _takes_ids(schema: Any) -> bool:
    return '"format": "uuid"' in json.dumps(schema)


LINKS = sorted(links(), key=str)


def test_every_link_is_tried() -> None:
    """And every body is closed: a field that the document does not name is refused."""
    assert len(LINKS) >= 25
    assert {link.name for link in LINKS if link.name != "ids"} <= set(KINDS)
    document = SchemaGenerator().get_schema(request=None, public=True)
    for address, operations in document["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body is not None:
                assert _resolved(document, body).get("additionalProperties") is False, (method, address)


@pytest.mark.case("AZ-02")
@pytest.mark.parametrize("link", [link for link in LINKS if link.name != "ids"], ids=str)
def test_another_tenants_object_cannot_be_named(walk: Walk, link: Link) -> None:
    ours, theirs = walk.world.ours, walk.world.theirs
    foreign, missing = str(theirs.object_of(KINDS[link.name]).pk), str(uuid.uuid4())

    for name in CALLERS:
        answer, written = _asked(walk, name, link, foreign)
        other, _ = _asked(walk, name, link, missing)

        assert answer.status_code in {400, 403, 404}, (name, answer.content)
        assert _told(answer, foreign) == _told(other, missing), name
        assert written == [], name
        assert theirs.tenant.name not in answer.content.decode()
    assert foreign != str(ours.object_of(KINDS[link.name]).pk)


@pytest.mark.case("AZ-02")
@pytest.mark.parametrize("link", [link for link in LINKS if link.name == "ids"], ids=str)
def test_nor_in_bulk(walk: Walk, link: Link) -> None:
    foreign, missing = str(walk.world.theirs.object_of(link.path.split("/")[0]).pk), str(uuid.uuid4())

    for name in CALLERS:
        answer, written = _asked(walk, name, link, foreign)
        other, _ = _asked(walk, name, link, missing)

        if answer.status_code == 200:
            assert [item["status"] for item in answer.json()["results"]] == [404]
        else:
            assert answer.status_code == 403
        assert _told(answer, foreign) == _told(other, missing), name
        assert written == [], name


@pytest.mark.case("AZ-04")
def test_parameters_that_nothing_looks_at_are_refused(walk: Walk) -> None:
    """Whoever writes `?tenant=` to an action believes that it is bounded by it."""
    world, tried = walk.world, 0
    for (method, path), row in sorted(TABLE.items()):
        if path in {"schema/", "docs/"}:
            continue
        tried += 1
        query = row.query(world.ours)
        address = _address(path, world.ours) + query + ("&" if query else "?") + f"surprise={world.ours.tenant.pk}"

        answer = walk.ask("super", method, address, None if method == "GET" else row.body(world.ours))

        if path in ONLY_BY_TOKEN:
            assert answer.status_code == 401
            continue
        assert answer.status_code == 400, (method, path)
        assert [item["field"] for item in answer.json()["errors"]] == ["surprise"], (method, path)
    assert tried > 100


@pytest.mark.case("IN-13")
@pytest.mark.parametrize("parameter", ["tenant__users__password__startswith", "pk__in", "id", "created_at__gt"])
def test_no_list_is_asked_across_relations(walk: Walk, parameter: str) -> None:
    lists = [path for method, path in TABLE if method == "GET" and path.removesuffix("/") in dict(_resources())]
    for path in lists:
        answer = walk.ask("super", "GET", f"{API}{path}?{parameter}=a", None)
        told = walk.ask("super", "GET", f"{API}{path}?ordering={parameter}", None)

        assert (answer.status_code, told.status_code) == (400, 400), path
        assert [item["field"] for item in answer.json()["errors"]] == [parameter]
    assert len(lists) > 20


def _resources() -> list[tuple[str, Any]]:
    return [(prefix, viewset) for prefix, viewset, _ in router.registry]


def _address(path: str, estate: Estate) -> str:
    if "<pk>" not in path:
        return path.rstrip("?") if path.startswith("/api/") else API + path
    return API + path.replace("<pk>", str(estate.object_of(path.split("/")[0]).pk))


def _asked(walk: Walk, name: str, link: Link, key: str) -> tuple[Any, list[str]]:
    """The answer to a sound request with this one id in it, and what it wrote."""
    estate = walk.world.ours
    body = copy.deepcopy(link.row.body(estate))
    query = link.row.query(estate)
    if link.in_query:
        query = f"?{link.name}={key}"
    else:
        body[link.name] = [key] if link.many else key
    written: list[str] = []
    with connection.execute_wrapper(_noting(written)):
        answer = walk.ask(name, link.method, _address(link.path, estate) + query, body or None)
    return answer, written


def _noting(written: list[str]) -> Callable[..., Any]:
    def note(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if sql.startswith(("INSERT", "UPDATE", "DELETE")) and not any(table in sql for table in MAY_BE_WRITTEN):
            written.append(sql)
        return execute(sql, parameters, many, context)

    return note


def _told(answer: Any, key: str) -> tuple[int, str]:
    return answer.status_code, answer.content.decode().replace(key, "<id>")
