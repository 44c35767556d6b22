"""What every page and every GET costs: few statements, and no more of them when there is more to show.

The routes are those of the tables of the portal, the API and the es grammar, each of which fails without a row for a
route. One world is asked, filled, and asked again: whatever is read row by row shows as more statements.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import time
from typing import Any

import pytest
from django.db import transaction
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
from tests.statements import MOST_STATEMENTS, counted_statements, leave_session_alone
from tests.worlds import World, make_estate, make_world
from vaults.models import Alarm

pytestmark = pytest.mark.django_db
ROLES = ("super", "admin_a", "owner_a1")
# What is asked besides when not everything fits on a page. A statement for each row would be one more in each round.
ROUNDS, NEXT_PAGE = 4, 2
# Pages for everybody that the portal's tables leave to the tests of sign-in, and lists as people ask for them.
OTHERS = (
    *("/sign-in/", "/people/<pk>/sign-in/", "/backups/?server=<server>", "/servers/?q=server"),
    *("/approvals/?state=all", "/approvals/?state=you&sort=by", "/keys/?status=retired", "/policies/?given=yes"),
    *(
        "/backups/?sort=name",
        "/jobs/?sort=-ended",
        "/audit/?sort=who",
        "/servers/?sort=tenant",
        "/definitions/?sort=next",
    ),
    *("/definitions/?q=server", "/choices/servers/?q=server", "/choices/disks/?q=server", "/choices/tenants/?q=tenant"),
)
Costs = dict[str, int]


def addresses(world: World, name: str) -> list[str]:
    """Each GET on the things of tenant A. The administrator asks for all, the others not again for what they see as he
    does: they ask for lists, the SuperAdmin for what only he sees, the owner for the pages that he sees at all."""
    ours = world.ours
    found = [
        portal.address_of(path, ours)
        for path, statuses in {**portal.READ_PAGES, **portal.COLLECTIONS}.items()
        if "<" not in path or _is_asked(name, *statuses)
    ]
    found += [
        api._address(path, api._key(ours, path)) + row.query(ours)
        for (method, path), row in api.TABLE.items()
        if method == "GET" and not path.startswith(("schema/", "docs/"))
        if "<" not in path or (name != "owner_a1" and _is_asked(name, row.superadmin, row.admin, row.owner))
    ]
    found += [
        es.filled(path, method, ours) + "?" + "&".join(f"{key}={value}" for key, value in row.given(ours).items())
        for (method, path), row in es.TABLE.items()
        if method == "GET" and ("<" not in path or name == "admin_a")
    ]
    found += [one.replace("<pk>", str(ours.member.pk)).replace("<server>", str(ours.server.pk)) for one in OTHERS]
    return found


def _is_asked(name: str, superadmin: int, admin: int, owner: int) -> bool:
    if name == "super":
        return superadmin != admin
    return name == "admin_a" or owner < 300


@pytest.fixture(scope="module")
def world(django_db_setup: None, django_db_blocker: Any) -> Iterator[World]:
    with django_db_blocker.unblock(), transaction.atomic():
        made = make_world()
        # A second of everything, so that what comes as one is not taken for what comes as a list.
        _fill(made, 1)
        yield made
        transaction.set_rollback(True)


@pytest.mark.parametrize("name", ROLES)
def test_few_statements_and_no_more_for_more_rows(world: World, caplog: pytest.LogCaptureFixture, name: str) -> None:
    # Refusals are told with where they came from, which costs more than the refusal.
    caplog.set_level(logging.CRITICAL, logger="django.request")
    few = _asked(world, name)
    _fill(world, ROUNDS)
    many = _asked(world, name)

    assert {address: count for address, count in many.items() if count > MOST_STATEMENTS} == {}
    grown = {address: (few[address], count) for address, count in many.items() if count > few[address] + NEXT_PAGE}
    assert grown == {}


def _asked(world: World, name: str) -> Costs:
    client = world.client(name)
    leave_session_alone(client)
    found = {}
    for address in addresses(world, name):
        with counted_statements() as statements:
            answer = client.get(address)
        assert answer.status_code < 500, address
        found[address] = len(statements)
    return found


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
