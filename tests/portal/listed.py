"""Every list of the portal: its rows and, by hand, what they are ordered by; and a world with rows of everything."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from importlib import import_module
from typing import Any

from agents.models import Agent, Node, Server, ServerOrder
from backups.models import Backup, Job
from definitions.models import Definition, Policy
from tenants.approval_states import KINDS
from tenants.audit import record
from tenants.listing import Listed, Listing
from tenants.models import ApiToken, ApprovalRequest, AuditEvent, Person, Tenant
from tests.factories import (
    make_agent,
    make_approval_request,
    make_backup,
    make_definition,
    make_job,
    make_order,
    make_person,
    make_region,
    make_server,
    make_tenant,
    make_tenant_key,
    make_token,
)
from tests.worlds import World
from vaults.models import Endpoint, Region, TenantKey, Vault

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
NEVER, NOT_YET = datetime(1900, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
# What rows of a list are told apart by: few values, so that some are alike, and in no order of their own.
SHUFFLED = (3, 0, 2, 1, 3, 2, 0, 1)


@dataclass(frozen=True)
class Case:
    """`rows` are those that the list holds without a wish, `keys` by order what they are ordered by, by hand; `wish` is
    a filter of the list that leaves some of them.
    """

    rows: Callable[[], Any]
    keys: dict[str, Callable[[Any], Any]]
    wish: str
    name: str = ""


def made(row: Any) -> Any:
    return row.created_at


def _jobs(kinds: tuple[str, ...] = ()) -> Any:
    rows = Job.objects.select_related("disk__server")
    return rows.filter(kind__in=kinds) if kinds else rows


_JOB_KEYS: dict[str, Callable[[Any], Any]] = {
    "job": lambda job: (job.kind, job.backup_name),
    "disk": lambda job: (job.disk.server.name, job.disk.number) if job.disk else ("", 0),
    "state": lambda job: job.state,
    "asked": made,
    "ended": lambda job: job.finished_at or NOT_YET,
}
_DEFINITION_KEYS: dict[str, Callable[[Any], Any]] = {
    "server": lambda one: (one.disk.server.name, one.name),
    "name": lambda one: one.name,
    "next": lambda one: one.next_run_at or NOT_YET,
    "keeps": lambda one: one.retention_count,
    "state": lambda one: one.active,
    "added": made,
}
CASES = {
    "servers/": Case(
        lambda: Server.objects.select_related("tenant"),
        {
            "name": lambda server: server.name,
            "tenant": lambda server: (server.tenant.title, server.name),
            "region": lambda server: (server.region_id, server.name),
            "added": made,
        },
        "q=server-a",
    ),
    "backups/": Case(
        Backup.objects.all,
        {
            "name": lambda backup: backup.name,
            "server": lambda backup: (backup.server_name, backup.disk_number),
            "status": lambda backup: backup.status,
            "made": made,
            "took": lambda backup: backup.duration_seconds or 0,
            "size": lambda backup: backup.size_bytes,
            "stored": lambda backup: -1 if backup.stored_bytes is None else backup.stored_bytes,
            "locked": lambda backup: backup.immutable_until or NEVER,
        },
        "status=lost",
    ),
    "jobs/": Case(_jobs, _JOB_KEYS, "state=failed"),
    "restores/": Case(lambda: _jobs(("restore",)), _JOB_KEYS, "state=ok"),
    "definitions/": Case(lambda: Definition.objects.select_related("disk__server"), _DEFINITION_KEYS, "state=inactive"),
    "definitions/overview/": Case(
        lambda: Definition.objects.select_related("disk__server"),
        _DEFINITION_KEYS,
        "state=active",
        name="overview-of-definitions",
    ),
    "nodes/": Case(
        Node.objects.all,
        {
            "name": lambda node: node.name,
            "region": lambda node: (node.region_id, node.name),
            "status": lambda node: node.status,
            "added": made,
        },
        "status=online",
    ),
    "vaults/": Case(
        lambda: Vault.objects.select_related("endpoint"),
        {
            "name": lambda vault: vault.name,
            "region": lambda vault: vault.endpoint.region_id,
            "status": lambda vault: vault.status,
            "added": made,
        },
        "status=refused",
    ),
    "tenants/": Case(
        Tenant.objects.all,
        {
            "title": lambda tenant: tenant.title,
            "name": lambda tenant: tenant.name,
            "status": lambda tenant: tenant.status,
            "added": made,
        },
        "status=suspended",
    ),
    "agents/": Case(
        Agent.objects.all,
        {
            "name": lambda agent: agent.name,
            "state": lambda agent: agent.status,
            "version": lambda agent: agent.version,
            "seen": lambda agent: agent.last_seen_at or NEVER,
            "added": made,
        },
        "status=pending",
    ),
    "people/": Case(
        Person.objects.all,
        {
            "name": lambda person: person.username,
            "email": lambda person: person.email,
            "joined": lambda person: person.date_joined,
        },
        "account=super",
    ),
    "orders/": Case(
        ServerOrder.objects.all, {"ordered": made, "email": lambda order: order.email}, "q=server-a",
    ),
    "tokens/": Case(
        ApiToken.objects.all,
        {"made": made, "label": lambda token: token.label, "ends": lambda token: token.expires_at},
        "scope=read",
    ),
    "audit/": Case(
        AuditEvent.objects.all,
        {
            "when": lambda event: event.pk,
            "who": lambda event: event.actor_name,
            "action": lambda event: event.action,
            "object": lambda event: event.subject_name,
            "outcome": lambda event: event.outcome,
        },
        "outcome=refused",
    ),
    "keys/": Case(
        lambda: TenantKey.objects.select_related("tenant").exclude(status="retired"),
        {
            "tenant": lambda key: key.tenant.title,
            "mode": lambda key: key.mode,
            "status": lambda key: key.status,
            "made": made,
        },
        "status=untested",
    ),
    "policies/": Case(
        Policy.objects.all,
        {
            "name": lambda policy: policy.name,
            "window": lambda policy: (policy.window_start, policy.window_end),
            "changes": lambda policy: policy.restricted,
            "added": made,
        },
        "changes=no",
    ),
    "approvals/": Case(
        lambda: ApprovalRequest.objects.select_related("requested_by").filter(status__in=("pending", "approved")),
        {
            # The SuperAdmin may answer what others asked for.
            "first": lambda one: one.status == "pending" and one.requested_by.username != "super",
            "kind": lambda one: (one.kind, one.subject_name),
            "by": lambda one: one.requested_by_name,
            "asked": made,
            "until": lambda one: one.expires_at,
            "status": lambda one: one.status,
        },
        "state=approved",
    ),
}  # fmt: skip


_APPS = {"agents", "backups", "backupsite", "definitions", "tenants", "vaults"}


def every_listing() -> Iterator[Listing]:
    """Also those that a page has two of, as the audit has; some of them more than once."""
    import_module("backupsite.urls")
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in _APPS]
    return (one for module in modules for one in vars(module).values() if isinstance(one, Listing))


def fill(world: World) -> World:
    """At least seven rows of everything, many of them alike, in no order by any column."""
    for number, at in enumerate(SHUFFLED):
        _fill(world, number, at)
    for model in (
        Server,
        Backup,
        Job,
        Definition,
        Node,
        Vault,
        Tenant,
        Agent,
        ServerOrder,
        ApiToken,
        TenantKey,
        Policy,
    ):
        shuffle(model, "created_at", [NOON + timedelta(hours=at) for at in SHUFFLED])
    shuffle(ApprovalRequest, "created_at", [NOON + timedelta(hours=at) for at in SHUFFLED])
    shuffle(Person, "date_joined", [NOON + timedelta(hours=at) for at in SHUFFLED])
    shuffle(Person, "email", [f"{at}@example.org" for at in SHUFFLED])
    shuffle(Backup, "size_bytes", SHUFFLED)
    shuffle(Node, "region", [make_region(f"R{at}") for at in SHUFFLED])
    shuffle(Node, "status", [("online", "offline")[at % 2] for at in SHUFFLED])
    shuffle(Server, "region", [make_region(f"R{at}") for at in SHUFFLED])
    shuffle(ServerOrder, "email", [f"{at}@example.org" for at in SHUFFLED])
    shuffle(ApiToken, "label", [f"token {at}" for at in SHUFFLED])
    shuffle(ApiToken, "scope", [("read", "admin")[at % 2] for at in SHUFFLED])
    shuffle(ApiToken, "expires_at", [NOON + timedelta(days=at) for at in SHUFFLED])
    return world


def _fill(world: World, number: int, at: int) -> None:
    tenant = make_tenant(f"More {at} {number}")
    Tenant.objects.filter(pk=tenant.pk).update(status=("active", "suspended")[at % 2])
    server = make_server(tenant, name=f"more-{at}-{number}")
    Vault.objects.filter(tenant=tenant).update(
        status=("ready", "refused")[at % 2],
        endpoint=Endpoint.objects.get_or_create(
            region=Region.objects.get_or_create(code=f"V{at}")[0], url=f"http://v{at}.example"
        )[0],
    )
    definition = make_definition(world.ours.server, name=f"d{at}{number}", retention_count=at, active=at != 2)
    Definition.objects.filter(pk=definition.pk).update(next_run_at=None if at in {1, 2} else NOON + timedelta(hours=at))
    make_backup(
        (world.ours.server, world.theirs.server)[at % 2], name=f"b{at}", status=("ok", "lost")[at % 2],
        duration_seconds=at or None, stored_bytes=at or None,
        immutable_until=NOON + timedelta(days=at) if at else None,
    )  # fmt: skip
    for kind in ("backup", "restore"):
        state = ("pending", "ok", "failed", "canceled")[at]
        make_job((world.ours.server, server)[at % 2], kind=kind, state=state, backup_name=f"j{at}")
    Job.objects.create(kind="verify", state="failed", tenant=tenant, backup_name=f"v{at}", finished_at=NOON)
    agent, _ = make_agent(server, status=("enrolled", "pending")[at % 2])
    Agent.objects.filter(pk=agent.pk).update(
        name=f"agent-{at}", version=f"1.{at}", last_seen_at=NOON + timedelta(hours=at) if at else None
    )
    make_order(server)
    make_token(make_person(f"somebody-{at}-{number}"))
    is_managed = at % 2 == 0
    make_tenant_key(
        tenant, status=("active", "untested")[at // 2], mode="managed" if is_managed else "customer",
        wrapped_private_key=b"x" if is_managed else None,
    )  # fmt: skip
    make_tenant_key(tenant, status="retired")
    Policy.objects.create(
        name=f"p{at}{number}", restricted=at % 2 == 0, window_start=time(20 + at), window_end=time(number)
    )
    record(action=f"action.{at}", subject=server, outcome=("done", "refused")[at % 2], actor=world.people["super"])
    asked = make_approval_request(definition, by=(world.people["super"], world.ours.member)[number % 2])
    ApprovalRequest.objects.filter(pk=asked.pk).update(
        kind=list(KINDS)[at], status=("pending", "approved", "pending", "declined")[at],
        expires_at=datetime.now(UTC) + timedelta(days=at + 1),
    )  # fmt: skip


def shuffle(model: Any, column: str, values: Any) -> None:
    for pk, value in zip(model.objects.order_by("pk").values_list("pk", flat=True), itertools.cycle(values)):
        model.objects.filter(pk=pk).update(**{column: value})


def read(world: World, address: str) -> Listed:
    answer = world.client("super").get(address)
    assert answer.status_code == 200, address
    listed: Listed = answer.context["listed"]
    return listed


def pages_of(world: World, path: str, query: str) -> Iterator[Listed]:
    """To the end; on the way back each page is the same again."""
    found = [read(world, f"/{path}?{query}")]
    while found[-1].next_address:
        found.append(read(world, f"/{path}{found[-1].next_address}"))
    yield from found
    for earlier, later in itertools.pairwise(found):
        again = read(world, f"/{path}{later.previous_address}")
        assert [row.pk for row in again.rows] == [row.pk for row in earlier.rows]
