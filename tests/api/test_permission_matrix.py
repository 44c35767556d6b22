"""Every route and method below /api/, for nine principals, on an own, a peer's, a foreign and a missing object.

The table is walked against the URLconf: a route or method without a row fails, and what a route does not know is 405.
To the VmOwner A2 the object of tenant A is a peer's, to everybody of B a foreign one. The world is built once; what a
request does is rolled back behind it.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings
from django.urls import URLPattern, URLResolver, get_resolver

from backupsite.docs_views import DocsView
from engine.crypto import generate_tenant_key
from tenants.api.guard import GuardedMixin
from tenants.api.schema_view import SchemaView
from tests.agents.agent_client import AgentClient
from tests.factories import disk_of
from tests.worlds import Estate, World, make_world

ROOT = "/api/"
API = "/api/v1/"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
KNOWN = ("super", "admin_a", "admin_b", "owner_a1", "owner_a2")
AGENTS = ("agent_a", "agent_b")
ONLY_BY_TOKEN = frozenset({"/api/accounts/logout/?"})
# The es grammar finds by name, so its rows are filled in otherwise: tests/es/test_roles.py has its table, as complete.
ES_ROUTES = ("/api/vm", "/api/dc", "/api/node", "/api/task")
NOBODY = ("disabled", "anonymous")
PRINCIPALS = (*KNOWN, *AGENTS, *NOBODY)
# Each test is a savepoint inside of the module's own transaction.
pytestmark = [pytest.mark.django_db, pytest.mark.long]


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
    agent: int = 401

    def on_ours(self) -> dict[str, int]:
        return {
            "super": self.superadmin,
            "admin_a": self.admin,
            "admin_b": self.other_admin,
            "owner_a1": self.owner,
            "owner_a2": self.other_owner,
            # An agent has URLs of its own; its credential opens nothing here.
            "agent_a": self.agent,
            "agent_b": self.agent,
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


class Walk:
    """The world of this module, with one client for each principal. Agents sign their requests, and rightly so."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._clients: dict[str, Any] = {name: world.client(name) for name in (*KNOWN, *NOBODY)}
        for name, estate in zip(AGENTS, (world.ours, world.theirs), strict=True):
            self._clients[name] = AgentClient(estate.agent, estate.agent_key)

    def ask(self, name: str, method: str, address: str, body: dict[str, Any] | None) -> Any:
        """The answer; whatever it did is undone."""
        text = "" if body is None else json.dumps(body)
        with transaction.atomic():
            answer = self._clients[name].generic(method, address, text, content_type="application/json")
            transaction.set_rollback(True)
        return answer


@pytest.fixture(scope="module")
def walk(django_db_setup: None, django_db_blocker: Any) -> Iterator[Walk]:
    # Its clients are signed in once: on a slow machine the walk takes longer than a confirmation lasts.
    lasting = override_settings(ACCOUNT_REAUTHENTICATION_TIMEOUT=86_400)
    with lasting, django_db_blocker.unblock(), transaction.atomic():
        yield Walk(make_world())
        transaction.set_rollback(True)


def everybody(status: int, *, nobody: int = 401, body: Any = lambda estate: {}) -> Row:
    return Row(status, status, status, other_admin=status, other_owner=status, nobody=nobody, agent=nobody, body=body)


def only_superadmin(status: int, body: Callable[[Estate], dict[str, Any]]) -> Row:
    return Row(status, 403, 403, other_admin=403, other_owner=403, body=body)


def restore_body(estate: Estate) -> dict[str, Any]:
    return {"target": str(disk_of(estate.server).pk), "confirmation": estate.server.name}


def public_key_body(estate: Estate) -> dict[str, Any]:
    return {
        "tenant": str(estate.tenant.pk),
        "public_key": generate_tenant_key().public.hex(),
    }


def admin_body(estate: Estate) -> dict[str, Any]:
    return {"role": "DCAdmin", "tenant": str(estate.tenant.pk)}


def bulk_body(resource: str, action: str) -> Callable[[Estate], dict[str, Any]]:
    return lambda estate: {"action": action, "ids": [str(estate.object_of(resource).pk)]}


