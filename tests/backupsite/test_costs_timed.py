"""What every page and every GET costs: few statements, and no more of them when there is more to show.

The routes are those of the tables of the portal, the API and the es grammar, each of which fails without a row for a
route. One world is asked, filled, and asked again: whatever is read row by row shows as more statements.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import time
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from agents.services import grant_server_ownership
from backups.models import JobEvent
from backups.states import JobKind
from definitions.models import BlackoutWindow, Definition, DefinitionPause
from tenants.services import grant_tenant_administration
from tests.api import test_permission_matrix as api
from tests.es import test_roles as es
from tests.factories import (
    make_agent,
    make_approval_request,
    make_asked_restore,
    make_backup,
    make_budget,
    make_definition,
    make_delivery,
    make_enrolment_token,
    make_invitation,
    make_job,
    make_person,
    make_server,
    make_storage,
    make_stray_copy,
    make_subscription,
    make_tenant_key,
    make_token,
    make_webhook,
)
from tests.portal import test_pages as portal
from tests.worlds import World, make_estate, make_world
from vaults.models import Alarm

pytestmark = pytest.mark.django_db
ROLES = ("super", "admin_a", "owner_a1")
MOST = 30
# Pages for everybody that the portal's tables leave to the tests of sign-in, and lists as people ask for them.
OTHERS = (
    *("/sign-in/", "/people/<pk>/sign-in/", "/approvals/?all", "/backups/?server=<server>", "/servers/?q=server"),
    *("/definitions/?q=server", "/choices/servers/?q=server", "/choices/disks/?q=server", "/choices/tenants/?q=tenant"),
)
Costs = dict[str, int]


def addresses(world: World) -> list[str]:
    """Each GET on the things of tenant A."""
    ours = world.ours
    found = [portal.address_of(path, ours) for path in (*portal.READ_PAGES, *portal.COLLECTIONS)]
    found += [
        api._address(path, api._key(ours, path)) + row.query(ours)
        for (method, path), row in api.TABLE.items()
        if method == "GET" and not path.startswith(("schema/", "docs/"))
    ]
    found += [
        es.filled(path, method, ours) + "?" + "&".join(f"{key}={value}" for key, value in row.given(ours).items())
        for (method, path), row in es.TABLE.items()
        if method == "GET"
    ]
    found += [one.replace("<pk>", str(ours.member.pk)).replace("<server>", str(ours.server.pk)) for one in OTHERS]
    return found


@pytest.fixture(scope="module")
def costs(django_db_setup: None, django_db_blocker: Any) -> Iterator[dict[str, tuple[Costs, Costs]]]:
    """Of each role the statements of each address, with few rows and with three times as many."""
    with django_db_blocker.unblock(), transaction.atomic():
        world = make_world()
        # A second of everything, so that what comes as one is not taken for what comes as a list.
        _fill(world, 1)
        few = {name: _asked(world, name) for name in ROLES}
        _fill(world, 4)
        many = {name: _asked(world, name) for name in ROLES}
        yield {name: (few[name], many[name]) for name in ROLES}
        transaction.set_rollback(True)


@pytest.mark.parametrize("name", ROLES)
def test_no_page_needs_many_statements(costs: dict[str, tuple[Costs, Costs]], name: str) -> None:
    _, many = costs[name]

    assert {address: count for address, count in many.items() if count > MOST} == {}


@pytest.mark.parametrize("name", ROLES)
def test_more_rows_cost_no_more_statements(costs: dict[str, tuple[Costs, Costs]], name: str) -> None:
    few, many = costs[name]

    assert {address: (few[address], count) for address, count in many.items() if count > few[address]} == {}


def _asked(world: World, name: str) -> Costs:
    client = world.client(name)
    # The first request of a session writes when it was.
    client.get("/sign-in/")
    found = {}
    import time as t, collections
    spent = collections.Counter()
    n = collections.Counter()
    for address in addresses(world):
        began = t.process_time()
        with transaction.atomic(), _counted() as statements:
            answer = client.get(address)
            assert answer.status_code < 500, address
            transaction.set_rollback(True)
        found[address] = len(statements)
        import re
        g = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "X", address)
        spent[g] += t.process_time() - began
        k = "API" if g.startswith("/api/v1") else "ES" if g.startswith("/api") else "PORTAL"
        n[k] += 1; spent[k] += t.process_time() - began
    print(name, n, [(a, round(b, 3)) for a, b in spent.most_common(14)], flush=True)
    return found


@contextmanager
def _counted() -> Iterator[list[str]]:
    statements: list[str] = []

    def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if not sql.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK")):
            statements.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(count):
        yield statements


def _fill(world: World, times: int) -> None:
    for _ in range(times):
        _add_tenant(world)
        _add_to_server(world)
        _add_to_tenant(world)


def _add_tenant(world: World) -> None:
    """Another tenant with one of everything, that the administrator has as well; one of its servers is the owner's."""
    estate = make_estate(f"m{timezone.now():%M%S%f}")
    grant_tenant_administration(person=world.people["admin_a"], tenant=estate.tenant)
    grant_server_ownership(person=world.people["owner_a1"], server=estate.server)
    for name in ROLES:
        make_token(world.people[name])


def _add_to_server(world: World) -> None:
    ours, now = world.ours, timezone.now()
    definition = make_definition(ours.server)
    Definition.objects.filter(pk=definition.pk).update(policy=ours.policy)
    for of in (definition, ours.definition):
        backup = make_backup(ours.server, definition=of)
        make_job(ours.server, definition=of, backup=backup, state="failed")
        make_job(ours.server, kind=JobKind.RESTORE, state="ok", backup=ours.backup)
        DefinitionPause.objects.create(definition=of, tenant=ours.tenant, reason="more", starts_at=now)
    make_job(ours.server, definition=definition)
    JobEvent.objects.create(job=ours.job, at=now, code="requested")
    make_enrolment_token(ours.server)
    make_asked_restore(ours.agent, ours.backup)
    make_approval_request(definition, by=ours.member)
    make_storage(ours.node)


def _add_to_tenant(world: World) -> None:
    ours, now = world.ours, timezone.now()
    server = make_server(ours.tenant)
    make_backup(server, definition=make_definition(server))
    make_job(server)
    make_job(server, state="failed")
    make_agent(server)
    make_stray_copy(server)
    grant_server_ownership(person=ours.member, server=server)
    grant_tenant_administration(person=make_person(), tenant=ours.tenant)
    make_invitation(ours.tenant)
    make_delivery(ours.webhook)
    make_delivery(make_webhook(ours.tenant))
    make_subscription(tenant=ours.tenant, address=f"{server.pk}@example.com")
    make_budget(ours.tenant)
    make_tenant_key(ours.tenant, status="retired")
    Alarm.objects.create(vault=ours.vault, code=f"of-{server.name}", message="more", seen_at=now)
    BlackoutWindow.objects.create(tenant=ours.tenant, reason="more", start=time(3), end=time(4))
