"""Lists of the portal: what their filters find and hide, sorting, paging, remembering, and the same as CSV."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext

from agents.models import Server
from backups.models import Backup, DefinitionStanding, Job
from backups.server_states import ServerState, in_state, states_of
from backups.views.backups import BACKUPS
from definitions.honest_states import State
from definitions.models import Definition
from tenants.list_fields import SizeField
from tenants.listing import Listed
from tenants.models import Person
from tests.factories import GIB, make_backup, make_definition, make_job, make_server
from tests.worlds import World

ROLES = ("super", "admin_a", "admin_b", "owner_a1", "owner_a2")
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def listed(world: World, address: str, name: str = "super") -> Any:
    answer = world.client(name).get(address)
    assert answer.status_code == 200, address
    return answer.context["listed"]


def keys_of(world: World, address: str, name: str = "super") -> list[str]:
    return [str(row.pk) for row in listed(world, address, name).rows]


@pytest.fixture
def many(world: World) -> list[Backup]:
    """Backups of both tenants of which no two are alike; of one the server is gone, one was removed."""
    found = [world.ours.backup, world.theirs.backup]
    for number in range(8):
        estate = world.ours if number % 2 else world.theirs
        found.append(make_backup(estate.server if number % 3 else estate.other_server))
    for number, backup in enumerate(found):
        changes: dict[str, Any] = {
            "created_at": NOON + timedelta(hours=7 * number),
            "size_bytes": number * GIB,
            "status": "lost" if number % 4 == 1 else "ok",
            "health": "damaged" if number % 5 == 2 else "verified",
        }
        changes |= {"server": None, "disk": None, "node": None} if number == 6 else {}
        changes |= {"removed_at": NOON} if number == 7 else {}
        Backup.objects.filter(pk=backup.pk).update(**changes)
    return list(Backup.objects.order_by("-created_at", "-pk"))


def visible(world: World, name: str, backup: Backup) -> bool:
    """By hand, and not as the querysets do it."""
    tenants = {"admin_a": world.ours.tenant, "admin_b": world.theirs.tenant}
    servers = {"owner_a1": world.ours.server, "owner_a2": world.ours.other_server}
    if name in tenants:
        return bool(backup.tenant_id == tenants[name].pk)
    return name == "super" or backup.server_id == servers[name].pk


Predicate = Callable[[Backup], bool]
DAY = "2026-03-11"
QUERIES: dict[str, Predicate] = {
    "": lambda backup: True,
    "status=lost": lambda backup: backup.status == "lost",
    "health=damaged": lambda backup: backup.health == "damaged",
    "gone=on": lambda backup: backup.server_id is None,
    "q=server-a": lambda backup: "server-a" in backup.server_name,
    "q=SERVER-A-1": lambda backup: "server-a-1" in backup.server_name,
    'q="server-a-1"': lambda backup: backup.server_name == "server-a-1",
    'q="server-a"': lambda backup: False,
    "size_from=3 GiB": lambda backup: backup.size_bytes >= 3 * GIB,
    "size_to=0": lambda backup: backup.size_bytes == 0,
    "size_from=1.5g&size_to=4294967296": lambda backup: 1.5 * GIB <= backup.size_bytes <= 4 * GIB,
    f"since={DAY}": lambda backup: f"{backup.created_at:%Y-%m-%d}" >= DAY,
    f"since={DAY}&until={DAY}": lambda backup: f"{backup.created_at:%Y-%m-%d}" == DAY,
    f"created_after={NOON:%Y-%m-%dT%H:%M:%SZ}": lambda backup: backup.created_at >= NOON,
    f"created_before={NOON + timedelta(hours=7):%Y-%m-%dT%H:%M:%SZ}": lambda backup: backup.created_at <= NOON,
    "type=file": lambda backup: False,
    "status=lost&size_to=5 GiB": lambda backup: backup.status == "lost" and backup.size_bytes <= 5 * GIB,
}


@pytest.mark.case("AZ-03")
def test_a_filter_finds_exactly_what_is_seen_and_meant(world: World, many: list[Backup]) -> None:
    """Without the page around it: a hundred would be drawn otherwise."""
    for name in ROLES:
        for query, meant in QUERIES.items():
            wanted = [one.pk for one in many if visible(world, name, one) and meant(one) and one.removed_at is None]
            assert read(world, query, name) == wanted, (name, query)
        for query in ("removed=on", "removed=on&status=lost"):
            meant = QUERIES[query.partition("&")[2]]
            assert read(world, query, name) == [one.pk for one in many if visible(world, name, one) and meant(one)]


def read(world: World, query: str, name: str) -> list[Any]:
    request = RequestFactory().get(f"/backups/?{query}")
    request.user, request.session = world.people[name], {}
    found = BACKUPS.read(request, Backup.objects.for_user(request.user))
    assert isinstance(found, Listed) and found.form.is_valid(), (query, found)
    return [row.pk for row in found.rows]


def test_a_tenant_or_a_node_of_others_is_an_error_at_the_field_and_lists_nothing(world: World) -> None:
    theirs, ours = world.theirs, world.ours
    assert keys_of(world, f"/backups/?tenant={ours.tenant.pk}") == [str(ours.backup.pk)]
    assert keys_of(world, f"/servers/?{urlencode({'tenant': theirs.tenant.title})}") == [
        str(server.pk) for server in (theirs.server, theirs.other_server)
    ]
    assert keys_of(world, f"/backups/?node={ours.node.name}", "admin_a") == [str(ours.backup.pk)]

    for field, value in (("tenant", theirs.tenant.pk), ("tenant", theirs.tenant.title), ("node", theirs.node.name)):
        for path in ("backups", "servers", "jobs", "definitions"):
            found = listed(world, f"/{path}/?{urlencode({field: value})}", "admin_a")
            assert (list(found.rows), set(found.form.errors)) == ([], {field}), (path, value)
    # An owner has no such field: what he sends with it means nothing.
    assert keys_of(world, f"/backups/?tenant={theirs.tenant.pk}", "owner_a1") == [str(ours.backup.pk)]


WRONG = {
    "/backups/?size_from=much": "size_from",
    "/backups/?size_from=9&size_to=8": "size_to",
    "/backups/?size_to=99999999 PiB": "size_to",
    "/backups/?since=2026-02-30": "since",
    "/backups/?until=9999-12-31": "until",
    "/backups/?since=2026-03-02&until=2026-03-01": "until",
    "/backups/?created_after=yesterday": "created_after",
    "/backups/?status=good": "status",
    "/backups/?q=%00": "q",
    "/jobs/?kind=dance": "kind",
    "/jobs/?state=nothing": "state",
    "/servers/?state=fine": "state",
    "/servers/?region=XXX": "region",
    "/definitions/?state=fine": "state",
    "/agents/?status=fine": "status",
    "/audit/?since=nonsense": "since",
    "/vaults/?status=fine": "status",
    "/vaults/?region=XXX": "region",
    "/tokens/?scope=all": "scope",
    "/keys/?status=lost": "status",
    "/policies/?changes=some": "changes",
    "/approvals/?state=mine": "state",
    "/approvals/?tenant=nobody": "tenant",
}


def test_what_is_not_understood_is_said_at_its_field_and_lists_nothing(world: World) -> None:
    for address, field in WRONG.items():
        answer = world.client("super").get(address)
        found, text = answer.context["listed"], answer.content.decode()
        assert (answer.status_code, list(found.rows), set(found.form.errors)) == (200, [], {field}), address
        assert found.form.errors[field][0].split(".")[0].replace("'", "&#x27;")[:20] in text, address
        assert "Nothing is listed: the filter is not right." in text
        assert "Export CSV" not in text
    # There is no file of what cannot be asked for, either.
    assert not world.client("super").get("/backups/?size_from=much&format=csv").streaming


def test_days_are_those_of_who_asks(world: World) -> None:
    Person.objects.filter(username="admin_a").update(time_zone="Pacific/Auckland")
    # The 10th there, and still the 9th in UTC; the 29th of March and the 5th of April change the clock elsewhere.
    Backup.objects.filter(pk=world.ours.backup.pk).update(created_at=datetime(2026, 3, 9, 12, 30, tzinfo=UTC))
    key = [str(world.ours.backup.pk)]

    assert keys_of(world, "/backups/?since=2026-03-10&until=2026-03-10", "admin_a") == key
    assert keys_of(world, "/backups/?until=2026-03-09", "admin_a") == []
    Job.objects.filter(tenant=world.ours.tenant).update(created_at=datetime(2026, 3, 9, 12, 30, tzinfo=UTC))
    assert len(keys_of(world, "/jobs/?since=2026-03-09&until=2026-03-09&utc=on", "admin_a")) == 2
    assert keys_of(world, "/jobs/?since=2026-03-09&until=2026-03-09", "admin_a") == []
    assert keys_of(world, "/backups/?since=2026-03-09&until=2026-03-09", "super") == key


def crowd(world: World) -> None:
    """Fifty servers and backups, many of them alike in what lists are ordered by."""
    dice = random.Random(7)  # an arrangement that is the same each time
    servers = [
        Server(name=f"s{number:02}", tenant=world.ours.tenant, region=world.ours.server.region, node=world.ours.node)
        for number in range(52)
    ]
    Server.objects.bulk_create(servers)
    original = Backup.objects.get(pk=world.ours.backup.pk)
    for _ in range(52):
        copy = Backup(**{field.attname: getattr(original, field.attname) for field in Backup._meta.concrete_fields})
        copy.pk, copy.manifest_id, copy.sequence = Backup().pk, None, None
        copy.status, copy.size_bytes, copy._state.adding = "pending", dice.randrange(3), True
        copy.save(force_insert=True)
        Backup.objects.filter(pk=copy.pk).update(created_at=NOON + timedelta(days=dice.randrange(4)))


def walked(client: Any, address: str) -> Iterator[Any]:
    """Each page of the list, and on the way back each of them again."""
    pages, path = [], address.split("?")[0]
    while address:
        pages.append(client.get(address).context["listed"])
        address = pages[-1].next_address and path + pages[-1].next_address
    yield from pages
    for later, earlier in zip(pages[:0:-1], pages[-2::-1], strict=True):
        back = client.get(path + later.previous_address).context["listed"]
        assert [row.pk for row in back.rows] == [row.pk for row in earlier.rows]


def test_every_order_gives_each_row_once_and_back_again(world: World) -> None:
    crowd(world)
    client = world.client("admin_a")
    backups = {"made": "created_at", "size": "size_bytes", "status": "status"}
    servers = {"name": "name", "added": "created_at"}

    # Each order of each list is in test_lists_all.py; these are over more pages, as an administrator.
    for path, rows, columns in (("backups", Backup.objects.all(), backups), ("servers", Server.objects.all(), servers)):
        mine = rows.filter(tenant=world.ours.tenant)
        for sort, column in columns.items():
            for sign in ("", "-"):
                found = [row.pk for page in walked(client, f"/{path}/?rows=25&sort={sign}{sort}") for row in page.rows]
                expected = mine.order_by(f"{sign}{column}", f"{sign}pk").values_list("pk", flat=True)
                assert found == list(expected), (path, sign, sort)


@pytest.mark.parametrize("path", ["backups", "servers", "jobs"])
def test_what_is_searched_is_counted_once(world: World, path: str) -> None:
    """Counting is what a search in a large list costs most: the search itself does it already."""
    crowd(world)
    for _ in range(30):
        make_job(world.ours.server, state="failed")
    typed = {"backups": "server-a", "servers": "s", "jobs": "server-a"}[path]

    with CaptureQueriesContext(connection) as queries:
        page = listed(world, f"/{path}/?rows=25&q={typed}", "admin_a")

    counted = [query for query in queries if "COUNT(" in query["sql"] and "LIKE" in query["sql"]]
    assert len(counted) == 1 and page.page.next is not None
    assert page.count > 25 and page.count_text == f"{page.count} in all"


def test_headings_say_the_order_and_what_is_unknown_changes_nothing(world: World) -> None:
    text = world.client("super").get("/backups/?sort=-size&status=ok").content.decode()
    usual = keys_of(world, "/backups/")

    assert text.count('aria-sort="descending"') == 1 and text.count('aria-sort="none"') == 7
    assert 'href="?status=ok&amp;sort=size&amp;keep=1"' in text
    for query in ("sort=password", "sort=--made", "sort=tenant__title", "rows=7", "rows=100000", "cursor=made-up"):
        assert keys_of(world, f"/backups/?{query}") == usual
    # One of another order.
    cursor = listed(world, "/backups/?sort=size").page
    assert cursor.next is None


LISTS = (
    "servers",
    "backups",
    "jobs",
    "restores",
    "definitions",
    "nodes",
    "vaults",
    "tenants",
    "agents",
    "people",
    "tokens",
    "audit",
    "keys",
    "policies",
    "approvals",
)


@pytest.mark.parametrize("name", ["super", "owner_a1"])
def test_the_file_is_the_list(world: World, name: str) -> None:
    make_job(world.ours.server, state="failed")
    Backup.objects.filter(pk=world.ours.backup.pk).update(note="=cmd()")
    filtered = (
        "jobs/?state=failed",
        "servers/?q=a-1",
        "definitions/?state=waiting",
        "definitions/overview/?sort=-next",
        "backups/?sort=name",
        "approvals/?state=all",
        "orders/" if name == "super" else "jobs/",
    )
    for path in (*(f"{path}/" for path in LISTS), *filtered):
        joined = "&" if "?" in path else "?"
        answer = world.client(name).get(f"/{path}{joined}format=csv")
        rows = list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode())))
        assert [row["id"] for row in rows] == keys_of(world, f"/{path}", name), path
        assert answer["Content-Type"].startswith("text/csv") and "attachment" in answer["Content-Disposition"]
        assert all(row.get("note") in {None, "'=cmd()", ""} for row in rows)


def test_a_list_remembers_what_its_own_form_was_asked_for(world: World) -> None:
    client = world.client("admin_a")
    assert client.get("/backups/?status=lost").status_code == 200
    # A link from elsewhere is not remembered; what the form sends is, but not the place in the list.
    assert client.get("/backups/").status_code == 200
    client.get("/backups/?keep=1&status=lost&sort=size&q=&cursor=x&made_up=1")

    back = client.get("/backups/")
    assert (back.status_code, back["Location"]) == (302, "/backups/?status=lost&sort=size&keep=1")
    assert client.get("/jobs/").status_code == 200
    assert world.client("owner_a1").get("/backups/").status_code == 200
    # Reset: everything again, and nothing to remember.
    assert client.get("/backups/?keep=1").context["listed"].is_narrowed is False
    assert client.get("/backups/").status_code == 200
    client.get(f"/backups/?keep=1&q={'x' * 100}&{urlencode({'size_from': '1' * 600})}")
    assert client.get("/backups/").status_code == 200


def test_a_part_of_a_list_is_renewed_without_its_page(world: World) -> None:
    make_job(world.ours.server, state="running")
    client = world.client("owner_a1")

    polled = client.get("/jobs/?state=running", HTTP_HX_REQUEST="true").content.decode()
    asked = client.get("/jobs/?state=running", HTTP_HX_REQUEST="true", HTTP_HX_BOOSTED="true").content.decode()

    assert "<html" not in polled and 'id="live"' in polled
    assert 'id="list"' in asked and 'id="list-said"' in asked


def test_a_server_is_in_one_state_the_worst_of_its_active_definitions(world: World) -> None:
    dice = random.Random(11)  # an arrangement that is the same each time
    choices = [None, "off", *State]
    expected: dict[Any, str] = {}
    meaning = {None: "waiting", State.INACTIVE: "waiting", State.MISSED: "failed", State.STALE: "failed"}
    order = [str(state) for state in ServerState]
    for number in range(24):
        server, states = make_server(world.ours.tenant, name=f"st-{number}"), []
        for position in range(dice.randrange(3) if number > 11 else 1):
            found = dice.choice(choices) if number > 11 else choices[number % len(choices)]
            definition = make_definition(server, name=f"d{position}", active=found != "off")
            if found not in {None, "off"}:
                DefinitionStanding.objects.create(
                    definition=definition, state=found, looked_at=NOON, look_again_at=NOON
                )
            states += [] if found == "off" else [meaning.get(found, str(found))]
        expected[server.pk] = max(states, key=order.index, default="unprotected")

    mine = Server.objects.filter(pk__in=expected)
    assert states_of(expected) == expected
    for state in ServerState:
        wanted = {key for key, found in expected.items() if found == state}
        assert set(in_state(mine, state).values_list("pk", flat=True)) == wanted, state
    answer = world.client("admin_a").get("/api/v1/servers/?state=late&limit=500").json()["results"]
    late = {str(key) for key, found in expected.items() if found == "late"}
    assert {row["id"] for row in answer} == late
    shown = listed(world, "/servers/?state=failed&q=st-", "admin_a").rows
    assert {server.pk for server in shown} == {key for key, found in expected.items() if found == "failed"}
    assert set(expected.values()) == set(order)


def test_definitions_and_jobs_are_found_by_what_they_are(world: World) -> None:
    Definition.objects.filter(pk=world.theirs.definition.pk).update(active=False, next_run_at=None)
    failed = make_job(world.theirs.server, state="failed", kind="backup")
    Job.objects.filter(pk=failed.pk).update(created_at=NOON)

    assert keys_of(world, "/definitions/?state=inactive") == [str(world.theirs.definition.pk)]
    assert keys_of(world, "/definitions/?state=waiting") == [str(world.ours.definition.pk)]
    assert keys_of(world, "/definitions/?q=def-a") == [str(world.ours.definition.pk)]
    assert keys_of(world, "/jobs/?state=failed&kind=backup&since=2026-03-10&until=2026-03-10&q=b-1") == [str(failed.pk)]
    assert keys_of(world, "/jobs/?state=failed", "admin_a") == []
    assert world.client("admin_a").get(f"/jobs/?server={world.theirs.server.pk}").status_code == 404


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5", 5),
        ("0", 0),
        ("5 GiB", 5 * GIB),
        ("5g", 5 * GIB),
        ("1.5 GiB", 3 * GIB // 2),
        ("5GB", 5 * 10**9),
        ("7 bytes", 7),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert SizeField("Size").clean(text) == size


@pytest.mark.parametrize("text", ["-1", "GiB", "5 XB", "1e9", "٣", "9" * 20, "1.5.5 G", "99999999 PiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        SizeField("Size").clean(text)
