"""Every list of the portal: each order that it offers orders the rows both ways, over its pages there and back, and
what was chosen is found again on the way back to it. A list without a row in the table fails here.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from importlib import import_module
from typing import Any
from uuid import UUID

import pytest
from django.template.base import Template
from django.test.signals import template_rendered
from django.utils.html import escape
from django.utils.safestring import SafeString

from agents.models import Agent, Node, Server, ServerOrder
from backups.models import Backup, Job
from definitions.models import Definition, Policy
from tenants.approval_states import KINDS, ApprovalKind
from tenants.audit import record
from tenants.listing import MOST_COUNTED, Listed, Listing
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


def every_listing() -> Iterator[Listing]:
    """Also those that a page has two of, as the audit has; some of them more than once."""
    import_module("backupsite.urls")
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in _APPS]
    return (one for module in modules for one in vars(module).values() if isinstance(one, Listing))


def test_the_table_knows_every_list_and_every_order() -> None:
    found: dict[str, set[str]] = {}
    for listing in every_listing():
        found.setdefault(listing.name, set()).update(listing.sorts)

    assert found == {case.name or path.rstrip("/"): set(case.keys) for path, case in CASES.items()}


_APPS = {"agents", "backups", "backupsite", "definitions", "tenants", "vaults"}


@pytest.fixture
def filled(world: World) -> World:
    return fill(world)


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


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their HTML: what they would show is in the context, and hundreds of them take seconds."""

    def tell(template: Template, context: Any) -> SafeString:
        template_rendered.send(sender=template, template=template, context=context)
        return SafeString("")

    monkeypatch.setattr(Template, "_render", tell)
    monkeypatch.setattr("tenants.listing.ROWS_PER_PAGE", 3)


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


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("path", CASES)
def test_each_order_orders_the_rows_both_ways(filled: World, path: str) -> None:
    case = CASES[path]
    rows = {row.pk: row for row in case.rows()}
    assert len(rows) > 6 and read(filled, f"/{path}?rows=50").offered == set(case.keys)
    for sort, key in case.keys.items():
        assert len({key(row) for row in rows.values()}) > 1, sort
        upwards = sorted(rows, key=lambda pk: (key(rows[pk]), pk))
        for sign, expected in (("", upwards), ("-", upwards[::-1])):
            found = list(pages_of(filled, path, f"sort={sign}{sort}"))
            assert [row.pk for listed in found for row in listed.rows] == expected, sign + sort
            assert len(found) > 2 and {listed.sort for listed in found} == {sign + sort}


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("path", CASES)
def test_what_was_chosen_is_there_again_on_the_way_back(filled: World, path: str) -> None:
    case, client = CASES[path], filled.client("super")
    sort = f"-{list(case.keys)[-1]}"
    everything = read(filled, f"/{path}?rows=200")
    chosen = client.get(f"/{path}?keep=1&{case.wish}&sort={sort}&rows=25").context["listed"]

    back = client.get(f"/{path}", follow=True)

    assert back.redirect_chain == [(f"/{path}?{case.wish}&sort={sort}&rows=25&keep=1", 302)]
    listed = back.context["listed"]
    assert (listed.sort, listed.row_count, listed.is_narrowed) == (sort, 25, True)
    assert listed.rows and {row.pk for row in listed.rows} != {row.pk for row in everything.rows}
    assert [row.pk for row in listed.rows] == [row.pk for row in chosen.rows]
    # Every other list is as it was, and reset is everything again.
    other = next(one for one in CASES if one != path)
    assert client.get(f"/{other}").status_code == 200
    assert client.get(f"/{path}{listed.reset_address}").context["listed"].is_narrowed is False
    assert client.get(f"/{path}").status_code == 200


@pytest.mark.parametrize("path", CASES)
def test_orders_are_to_be_chosen_and_headings_say_which_it_is(world: World, path: str) -> None:
    for sort in CASES[path].keys:
        text = world.client("super").get(f"/{path}?sort=-{sort}").content.decode()
        assert all(f'<option value="{sign}{one}"' in text for one in CASES[path].keys for sign in ("", "-"))
        assert f'<option value="-{sort}" selected>' in text
        # What has no column of its own is only in the choice of orders.
        assert text.count('aria-sort="descending"') == (f'id="sort-{sort}"' in text)