TABLE: dict[tuple[str, str], Row] = {
    ("GET", "tenants/"): everybody(200),
    ("POST", "tenants/"): only_superadmin(201, lambda estate: {"title": "New one", "region": "RBX"}),
    ("GET", "tenants/<pk>/"): Row(200, 200, 404),
    ("GET", "vaults/"): everybody(200),
    ("GET", "vaults/<pk>/"): Row(200, 200, 404),
    ("GET", "vaults/<pk>/locks/"): Row(200, 200, 404),
    ("POST", "vaults/<pk>/accept-settings/"): Row(
        409, 403, 404, body=lambda estate: {"digest": "0", "reason": "nothing was changed"}
    ),
    ("GET", "vaults/<pk>/removal/"): Row(200, 200, 404),
    # A definition writes into it.
    ("POST", "vaults/<pk>/removal/"): Row(409, 403, 404, body=lambda estate: {"confirmation": estate.vault.name}),
    ("POST", "vaults/<pk>/undo-removal/"): Row(409, 403, 404),
    ("GET", "alarms/"): everybody(200),
    ("POST", "alarms/<pk>/acknowledge/"): Row(200, 403, 404, body=lambda estate: {"note": "seen"}),
    ("GET", "alarms/<pk>/"): Row(200, 200, 404),
    ("GET", "tenants/<pk>/usage/"): Row(200, 200, 404),
    ("GET", "servers/<pk>/usage/"): Row(200, 200, 200),
    ("GET", "disks/<pk>/usage/"): Row(200, 200, 200),
    ("POST", "backups/<pk>/verify/"): Row(202, 202, 403),
    # No storage is set aside for drills.
    ("POST", "backups/<pk>/drill/"): Row(409, 409, 403),
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
    ("POST", "nodes/"): only_superadmin(201, lambda estate: {"name": "new-node", "region": "RBX"}),
    ("PATCH", "nodes/<pk>/"): Row(200, 403, 404, body=lambda estate: {"is_backup": False}),
    ("DELETE", "nodes/<pk>/"): Row(409, 403, 404),
    ("POST", "nodes/<pk>/drain/"): Row(200, 403, 404),
    ("POST", "nodes/<pk>/resume/"): Row(200, 403, 404),
    ("POST", "nodes/<pk>/sweep/"): Row(202, 403, 404),
    ("POST", "storages/"): Row(
        201,
        403,
        403,
        other_admin=403,
        other_owner=403,
        body=lambda estate: {"node": str(estate.node.pk), "name": "more", "path": "/srv/more"},
    ),
    ("PATCH", "storages/<pk>/"): Row(200, 403, 404, body=lambda estate: {"for_drills": True}),
    ("DELETE", "storages/<pk>/"): Row(409, 403, 404),
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
    ("POST", "definitions/simulate/"): everybody(
        200, body=lambda estate: {"cron": "0 1 * * *", "size_bytes": 9, "change_bytes": 1}
    ),
    ("GET", "definitions/overview/"): everybody(200),
    ("GET", "definitions/heat-map/"): everybody(200),
    ("GET", "definitions/choices/"): Row(200, 200, 200, query=lambda estate: f"?disk={disk_of(estate.server).pk}"),
    ("POST", "definitions/spread/"): only_superadmin(200, lambda estate: {"apply": True}),
    ("POST", "definitions/move/"): Row(
        200,
        200,
        403,
        body=lambda estate: {"hour": 5, "definitions": [str(estate.definition.pk)]},
    ),
    # Of nobody's making: who may not take a spreading back does not learn that it is there.
    ("POST", "definitions/undo-spread/"): everybody(404, body=lambda estate: {"spread": str(estate.definition.pk)}),
    ("GET", "pauses/"): everybody(200),
    ("POST", "pauses/"): Row(
        201, 201, 403, other_owner=403, body=lambda estate: {"definition": str(estate.definition.pk), "reason": "x"}
    ),
    ("GET", "pauses/<pk>/"): Row(200, 200, 404),
    ("POST", "pauses/<pk>/end/"): Row(200, 200, 404),
    ("GET", "blackouts/"): everybody(200),
    ("POST", "blackouts/"): Row(
        201,
        201,
        403,
        other_owner=403,
        body=lambda estate: {"tenant": str(estate.tenant.pk), "reason": "x", "start": "01:00", "end": "02:00"},
    ),
    ("GET", "blackouts/<pk>/"): Row(200, 200, 404),
    ("DELETE", "blackouts/<pk>/"): Row(204, 204, 404),
    ("GET", "policies/"): everybody(200),
    ("POST", "policies/"): only_superadmin(201, lambda estate: {"name": "new"}),
    ("GET", "policies/<pk>/"): Row(200, 200, 404),
    ("PATCH", "policies/<pk>/"): Row(200, 403, 404, body=lambda estate: {"description": "changed"}),
    ("DELETE", "policies/<pk>/"): Row(204, 403, 404),
    ("GET", "policies/<pk>/assignments/"): Row(200, 403, 404),
    ("POST", "policies/<pk>/assign/"): Row(200, 403, 404, body=lambda estate: {"tag": "gold"}),
    ("POST", "policies/<pk>/unassign/"): Row(404, 403, 404, body=lambda estate: {"tag": "gold"}),
    ("POST", "policies/tag-server/"): only_superadmin(
        204, lambda estate: {"server": str(estate.server.pk), "tags": ["gold"]}
    ),
    ("GET", "definitions/<pk>/"): Row(200, 200, 200),
    ("PATCH", "definitions/<pk>/"): Row(200, 200, 403, body=lambda estate: {"description": "changed"}),
    ("DELETE", "definitions/<pk>/"): Row(204, 204, 403),
    ("POST", "definitions/<pk>/backup-now/"): Row(202, 202, 403),
    ("GET", "backups/"): everybody(200),
    ("GET", "backups/<pk>/"): Row(200, 200, 200),
    ("PATCH", "backups/<pk>/"): Row(200, 200, 403, body=lambda estate: {"note": "good one"}),
    ("DELETE", "backups/<pk>/"): Row(204, 204, 403),
    ("POST", "backups/bulk/"): Row(
        200, 200, 403, other_admin=200, other_owner=403, body=bulk_body("backups", "verify")
    ),
    ("POST", "definitions/bulk/"): Row(
        200, 200, 403, other_admin=200, other_owner=403, body=bulk_body("definitions", "pause")
    ),
    ("POST", "jobs/bulk/"): Row(200, 200, 403, other_admin=200, other_owner=403, body=bulk_body("jobs", "cancel")),
    ("POST", "backups/<pk>/restore/"): Row(202, 202, 403, body=restore_body),
    # Servers are a SuperAdmin's; and this backup kept no description of its own.
    ("POST", "backups/<pk>/restore-new-server/"): Row(
        409, 403, 403, body=lambda estate: {"name": "again", "storage": str(estate.storage.pk)}
    ),
    ("POST", "backups/<pk>/serve/"): Row(202, 202, 403, body=lambda estate: {"hours": 2}),
    ("POST", "backups/<pk>/restore-new-disk/"): Row(
        202,
        202,
        403,
        body=lambda estate: {"server": str(estate.server.pk), "storage": str(estate.storage.pk)},
    ),
    ("GET", "backups/<pk>/restore-preview/"): Row(
        200, 200, 403, query=lambda estate: f"?target={disk_of(estate.server).pk}"
    ),
    ("GET", "jobs/"): everybody(200),
    ("GET", "jobs/<pk>/"): Row(200, 200, 200),
    ("POST", "jobs/<pk>/cancel/"): Row(202, 202, 403),
    # The operator's alone.
    ("GET", "stray-copies/"): everybody(200),
    ("GET", "stray-copies/<pk>/"): Row(200, 404, 404),
    ("POST", "stray-copies/<pk>/import/"): Row(201, 404, 404, body=lambda estate: {"tenant": str(estate.tenant.pk)}),
    ("POST", "stray-copies/compare/"): only_superadmin(202, lambda estate: {"storage": str(estate.storage.pk)}),
    ("GET", "budgets/"): everybody(200),
    ("POST", "budgets/"): only_superadmin(201, lambda estate: {"kind": "node", "most_jobs": 4}),
    ("GET", "budgets/<pk>/"): Row(200, 404, 404),
    ("PATCH", "budgets/<pk>/"): Row(200, 404, 404, body=lambda estate: {"most_jobs": 5}),
    ("DELETE", "budgets/<pk>/"): Row(204, 404, 404),
    ("GET", "restores/"): everybody(200),
    ("GET", "restores/<pk>/"): Row(200, 200, 200),
    ("PATCH", "tenants/<pk>/"): Row(200, 403, 404, body=lambda estate: {"title": "Another"}),
    ("POST", "tenants/<pk>/suspend/"): Row(200, 403, 404, body=lambda estate: {"reason": "unpaid"}),
    ("POST", "tenants/<pk>/resume/"): Row(409, 403, 404),
    ("GET", "tenants/<pk>/quotas/"): Row(200, 200, 404),
    ("PATCH", "tenants/<pk>/quotas/"): Row(200, 403, 404, body=lambda estate: {"servers": {"hard": 9}}),
    ("GET", "tenants/<pk>/events/"): Row(200, 200, 404),
    ("GET", "tenants/<pk>/deletion/"): Row(200, 200, 404),
    ("POST", "tenants/<pk>/deletion/"): Row(202, 403, 404, body=lambda estate: {"confirmation": estate.tenant.name}),
    ("POST", "tenants/<pk>/undo-deletion/"): Row(409, 403, 404),
    ("GET", "companies/"): everybody(200),
    ("GET", "companies/<pk>/"): Row(200, 200, 404),
    ("GET", "people/"): everybody(200),
    ("GET", "people/<pk>/"): Row(200, 200, 404),
    ("POST", "people/<pk>/grant/"): Row(200, 200, 404, body=lambda estate: admin_body(estate)),
    ("POST", "people/<pk>/revoke/"): Row(204, 204, 404, body=lambda estate: admin_body(estate)),
    ("POST", "people/<pk>/remove-from-tenant/"): Row(
        204, 204, 404, body=lambda estate: {"tenant": str(estate.tenant.pk)}
    ),
    ("POST", "people/<pk>/disable/"): Row(200, 200, 404),
    ("POST", "people/<pk>/enable/"): Row(200, 200, 404),
    ("POST", "people/<pk>/superadmin/"): Row(200, 403, 404, body=lambda estate: {"superadmin": True}),
    # Nobody here has a second factor.
    ("POST", "people/<pk>/reset-mfa/"): Row(409, 403, 404),
    ("GET", "invitations/"): everybody(200),
    ("POST", "invitations/"): Row(
        201,
        201,
        403,
        other_owner=403,
        body=lambda estate: {"tenant": str(estate.tenant.pk), "email": "new@example.org", "administers": True},
    ),
    ("GET", "invitations/<pk>/"): Row(200, 200, 404),
    ("DELETE", "invitations/<pk>/"): Row(204, 204, 404),
    # Both tenants have servers in the one region.
    ("GET", "regions/"): everybody(200),
    ("POST", "regions/"): only_superadmin(201, lambda estate: {"code": "NEW", "vault_region": "GRA"}),
    ("GET", "regions/<pk>/"): Row(200, 200, 404, other_admin=200),
    ("PATCH", "regions/<pk>/"): Row(200, 403, 404, other_admin=403, body=lambda estate: {"title": "Roubaix"}),
    ("PATCH", "servers/<pk>/"): Row(200, 200, 403, body=lambda estate: {"name": "renamed"}),
    ("POST", "servers/<pk>/grant/"): Row(204, 204, 403, body=lambda estate: {"person": str(estate.member.pk)}),
    ("POST", "servers/<pk>/revoke/"): Row(204, 204, 403, body=lambda estate: {"person": str(estate.member.pk)}),
    # A job of it waits.
    ("POST", "servers/<pk>/move/"): Row(
        409, 403, 403, body=lambda estate: {"tenant": str(estate.tenant.pk), "confirmation": estate.server.name}
    ),
    ("POST", "nodes/<pk>/attach/"): Row(204, 403, 404, body=lambda estate: {"tenant": str(estate.tenant.pk)}),
    ("POST", "nodes/<pk>/detach/"): Row(409, 403, 404, body=lambda estate: {"tenant": str(estate.tenant.pk)}),
    ("POST", "servers/<pk>/backup-now/"): Row(202, 202, 403),
    ("POST", "storages/<pk>/attach/"): Row(204, 403, 404, body=lambda estate: {"tenant": str(estate.tenant.pk)}),
    ("POST", "storages/<pk>/detach/"): Row(409, 403, 404, body=lambda estate: {"tenant": str(estate.tenant.pk)}),
    ("GET", "events/"): everybody(200),
    ("GET", "audit/"): everybody(200),
    ("GET", "audit/<pk>/"): Row(200, 200, 404),
    ("GET", "approvals/"): everybody(200),
    ("GET", "approvals/<pk>/"): Row(200, 200, 404),
    ("POST", "approvals/<pk>/approve/"): Row(200, 200, 404),
    ("POST", "approvals/<pk>/decline/"): Row(200, 200, 404, body=lambda estate: {"reason": "no"}),
    # The request of somebody else.
    ("POST", "approvals/<pk>/withdraw/"): Row(403, 403, 404),
    ("GET", "approval-rules/"): everybody(200),
    ("POST", "approval-rules/"): Row(
        201,
        201,
        403,
        other_owner=403,
        body=lambda estate: {"tenant": str(estate.tenant.pk), "kind": "key.export", "required": True},
    ),
    ("GET", "approval-rules/<pk>/"): Row(200, 200, 404),
    ("PATCH", "approval-rules/<pk>/"): Row(200, 200, 404, body=lambda estate: {"required": True}),
    # Tokens of somebody else: even an administrator of his tenant does not see them.
    ("GET", "tokens/"): everybody(200),
    ("POST", "tokens/"): everybody(201, body=lambda estate: {"label": "new"}),
    ("GET", "tokens/<pk>/"): Row(200, 404, 404),
    ("DELETE", "tokens/<pk>/"): Row(204, 404, 404),
    ("POST", "tokens/<pk>/rotate/"): Row(403, 404, 404),
    ("GET", "agents/"): everybody(200),
    ("GET", "agents/<pk>/"): Row(200, 200, 200),
    ("POST", "agents/<pk>/approve/"): Row(409, 409, 403),
    ("POST", "agents/<pk>/revoke/"): Row(200, 200, 403),
    ("POST", "agents/<pk>/readmit/"): Row(409, 409, 403),
    ("GET", "enrolment-tokens/"): everybody(200),
    # The server stands on a node.
    ("POST", "enrolment-tokens/"): Row(
        409, 409, 403, other_owner=403, body=lambda estate: {"server": str(estate.server.pk)}
    ),
    ("GET", "enrolment-tokens/<pk>/"): Row(200, 200, 404),
    ("POST", "enrolment-tokens/<pk>/revoke/"): Row(200, 200, 404),
    ("GET", "releases/"): everybody(200),
    ("GET", "releases/<pk>/"): Row(200, 404, 404),
    ("POST", "releases/<pk>/ring/"): Row(200, 404, 404, body=lambda estate: {"state": "offered", "percent": 5}),
    ("GET", "orders/"): everybody(200),
    ("POST", "orders/"): only_superadmin(
        201, lambda estate: {"tenant": "New one", "email": "new@example.org", "name": "web01", "region": "RBX"}
    ),
    ("GET", "orders/<pk>/"): Row(200, 404, 404),
    # The server has its agent.
    ("POST", "orders/<pk>/send-again/"): Row(409, 404, 404),
    ("GET", "asked-restores/"): everybody(200),
    ("GET", "asked-restores/<pk>/"): Row(200, 200, 200),
    # The server shows another code.
    ("POST", "asked-restores/<pk>/confirm/"): Row(400, 400, 403, body=lambda estate: {"code": "ZZZZ-ZZZZ"}),
    ("POST", "asked-restores/<pk>/refuse/"): Row(200, 200, 403),
    # Signing in by password; nobody here has one. Sessions do not count there.
    ("POST", "/api/accounts/login/?"): everybody(401, body=lambda estate: {"username": "nobody", "password": "wrong"}),
    ("GET", "/api/accounts/logout/?"): everybody(401),
    ("POST", "/api/accounts/logout/?"): everybody(401),
    ("GET", "webhooks/"): everybody(200),
    ("POST", "webhooks/"): Row(
        201,
        201,
        403,
        other_owner=403,
        body=lambda estate: {"tenant": str(estate.tenant.pk), "label": "new", "url": "https://hook.example.com/"},
    ),
    ("GET", "webhooks/<pk>/"): Row(200, 200, 404),
    ("PATCH", "webhooks/<pk>/"): Row(200, 200, 404, body=lambda estate: {"label": "changed"}),
    ("DELETE", "webhooks/<pk>/"): Row(204, 204, 404),
    ("POST", "webhooks/<pk>/test/"): Row(202, 202, 404),
    ("POST", "webhooks/<pk>/rotate-secret/"): Row(200, 200, 404),
    ("GET", "subscriptions/"): everybody(200),
    # Nobody here has an address of his own; a team's address is the administrators' of its tenant.
    ("POST", "subscriptions/"): Row(
        201,
        201,
        404,
        body=lambda estate: {"tenant": str(estate.tenant.pk), "address": "team@example.com"},
    ),
    ("GET", "subscriptions/<pk>/"): Row(200, 200, 404),
    ("PATCH", "subscriptions/<pk>/"): Row(200, 200, 404, body=lambda estate: {"active": False}),
    ("DELETE", "subscriptions/<pk>/"): Row(204, 204, 404),
    ("GET", "deliveries/"): everybody(200),
    ("GET", "deliveries/<pk>/"): Row(200, 200, 404),
    ("POST", "deliveries/<pk>/retry/"): Row(202, 202, 404),
    ("GET", "health/"): only_superadmin(200, lambda estate: {}),
    ("GET", "me/"): everybody(200),
    ("GET", "overview/"): everybody(200),
    ("GET", "overview/days/"): everybody(200),
    ("GET", "schema/"): everybody(200, nobody=200),
    ("GET", "docs/"): everybody(200, nobody=200),
}


