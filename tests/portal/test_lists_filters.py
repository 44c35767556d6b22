"""Every filter of every list finds the rows that it means and no others. A filter without a row in the table fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import pytest

from agents.models import Agent, Node, Server, ServerOrder
from backups.models import Backup, DefinitionStanding, Job
from definitions.models import Definition, Policy
from tenants.models import ApiToken, ApprovalRequest, AuditEvent, Person, Tenant
from tests.factories import make_definition, make_storage
from tests.portal.listed import CASES, NOON, SHUFFLED, every_listing, fill, read, shuffle
from tests.worlds import World
from vaults.models import Alarm, TenantKey, Vault

# Of who looks: what was made at 20:00 in UTC was made on the day after.
ZONE = ZoneInfo("Asia/Kolkata")
NOW = datetime.now(UTC)
SECOND, DAY, YESTERDAY = NOON + timedelta(hours=8), "2026-03-11", f"{NOW - timedelta(days=1):%Y-%m-%d}"


def day(moment: datetime) -> str:
    return f"{moment.astimezone(ZONE):%Y-%m-%d}"


Means = Callable[[Any], bool]


@dataclass(frozen=True)
class Filters:
    """`rows` are all there are, `plain` says which of them the list holds without a wish.

    `asked` has for each filter at least one wish that begins with it, and says by hand which rows that means.
    """

    rows: Callable[[], Any]
    asked: dict[str, Means]
    plain: Means = lambda row: True


DAYS: dict[str, Means] = {
    f"since={DAY}": lambda row: day(row.created_at) >= DAY,
    "until=2026-03-10": lambda row: day(row.created_at) < DAY,
}


def _has(text: str, whole: str) -> bool:
    return text in whole.lower()


def _of_server(row: Any) -> Any:
    return row.disk.server if row.disk else None


JOBS: dict[str, Means] = {
    **DAYS,
    f"utc=on&since={DAY}": lambda job: f"{job.created_at:%Y-%m-%d}" >= DAY,
    f"created_after={SECOND:%Y-%m-%dT%H:%M:%SZ}": lambda job: job.created_at >= SECOND,
    f"created_before={SECOND:%Y-%m-%dT%H:%M:%SZ}": lambda job: job.created_at < SECOND,
    "server={server}": lambda job: bool(job.disk) and job.disk.server.name == "server-a-1",
    "q=Server-A": lambda job: bool(job.disk) and _has("server-a", job.disk.server.name),
    "state=failed": lambda job: job.state == "failed",
    "tenant=Tenant a": lambda job: job.tenant.title == "Tenant a",
    "node=node-ours": lambda job: bool(job.node) and job.node.name == "node-ours",
}


def _found_of(definition: Any) -> str | None:
    return definition.standing.state if hasattr(definition, "standing") else None


DEFINITIONS = Filters(
    lambda: Definition.objects.select_related("disk__server__node", "standing", "tenant"),
    {
        "q=SERVER-B": lambda one: _has("server-b", one.disk.server.name),
        # No server is called so.
        "q=Def-A": lambda one: one.name == "def-a",
        "state=active": lambda one: one.active,
        "state=inactive": lambda one: not one.active,
        "state=waiting": lambda one: one.active and _found_of(one) in {"waiting", None},
        "state=late": lambda one: one.active and _found_of(one) == "late",
        "state=stale": lambda one: one.active and _found_of(one) == "stale",
        "tenant=Tenant b": lambda one: one.tenant.title == "Tenant b",
        "node=node-ours": lambda one: one.disk.server.node.name == "node-ours",
        "type=file": lambda one: one.type == "file",
        "type=vault": lambda one: one.type == "vault",
    },
)


def _is_there(backup: Any) -> bool:
    return backup.removed_at is None


def _is_unused(agent: Any) -> bool:
    seen, changed = agent.last_seen_at, agent.changed_at
    is_long_ago = changed < NOW - timedelta(days=1) if seen is None else seen < NOW - timedelta(days=30)
    return agent.status != "revoked" and is_long_ago


def _is_searched(event: Any) -> bool:
    """Words are looked for in the last 90 days."""
    return bool(event.at > NOW - timedelta(days=90))


def _is_to_do(key: Any) -> bool:
    """The one of each estate of the world was shown and tested, nothing else was."""
    return key.status != "retired" and key.tested_at is None


def _is_open(asked: Any) -> bool:
    return asked.status in {"pending", "approved"} and asked.expires_at > NOW


FILTERS = {
    "servers": Filters(
        lambda: Server.objects.select_related("tenant", "node"),
        {
            "q=Server-A": lambda server: _has("server-a", server.name),
            'q="server-a-1"': lambda server: server.name == "server-a-1",
            # Of its definitions one is stale; of that of the other tenant nothing is found.
            "state=failed": lambda server: server.name == "server-a-1",
            "state=protected": lambda server: server.name == "server-b-1",
            "state=unprotected": lambda server: server.name not in {"server-a-1", "server-b-1"},
            "tenant=Tenant a": lambda server: server.tenant.title == "Tenant a",
            "node=node-ours": lambda server: bool(server.node) and server.node.name == "node-ours",
            "kind=virtual": lambda server: server.node is not None,
            "kind=metal": lambda server: server.node is None,
            "region=R1": lambda server: server.region_id == "R1",
        },
    ),
    "backups": Filters(
        lambda: Backup.objects.select_related("tenant", "node", "definition"),
        {
            **{
                query: lambda backup, means=means: means(backup) and _is_there(backup)
                for query, means in {
                    **DAYS,
                    **{query: means for query, means in JOBS.items() if query.startswith("created_")},
                    "server={server}": lambda backup: backup.server_id and backup.server_name == "server-a-1",
                    "definition={definition}": lambda backup: (
                        backup.definition is not None and backup.definition.name == "def-a"
                    ),
                    "q=Server-A": lambda backup: _has("server-a", backup.server_name),
                    "gone=on": lambda backup: backup.server_id is None,
                    "status=lost": lambda backup: backup.status == "lost",
                    "health=damaged": lambda backup: backup.health == "damaged",
                    "type=file": lambda backup: backup.type == "file",
                    "type=vault": lambda backup: backup.type == "vault",
                    "size_from=2": lambda backup: backup.size_bytes >= 2,
                    "size_to=1": lambda backup: backup.size_bytes <= 1,
                    "tenant=Tenant a": lambda backup: backup.tenant.title == "Tenant a",
                    "node=node-ours": lambda backup: bool(backup.node) and backup.node.name == "node-ours",
                }.items()
            },
            "removed=on": lambda backup: True,
            "removed=on&status=lost": lambda backup: backup.status == "lost",
        },
        plain=_is_there,
    ),
    "jobs": Filters(
        lambda: Job.objects.select_related("disk__server", "node", "tenant"),
        {**JOBS, "kind=verify": lambda job: job.kind == "verify", "kind=backup": lambda job: job.kind == "backup"},
    ),
    "restores": Filters(
        lambda: Job.objects.filter(kind="restore").select_related("disk__server", "node", "tenant"), JOBS
    ),
    "definitions": DEFINITIONS,
    "overview-of-definitions": DEFINITIONS,
    "nodes": Filters(
        Node.objects.all,
        {
            "q=node-OURS": lambda node: node.name == "node-ours",
            "status=online": lambda node: node.status == "online",
            "status=offline": lambda node: node.status == "offline",
            "is_backup=on": lambda node: node.is_backup,
        },
    ),
    "vaults": Filters(
        lambda: Vault.objects.select_related("endpoint", "tenant"),
        {
            "q=Vault-Ours": lambda vault: vault.name == "vault-ours",
            "status=refused": lambda vault: vault.status == "refused",
            "region=V3": lambda vault: vault.endpoint.region_id == "V3",
            "tenant=Tenant b": lambda vault: vault.tenant.title == "Tenant b",
            # That of the other one somebody has acknowledged.
            "alarms=on": lambda vault: vault.name == "vault-ours",
        },
    ),
    "tenants": Filters(
        Tenant.objects.all,
        {
            "q=MORE 3": lambda tenant: _has("more 3", tenant.title),
            "q=Zebra": lambda tenant: tenant.name == "zebra",
            "status=suspended": lambda tenant: tenant.status == "suspended",
            "status=active": lambda tenant: tenant.status == "active",
        },
    ),
    "agents": Filters(
        lambda: Agent.objects.select_related("server__tenant"),
        {
            "q=Agent-3": lambda agent: agent.name == "agent-3",
            "status=enrolled": lambda agent: agent.status == "enrolled" and agent.silent_since is None,
            "status=pending": lambda agent: agent.status == "pending" and agent.silent_since is None,
            "status=silent": lambda agent: agent.silent_since is not None,
            "tenant=Tenant a": lambda agent: agent.server.tenant.title == "Tenant a",
            "unused=on": _is_unused,
        },
    ),
    "people": Filters(
        Person.objects.all,
        {
            "q=Somebody-3": lambda person: _has("somebody-3", person.username),
            "q=0@EXAMPLE": lambda person: _has("0@example", person.email),
            "account=active": lambda person: person.is_active,
            "account=disabled": lambda person: not person.is_active,
            "account=super": lambda person: person.is_superuser,
        },
    ),
    "orders": Filters(
        lambda: ServerOrder.objects.select_related("server"),
        {**DAYS, "q=More-3": lambda order: _has("more-3", order.server.name)},
    ),
    "tokens": Filters(
        ApiToken.objects.all,
        {
            "q=TOKEN 3": lambda token: token.label == "token 3",
            "scope=read": lambda token: token.scope == "read",
            "scope=admin": lambda token: token.scope == "admin",
            "live=yes": lambda token: token.disabled_at is None and token.expires_at > NOW,
            "live=no": lambda token: token.disabled_at is not None or token.expires_at < NOW,
        },
    ),
    "audit": Filters(
        AuditEvent.objects.all,
        {
            "actor=SUPER": lambda event: _has("super", event.actor_name) and _is_searched(event),
            "action=Action.3": lambda event: event.action == "action.3" and _is_searched(event),
            "subject=More-3": lambda event: _has("more-3", event.subject_name) and _is_searched(event),
            "outcome=refused": lambda event: event.outcome == "refused",
            f"since={YESTERDAY}": lambda event: day(event.at) >= YESTERDAY,
            "since=2020-01-01&subject=more-3": lambda event: _has("more-3", event.subject_name),
            f"until={YESTERDAY}": lambda event: day(event.at) <= YESTERDAY,
        },
    ),
    "keys": Filters(
        lambda: TenantKey.objects.select_related("tenant"),
        {
            "q=more 3": lambda key: _has("more 3", key.tenant.title) and key.status != "retired",
            "mode=customer": lambda key: key.mode == "customer" and key.status != "retired",
            "mode=managed": lambda key: key.mode == "managed" and key.status != "retired",
            "status=untested": lambda key: key.status == "untested",
            "status=retired": lambda key: key.status == "retired",
            "to_do=on": _is_to_do,
        },
        plain=lambda key: key.status != "retired",
    ),
    "policies": Filters(
        Policy.objects.all,
        {
            "q=Policy-A": lambda policy: policy.name == "policy-a",
            "changes=yes": lambda policy: not policy.restricted,
            "changes=no": lambda policy: policy.restricted,
            "given=yes": lambda policy: policy.name == "policy-a",
            "given=no": lambda policy: policy.name != "policy-a",
        },
    ),
    "approvals": Filters(
        lambda: ApprovalRequest.objects.select_related("tenant", "requested_by"),
        {
            "q=Def-B": lambda asked: _has("def-b", asked.subject_name) and _is_open(asked),
            "state=you": lambda asked: (
                asked.status == "pending" and asked.requested_by.username != "super" and asked.expires_at > NOW
            ),
            "state=pending": lambda asked: asked.status == "pending",
            "state=declined": lambda asked: asked.status == "declined",
            "state=all": lambda asked: True,
            "kind=retention.shorten": lambda asked: asked.kind == "retention.shorten" and _is_open(asked),
            "tenant=Tenant b": lambda asked: asked.tenant.title == "Tenant b" and _is_open(asked),
            **{query: lambda asked, means=means: means(asked) and _is_open(asked) for query, means in DAYS.items()},
        },
        plain=_is_open,
    ),
}


def test_every_filter_has_a_wish_in_the_table() -> None:
    forms = {listing.name: set(listing.form.base_fields) for listing in every_listing()}

    assert forms == {name: {parse_qsl(query)[0][0] for query in one.asked} for name, one in FILTERS.items()}


@pytest.fixture
def varied(world: World) -> World:
    """Of everything that a filter tells apart some of each."""
    fill(world)
    ours, theirs = world.ours, world.theirs
    Person.objects.filter(username="super").update(time_zone=ZONE.key)
    Node.objects.filter(pk=ours.node.pk).update(name="node-ours")
    shuffle(Node, "is_backup", [True, True, False])
    Vault.objects.filter(tenant=ours.tenant).update(name="vault-ours")
    Alarm.objects.filter(pk=theirs.alarm.pk).update(acknowledged_at=NOW)
    Tenant.objects.filter(pk=theirs.tenant.pk).update(name="zebra")
    Server.objects.filter(pk=theirs.other_server.pk).update(node=None)
    Person.objects.filter(pk=theirs.member.pk).update(is_active=False)
    ours.policy.assignments.create(tag="web")
    for model in (Backup, Job, ServerOrder, ApprovalRequest):
        shuffle(model, "created_at", [NOON + timedelta(hours=8 * at) for at in SHUFFLED])
    _vary_definitions(world)
    _vary_backups(world)
    shuffle(Agent, "status", [("enrolled", "pending", "quarantined", "revoked")[at] for at in SHUFFLED])
    shuffle(Agent, "silent_since", [NOW, None, None])
    shuffle(Agent, "last_seen_at", [NOW, NOW - timedelta(days=40), None, None, NOW - timedelta(days=40)])
    shuffle(Agent, "changed_at", [NOW, NOW, NOW - timedelta(days=3), NOW, NOW])
    shuffle(ApiToken, "expires_at", [NOW + timedelta(days=1), NOW - timedelta(days=1)])
    shuffle(ApiToken, "disabled_at", [None, None, NOW])
    ApprovalRequest.objects.filter(pk=ours.approval.pk).update(expires_at=NOW - timedelta(days=1))
    for age in (0, 1, 2, 100):
        told = {"action": "action.3", "actor_name": "super", "subject_name": "more-3-7", "actor_kind": "person"}
        AuditEvent.objects.create(at=NOW - timedelta(days=age), **told)
    return world


def _vary_definitions(world: World) -> None:
    """One of each state; one that nobody looked at; and of what is not active nothing that was found counts."""
    found = itertools.cycle(("late", "held", "waiting", "unverified", "unlocked", "missed", "stale"))
    for one in Definition.objects.order_by("pk"):
        state = "protected" if one.name == "def-b" else next(found) if one.active else "late"
        DefinitionStanding.objects.create(definition=one, state=state, looked_at=NOW, look_again_at=NOW)
    copies = make_definition(world.ours.server, name="copies")
    storage = make_storage(world.ours.node)
    Definition.objects.filter(pk=copies.pk).update(
        type="file", vault=None, storage=storage, backup_node=world.ours.node
    )


def _vary_backups(world: World) -> None:
    shuffle(Backup, "health", ["verified", "damaged", "unverified"])
    first, second, third, fourth = Backup.objects.exclude(pk=world.ours.backup.pk).order_by("pk")[:4]
    Backup.objects.filter(pk=first.pk).update(
        type="file", vault=None, manifest=None, storage=make_storage(world.ours.node), place="backups/x/1.img"
    )
    Backup.objects.filter(pk=second.pk).update(server=None, disk=None, node=None)
    Backup.objects.filter(pk__in=[third.pk, fourth.pk]).update(removed_at=NOON)


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("path", CASES)
def test_each_filter_finds_the_rows_that_it_means_and_no_others(varied: World, path: str) -> None:
    one = FILTERS[CASES[path].name or path.rstrip("/")]
    rows = list(one.rows())
    plain = {row.pk for row in rows if one.plain(row)}
    assert {row.pk for row in read(varied, f"/{path}?rows=200").rows} == plain
    for query, means in one.asked.items():
        wanted = {row.pk for row in rows if means(row)}
        asked = query.format(server=varied.ours.server.pk, definition=varied.ours.definition.pk)
        listed = read(varied, f"/{path}?rows=200&{asked}")

        assert not listed.form.errors and wanted and wanted != plain, query
        assert {row.pk for row in listed.rows} == wanted, query