@pytest.mark.usefixtures("unrendered")
def test_an_order_without_an_index_is_only_offered_for_few_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than that are listed in the usual order, whatever is asked for, and nothing is put in order for it."""
    for at in range(6):
        make_backup(world.ours.server, name=f"z{9 - at}")
    assert MOST_COUNTED == 1_000
    monkeypatch.setattr("tenants.listing.MOST_COUNTED", 5)

    many = read(world, "/backups/?sort=name")
    few = read(world, f"/backups/?sort=name&tenant={world.theirs.tenant.pk}")
    of_one = read(world, f"/backups/?sort=name&server={world.ours.server.pk}")
    found = read(world, "/backups/?sort=name&q=server-a-1")
    exported = world.client("super").get("/backups/?sort=name&format=csv")

    assert many.sort == "-made" and many.offered == {"made", "size"}
    assert many.count_text == "More than 5 in all"
    assert many.withheld == ["backup", "server", "status", "duration", "stored", "locked until"]
    assert [value for value, _ in many.sort_choices()] == ["made", "-made", "size", "-size"]
    assert few.sort == "name" and few.withheld == []
    # What an index gives at once may be more.
    for listed in (of_one, found):
        assert (listed.sort, listed.count, listed.count_text) == ("name", 7, "7 in all")
    names = [line.split(b",") for line in b"".join(exported.streaming_content).splitlines()[1:]]
    assert [row[0].decode() for row in names] == [str(one.pk) for one in Backup.objects.order_by("-created_at", "-pk")]


def test_a_heading_that_cannot_be_chosen_now_is_a_word_and_the_page_says_when_it_can(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenants.listing.MOST_COUNTED", 1)
    monkeypatch.setattr("tenants.listing.ROWS_PER_PAGE", 1)

    text = world.client("super").get("/backups/").content.decode()

    assert 'id="sort-made"' in text and 'id="sort-name"' not in text and '<th scope="col">Backup</th>' in text
    assert escape("With fewer, also ordered by backup, server, status") in text


@pytest.mark.case("AZ-03")
@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("name", ["admin_a", "admin_b", "owner_a1"])
@pytest.mark.parametrize("path", ["keys/", "policies/", "approvals/"])
def test_filters_and_orders_show_nobody_more_than_he_sees(filled: World, path: str, name: str) -> None:
    ours = {
        "keys/": {"admin_a": [filled.ours.key.pk], "admin_b": [filled.theirs.key.pk], "owner_a1": []},
        "policies/": {"admin_a": [filled.ours.policy.pk], "admin_b": [filled.theirs.policy.pk], "owner_a1": []},
        "approvals/": {
            "admin_a": list(ApprovalRequest.objects.filter(tenant=filled.ours.tenant).values_list("pk", flat=True)),
            "admin_b": [filled.theirs.approval.pk],
            "owner_a1": [],
        },
    }[path][name]
    client = filled.client(name)
    whole = {"keys/": "", "policies/": "", "approvals/": "state=all&"}[path]
    for sort in CASES[path].keys:
        shown = client.get(f"/{path}?{whole}rows=100&sort={sort}").context["listed"]
        assert {row.pk for row in shown.rows} == set(ours), sort
    queries = {
        "keys/": ("status=retired", "status=active", "mode=managed", "to_do=on", "q=Tenant"),
        "policies/": ("changes=yes", "changes=no", "given=no", "q=p"),
        "approvals/": ("state=you", "state=pending", "state=approved", "kind=retention.shorten", "q=def", ""),
    }[path]
    for query in queries:
        shown = client.get(f"/{path}?{query}&rows=100").context["listed"]
        assert {row.pk for row in shown.rows} <= set(ours) and not shown.form.errors, query
    if "tenant" in client.get(f"/{path}?rows=25").context["listed"].form.fields:
        other = filled.theirs if name == "admin_a" else filled.ours
        assert client.get(f"/{path}?tenant={other.tenant.pk}").context["listed"].form.errors.keys() == {"tenant"}


def _found(world: World, address: str, name: str = "super") -> set[Any]:
    joined = "&" if "?" in address else "?"
    return {row.pk for row in world.client(name).get(f"{address}{joined}rows=25").context["listed"].rows}


@pytest.mark.usefixtures("unrendered")
def test_keys_are_found_by_what_is_to_do(world: World) -> None:
    """The same keys as those with a hint; a replaced one is only there when it is asked for."""
    tenants = [make_tenant(f"Key {number}") for number in range(6)]
    customers = {"mode": "customer", "wrapped_private_key": None}
    keys = [
        make_tenant_key(tenants[0]),
        make_tenant_key(tenants[1], shown_at=NOON),
        make_tenant_key(tenants[2], **customers),
        make_tenant_key(tenants[3], **customers, tested_at=NOON),
        make_tenant_key(tenants[4], status="untested", **customers),
        make_tenant_key(tenants[5], tested_at=NOON),
        make_tenant_key(tenants[3], status="retired"),
    ]
    hinted = {keys[at].pk for at in (0, 1, 2, 4, 5)}

    answer = world.client("super").get("/keys/?rows=100")
    assert {key.pk for key, hint in answer.context["rows"] if hint} == hinted
    assert _found(world, "/keys/?to_do=on") == hinted
    assert _found(world, "/keys/") == {one.pk for one in (*keys[:6], world.ours.key, world.theirs.key)}
    assert _found(world, "/keys/?status=retired") == {keys[6].pk}
    assert _found(world, "/keys/?mode=customer") == {key.pk for key in keys[2:5]}
    assert _found(world, "/keys/?q=Key 3") == {keys[3].pk}


@pytest.mark.usefixtures("unrendered")
def test_policies_are_found_by_name_changes_and_whether_somebody_has_them(world: World) -> None:
    ours, theirs = world.ours.policy, world.theirs.policy
    Policy.objects.filter(pk=theirs.pk).update(restricted=True)
    ours.assignments.create(tenant=world.ours.tenant)
    ours.assignments.create(tag="web")

    assert _found(world, "/policies/?changes=no") == {theirs.pk}
    assert _found(world, "/policies/?changes=yes") == {ours.pk}
    assert [row.pk for row in read(world, "/policies/?given=yes").rows] == [ours.pk]
    assert _found(world, "/policies/?given=no") == {theirs.pk}
    assert _found(world, "/policies/?q=policy-b") == {theirs.pk}
    # To whom else it is given is no business of who follows it.
    assert "given" not in world.client("admin_a").get("/policies/").context["listed"].form.fields
    assert _found(world, "/policies/?given=no", "admin_a") == {ours.pk}
    rows = world.client("super").get("/policies/").context["rows"]
    assert [(policy.pk, count) for policy, count in rows] == [(ours.pk, 1), (theirs.pk, 1)]


def _request(world: World, number: int, **changes: Any) -> ApprovalRequest:
    made = make_approval_request(world.ours.definition, by=world.ours.member)
    # Keys of one millisecond are in no order: those of a test are in that of their numbers.
    key = UUID(int=made.pk.int >> 80 << 80 | number)
    ApprovalRequest.objects.filter(pk=made.pk).update(
        **{"id": key, "subject_name": f"object {number}", "subject_id": f"{number}", **changes}
    )
    return ApprovalRequest.objects.get(pk=key)


@pytest.mark.usefixtures("unrendered")
def test_approvals_begin_with_what_waits_for_who_looks(world: World) -> None:
    ApprovalRequest.objects.all().delete()
    own = _request(world, 0, requested_by=world.people["admin_a"])
    approved = _request(world, 1, status="approved")
    not_his = _request(world, 2, kind=ApprovalKind.TENANT_DELETE)
    over = _request(world, 3, status="declined")
    late = _request(world, 4, expires_at=NOON)
    waiting = [_request(world, 5 + number) for number in range(2)]
    theirs = make_approval_request(world.theirs.definition, by=world.theirs.member)

    def shown(query: str = "", name: str = "admin_a") -> list[Any]:
        found = world.client(name).get(f"/approvals/?rows=50&{query}").context["listed"]
        return [row.pk for row in found.rows]

    newest = [one.pk for one in reversed(waiting)]
    assert shown() == [*newest, not_his.pk, approved.pk, own.pk]
    assert shown("state=you") == newest
    assert shown("state=you&sort=asked") == newest[::-1]
    assert shown("state=pending") == [*newest, late.pk, not_his.pk, own.pk]
    assert shown("state=declined") == [over.pk]
    assert shown("state=all") == [*newest, late.pk, over.pk, not_his.pk, approved.pk, own.pk]
    assert shown("q=object 5") == [waiting[0].pk]
    assert shown("kind=tenant.delete") == [not_his.pk]
    assert shown("state=you", "admin_b") == [theirs.pk]
    assert set(shown("state=you", "super")) == {*newest, not_his.pk, own.pk, theirs.pk}
    # Who was given his role by the one who asks cannot be the second person.
    record(action="role.grant", subject=world.people["admin_a"], actor=world.ours.member)
    assert shown("state=you") == [] and shown()[0] == waiting[1].pk


def test_only_what_is_open_has_buttons_and_what_is_over_has_its_reason(world: World) -> None:
    ApprovalRequest.objects.all().delete()
    waiting, over = _request(world, 1), _request(world, 2, status="declined", reason="not now")
    late = _request(world, 3, expires_at=NOON)

    text = world.client("admin_a").get("/approvals/?state=all").content.decode()

    rows = {one.pk: text.split(f'id="approval-{one.pk}"')[1].split("</tr>")[0] for one in (waiting, over, late)}
    assert "Approve" in rows[waiting.pk] and "Decline" in rows[waiting.pk]
    assert "not now" in rows[over.pk] and "<form" not in rows[over.pk] + rows[late.pk]


def test_a_form_in_a_row_that_is_refused_shows_its_row_and_leads_back_to_the_list(world: World) -> None:
    """Also where the list as it was left does not hold the row; its links are those of the list, not of the answer."""
    client = world.client("admin_a")
    ApprovalRequest.objects.all().delete()
    waiting, other = _request(world, 1), _request(world, 2, status="declined")
    client.get("/approvals/?keep=1&state=declined")

    answer = client.post(f"/approvals/{waiting.pk}/decline/", {"reason": "x" * 301}, format="multipart")

    text = answer.content.decode()
    assert answer.status_code == 400 and text.count('aria-invalid="true"') == 1
    assert text.index(f'id="approval-{waiting.pk}"') < text.index(f'id="approval-{other.pk}"')
    assert 'action="/approvals/"' in text and 'href="/approvals/?state=declined&amp;' in text
    assert 'href="?' not in text and '<option value="declined" selected>' in text
    waiting.refresh_from_db()
    assert waiting.status == "pending"
