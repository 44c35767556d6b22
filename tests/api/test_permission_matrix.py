"""Every route and method of the API, for everybody, on an own, a foreign and a missing object.

The table is walked against the URLconf: a route or method without a row fails, and what a route does not know is 405.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import transaction
from django.urls import URLPattern, URLResolver, get_resolver

from engine.crypto import generate_tenant_key
from tests.factories import disk_of
from tests.worlds import Estate, World

API = "/api/v1/"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
KNOWN = ("super", "admin_a", "admin_b", "owner_a1", "owner_a2")
NOBODY = {"disabled": 401, "anonymous": 401}


@dataclass(frozen=True)
class Row:
    """Statuses for a SuperAdmin, for the DCAdmin of the object's tenant, for the VmOwner of its server."""

    superadmin: int
    admin: int
    owner: int
    body: Callable[[Estate], dict[str, Any]] = lambda estate: {}
    query: Callable[[Estate], str] = lambda estate: ""
    # On a collection: what somebody of another tenant gets, and a VmOwner of another server.
    other_admin: int = 404
    other_owner: int = 404
    nobody: int = 401

    def on_ours(self) -> dict[str, int]:
        return {
            "super": self.superadmin,
            "admin_a": self.admin,
            "admin_b": self.other_admin,
            "owner_a1": self.owner,
            "owner_a2": self.other_owner,
            "disabled": self.nobody,
            "anonymous": self.nobody,
        }

    def on_theirs(self) -> dict[str, int]:
        return {
            **self.on_ours(),
            "admin_a": self.other_admin,
            "admin_b": self.admin,
            "owner_a1": self.other_owner,
            "owner_a2": self.other_owner,
        }


def everybody(status: int, *, nobody: int = 401, body: Any = lambda estate: {}) -> Row:
    return Row(status, status, status, other_admin=status, other_owner=status, nobody=nobody, body=body)


def only_superadmin(status: int, body: Callable[[Estate], dict[str, Any]]) -> Row:
    return Row(status, 403, 403, other_admin=403, other_owner=403, body=body)


def restore_body(estate: Estate) -> dict[str, Any]:
    return {"target": str(disk_of(estate.server).pk), "confirmation": estate.server.name}


def public_key_body(estate: Estate) -> dict[str, Any]:
    return {
        "tenant": str(estate.tenant.pk),
        "public_key": generate_tenant_key().public.hex(),
    }


TABLE: dict[tuple[str, str], Row] = {
    ("GET", "tenants/"): everybody(200),
    ("POST", "tenants/"): only_superadmin(201, lambda estate: {"title": "New one", "region": "RBX"}),
    ("GET", "tenants/<pk>/"): Row(200, 200, 404),
    ("GET", "vaults/"): everybody(200),
    ("GET", "vaults/<pk>/"): Row(200, 200, 404),
    ("GET", "vaults/<pk>/locks/"): Row(200, 200, 404),
    ("GET", "alarms/"): everybody(200),
    ("GET", "alarms/<pk>/"): Row(200, 200, 404),
    ("GET", "tenants/<pk>/usage/"): Row(200, 200, 404),
    ("GET", "servers/<pk>/usage/"): Row(200, 200, 200),
    ("GET", "disks/<pk>/usage/"): Row(200, 200, 200),
    ("POST", "backups/<pk>/verify/"): Row(202, 202, 403),
    ("GET", "keys/"): everybody(200),
    ("POST", "keys/"): Row(201, 201, 403, other_owner=403, body=lambda estate: public_key_body(estate)),
    ("GET", "keys/<pk>/"): Row(200, 200, 404),
    # It was shown already; and no signer answers in these tests. Who may not ask never gets that far.
    ("POST", "keys/<pk>/show/"): Row(409, 409, 404),
    ("POST", "keys/<pk>/rotate/"): Row(503, 503, 404),
    ("POST", "keys/<pk>/test/"): Row(200, 200, 404),
    ("POST", "keys/<pk>/answer/"): Row(409, 409, 404, body=lambda estate: {"answer": "ABCD-EFGH-JKMN"}),
    ("GET", "nodes/"): everybody(200),
    ("GET", "nodes/<pk>/"): Row(200, 200, 404),
    ("GET", "storages/"): everybody(200),
    ("GET", "storages/<pk>/"): Row(200, 200, 404),
    ("GET", "servers/"): everybody(200),
    ("POST", "servers/"): only_superadmin(
        201,
        lambda estate: {
            "tenant": str(estate.tenant.pk),
            "name": "new",
            "region": "RBX",
            "node": str(estate.node.pk),
        },
    ),
    ("GET", "servers/<pk>/"): Row(200, 200, 200),
    ("GET", "disks/"): everybody(200),
    ("POST", "disks/"): only_superadmin(
        201,
        lambda estate: {
            "server": str(estate.server.pk),
            "number": 9,
            "driver": "image",
            "storage": str(estate.storage.pk),
            "path": "new.img",
            "size_bytes": 1024,
        },
    ),
    ("GET", "disks/<pk>/"): Row(200, 200, 200),
    ("GET", "definitions/"): everybody(200),
    ("POST", "definitions/"): Row(
        201,
        201,
        403,
        other_owner=403,
        body=lambda estate: {"disk": str(disk_of(estate.server).pk), "name": "new", "cron": "0 1 * * *"},
    ),
    ("POST", "definitions/preview/"): everybody(200, body=lambda estate: {"cron": "0 1 * * *"}),
    ("GET", "definitions/<pk>/"): Row(200, 200, 200),
    ("PATCH", "definitions/<pk>/"): Row(200, 200, 403, body=lambda estate: {"description": "changed"}),
    ("DELETE", "definitions/<pk>/"): Row(204, 204, 403),
    ("POST", "definitions/<pk>/backup-now/"): Row(202, 202, 403),
    ("GET", "backups/"): everybody(200),
    ("GET", "backups/<pk>/"): Row(200, 200, 200),
    ("PATCH", "backups/<pk>/"): Row(200, 200, 403, body=lambda estate: {"note": "good one"}),
    ("DELETE", "backups/<pk>/"): Row(204, 204, 403),
    ("POST", "backups/<pk>/restore/"): Row(202, 202, 403, body=restore_body),
    ("GET", "backups/<pk>/restore-preview/"): Row(
        200, 200, 403, query=lambda estate: f"?target={disk_of(estate.server).pk}"
    ),
    ("GET", "jobs/"): everybody(200),
    ("GET", "jobs/<pk>/"): Row(200, 200, 200),
    ("POST", "jobs/<pk>/cancel/"): Row(202, 202, 403),
    ("GET", "restores/"): everybody(200),
    ("GET", "restores/<pk>/"): Row(200, 200, 200),
    ("GET", "me/"): everybody(200),
    ("GET", "schema/"): everybody(200, nobody=200),
    ("GET", "docs/"): everybody(200, nobody=200),
}