def routes() -> dict[str, set[str]]:
    """The routes below /api/ as the URLconf has them, each with the methods that it knows.

    Those of version 1 are named without their beginning, others from the root on.
    """
    found: dict[str, set[str]] = {}
    for path, callback in _patterns(get_resolver().url_patterns, "/"):
        if path.startswith(ROOT) and not path.startswith(ES_ROUTES):
            found.setdefault(path.removeprefix(API), set()).update(_methods(callback))
    return found


def _patterns(patterns: list[Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for pattern in patterns:
        path = prefix + _readable(str(pattern.pattern))
        if isinstance(pattern, URLResolver):
            yield from _patterns(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern):
            yield path, pattern.callback


def _readable(pattern: str) -> str:
    plain = pattern.removeprefix("^").removesuffix("$").removesuffix("\\Z")
    return re.sub(r"\(\?P<(\w+)>[^)]*\)|<(?:\w+:)?(\w+)>", lambda found: f"<{found[1] or found[2]}>", plain)


def _methods(callback: Any) -> set[str]:
    if hasattr(callback, "actions"):
        return {method.upper() for method in callback.actions} - {"HEAD"}
    view = getattr(callback, "cls", None) or getattr(callback, "view_class", None)
    assert view is not None, f"{callback} is no class: its methods cannot be told"
    return {method for method in METHODS if hasattr(view, method.lower())} - {"OPTIONS"}


def _address(path: str, key: str = "") -> str:
    whole = path if path.startswith(ROOT) else API + path
    return whole.replace("<pk>", key)


def _key(estate: Estate, path: str) -> str:
    return str(estate.object_of(path.split("/")[0]).pk) if "<pk>" in path else ""


def _answers(walk: Walk, method: str, row: Row, estate: Estate, address: str) -> dict[str, int]:
    found = {}
    for name in PRINCIPALS:
        body = None if method == "GET" else row.body(estate)
        answer = walk.ask(name, method, address + row.query(estate), body)
        found[name] = answer.status_code
        assert answer.status_code < 400 or answer["Content-Type"] == "application/problem+json"
    return found


@pytest.mark.case("AZ-01")
def test_the_table_has_a_row_for_every_route_and_method() -> None:
    present = {(method, path) for path, methods in routes().items() for method in methods}

    assert present == set(TABLE)
    assert len(routes()) >= 26


@pytest.mark.case("AZ-01", "AZ-05")
@pytest.mark.parametrize(("method", "path"), sorted(TABLE))
def test_on_an_object_of_tenant_a(walk: Walk, method: str, path: str) -> None:
    row, estate = TABLE[method, path], walk.world.ours

    assert _answers(walk, method, row, estate, _address(path, _key(estate, path))) == row.on_ours()


@pytest.mark.case("AZ-01")
@pytest.mark.parametrize(("method", "path"), sorted(TABLE))
def test_on_an_object_of_tenant_b(walk: Walk, method: str, path: str) -> None:
    row, estate = TABLE[method, path], walk.world.theirs

    assert _answers(walk, method, row, estate, _address(path, _key(estate, path))) == row.on_theirs()


@pytest.mark.case("AZ-01")
@pytest.mark.parametrize(("method", "path"), sorted(key for key in TABLE if "<pk>" in key[1]))
def test_on_a_missing_object(walk: Walk, method: str, path: str) -> None:
    row = TABLE[method, path]

    answers = _answers(walk, method, row, walk.world.ours, _address(path, str(uuid.uuid4())))

    nobody = {**dict.fromkeys(AGENTS, row.agent), **dict.fromkeys(NOBODY, row.nobody)}
    assert answers == {**dict.fromkeys(KNOWN, 404), **nobody}


@pytest.mark.case("IN-10")
@pytest.mark.parametrize(("method", "path"), sorted(key for key in TABLE if "<pk>" in key[1]))
def test_on_what_is_no_id(walk: Walk, method: str, path: str) -> None:
    row = TABLE[method, path]

    for key in ("1", "no-such-thing", "%00", "..%2f..", "%F0%9F%92%BE"):
        answer = walk.ask("super", method, _address(path, key) + row.query(walk.world.ours), row.body(walk.world.ours))

        assert answer.status_code == 404, key


@pytest.mark.parametrize("path", sorted(routes()))
def test_a_method_without_an_action_is_405(walk: Walk, path: str) -> None:
    address = _address(path, _key(walk.world.theirs, path))

    for method in set(METHODS) - routes()[path]:
        if path in {"schema/", "docs/"} and method == "OPTIONS":
            continue
        for name in ("super", "admin_a", "owner_a1"):
            answer = walk.ask(name, method, address, {})

            # Where sessions do not count nobody gets as far as the method.
            refusal = (401, "not_signed_in") if path in ONLY_BY_TOKEN else (405, "method_not_allowed")
            assert (answer.status_code, answer.json()["code"]) == refusal, (method, path, name)


def test_every_view_below_api_is_guarded() -> None:
    """Strict JSON, throttles, Idempotency-Key: nobody has to remember them."""
    plain = {SchemaView, DocsView}
    for path, callback in _patterns(get_resolver().url_patterns, "/"):
        view = getattr(callback, "cls", None) or getattr(callback, "view_class", None)
        if path.startswith(ROOT) and view not in plain:
            assert view is not None
            assert issubclass(view, GuardedMixin), path


WRITES = sorted(key for key in TABLE if key[0] in {"POST", "PATCH", "PUT"} and not key[1].endswith("/bulk/"))


def _names_another(mine: Any, other: Any) -> bool:
    """Whether the body names another tenant's objects: built for the other estate it holds other ids."""
    ids = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
    return bool(set(ids.findall(json.dumps(other))) - set(ids.findall(json.dumps(mine))))


@pytest.mark.case("AZ-02")
@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_body_that_names_foreign_objects_links_nothing(walk: Walk, method: str, path: str) -> None:
    row, ours, theirs = TABLE[method, path], walk.world.ours, walk.world.theirs
    if not _names_another(row.body(ours), row.body(theirs)):
        return

    for name in ("admin_a", "owner_a1", "owner_a2"):
        answer = walk.ask(name, method, _address(path, _key(ours, path)) + row.query(ours), row.body(theirs))

        assert answer.status_code in {400, 403, 404}, name


UNWRITABLE = (
    "id",
    "created_at",
    "changed_at",
    "is_staff",
    "is_superuser",
    "owner",
    "locked",
    "retain_until",
    "secret_hash",
)


@pytest.mark.case("AZ-04")
@pytest.mark.parametrize(("method", "path"), WRITES)
def test_what_is_not_for_callers_to_set_is_refused(walk: Walk, method: str, path: str) -> None:
    row, ours = TABLE[method, path], walk.world.ours
    body = row.body(ours)
    if not body:
        return

    for field in set(UNWRITABLE) - set(body):
        answer = walk.ask("super", method, _address(path, _key(ours, path)) + row.query(ours), {**body, field: True})

        assert answer.status_code == 400, field