def routes() -> dict[str, set[str]]:
    """The API's routes as the URLconf has them, each with the methods that it knows."""
    found: dict[str, set[str]] = {}
    for path, callback in _patterns(get_resolver().url_patterns, ""):
        if path.startswith(API.lstrip("/")):
            found.setdefault(path.removeprefix(API.lstrip("/")), set()).update(_methods(callback))
    return found


def _patterns(patterns: list[Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for pattern in patterns:
        path = prefix + _readable(str(pattern.pattern))
        if isinstance(pattern, URLResolver):
            yield from _patterns(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern):
            yield path, pattern.callback


def _readable(pattern: str) -> str:
    return pattern.removeprefix("^").removesuffix("$").removesuffix("\\Z").replace("(?P<pk>[^/]+)", "<pk>")


def _methods(callback: Any) -> set[str]:
    if hasattr(callback, "actions"):
        return {method.upper() for method in callback.actions} - {"HEAD"}
    return {method for method in METHODS if hasattr(callback.cls, method.lower())} - {"OPTIONS"}


def test_the_table_has_a_row_for_every_route_and_method() -> None:
    present = {(method, path) for path, methods in routes().items() for method in methods}

    assert present == set(TABLE)
    assert len(routes()) >= 26


def _answers(world: World, method: str, row: Row, estate: Estate, path: str) -> dict[str, int]:
    found = {}
    for name in (*KNOWN, *NOBODY):
        with transaction.atomic():
            body = None if method == "GET" else row.body(estate)
            answer = world.client(name).generic(
                method, path + row.query(estate), _json(body), content_type="application/json"
            )
            found[name] = answer.status_code
            assert answer.status_code < 400 or answer["Content-Type"] == "application/problem+json"
            transaction.set_rollback(True)
    return found


def _json(body: dict[str, Any] | None) -> str:
    return "" if body is None else json.dumps(body)


@pytest.mark.parametrize(("method", "path"), sorted(TABLE))
def test_on_an_object_of_tenant_a(world: World, method: str, path: str) -> None:
    row = TABLE[method, path]
    address = API + path.replace("<pk>", _key(world.ours, path))

    assert _answers(world, method, row, world.ours, address) == row.on_ours()


@pytest.mark.parametrize(("method", "path"), sorted(TABLE))
def test_on_an_object_of_tenant_b(world: World, method: str, path: str) -> None:
    row = TABLE[method, path]
    address = API + path.replace("<pk>", _key(world.theirs, path))

    assert _answers(world, method, row, world.theirs, address) == row.on_theirs()


@pytest.mark.parametrize(("method", "path"), sorted(key for key in TABLE if "<pk>" in key[1]))
@pytest.mark.parametrize("key", [str(uuid.uuid4()), "1", "no-such-thing"])
def test_on_a_missing_object(world: World, method: str, path: str, key: str) -> None:
    answers = _answers(world, method, TABLE[method, path], world.ours, API + path.replace("<pk>", key))

    assert answers == {**dict.fromkeys(KNOWN, 404), **NOBODY}


@pytest.mark.parametrize("path", sorted(routes()))
def test_a_method_without_an_action_is_405(world: World, path: str) -> None:
    address = API + path.replace("<pk>", _key(world.theirs, path))

    for method in set(METHODS) - routes()[path]:
        if path in {"schema/", "docs/"} and method == "OPTIONS":
            continue
        for name in ("super", "admin_a", "owner_a1"):
            answer = world.client(name).generic(method, address, "{}", content_type="application/json")

            assert answer.status_code == 405, (method, path, name)
            assert answer.json()["code"] == "method_not_allowed"


def _key(estate: Estate, path: str) -> str:
    return str(estate.object_of(path.split("/")[0]).pk) if "<pk>" in path else ""
