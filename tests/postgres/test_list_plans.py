"""Lists of what grows without end: one statement each that walks an index, for every role, whatever is asked of them.

Collected with everything, and run by `test_on_postgresql.py`. The fleet is small, and large enough that PostgreSQL
would have to be told by its statistics to leave an index alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client

from tests.bench.api_pages import VARIANTS, people

pytestmark = [
    pytest.mark.postgres,
    # pytest-django makes the databases that some test asks for by this mark: the fixture alone would find no tables.
    pytest.mark.django_db,
    pytest.mark.skipif(
        "postgresql" not in settings.DATABASES["default"]["ENGINE"],
        reason="plans of PostgreSQL; test_on_postgresql.py runs this there",
    ),
]

ROLES = ("SuperAdmin", "DCAdmin, big tenant", "DCAdmin, small tenant", "DCAdmin of 20 tenants", "VmOwner, 10 servers")
# Address -> the table that it lists.
LISTS = {
    "/api/v1/backups/": "backups_backup",
    "/api/v1/jobs/": "backups_job",
    "/api/v1/restores/": "backups_job",
    "/api/v1/audit/": "tenants_auditevent",
    "/backups/": "backups_backup",
    "/jobs/": "backups_job",
    "/restores/": "backups_job",
    "/audit/": "tenants_auditevent",
}
# A part of a name has a test of its own: of so few rows reading all is cheapest.
LISTS |= {
    f"/api/v1/{name}/?{query}": LISTS[f"/api/v1/{name}/"]
    for name in ("backups", "jobs")
    for query in VARIANTS[name]
    if not query.startswith("search=")
}
GROWS = frozenset({"backups_backup", "backups_job", "backups_jobevent", "vaults_storedobject", "tenants_auditevent"})
# Of the session, the person, his tenants and servers; an update of the session's last use.
OTHER_STATEMENTS = 9


# Other pages of the portal, with the most statements that each may need.
PAGES = {
    "/": 24,
    # Of a few small vaults everything is counted at once.
    "/vaults/overview/": 20,
    "/approvals/": 15,
    "/notifications/": 15,
    "/people/invite/": 8,
    "/definitions/new/": 8,
    "/definitions/overview/": 20,
    "/definitions/load/": 16,
    "/choices/servers/?q=web-0001": 6,
    "/choices/disks/?q=web-0001": 6,
    "/choices/tenants/?q=00012": 6,
    "/servers/?q=web-0001": 9,
    "/definitions/?q=web-0001": 9,
}


@pytest.fixture(scope="module")
def fleet(django_db_setup: None, django_db_blocker: Any) -> Iterator[dict[str, Client]]:
    """A signed-in client for each role. All of it is undone at the end."""
    with django_db_blocker.unblock(), transaction.atomic():
        call_command("seed_fleet", tenants=50, servers=1500, backups=30_000, at="2026-11-20", verbosity=0)
        clients = {role: Client() for role in ROLES}
        for role, person in people().items():
            clients[role].force_login(person)
        yield clients
        transaction.set_rollback(True)


@pytest.mark.parametrize("address", LISTS)
@pytest.mark.parametrize("role", ROLES)
def test_a_list_is_one_indexed_statement(fleet: dict[str, Client], role: str, address: str) -> None:
    statements = _statements_of(fleet[role], address)

    listing = [one for one in statements if _lists(one[0], LISTS[address]) and "COUNT(" not in one[0]]
    counting = [one for one in statements if "COUNT(" in one[0]]
    # None where a count of nothing said that there is nothing to list, or the role has no way to the model.
    assert len(listing) <= 1
    assert listing or counting or role.startswith("VmOwner")
    assert len(counting) <= 1 and all("LIMIT" in sql for sql, _ in counting)
    assert len(statements) - len(listing) - len(counting) <= OTHER_STATEMENTS
    for sql, parameters in [one for one in statements if one not in counting]:
        assert _read_whole(sql, parameters) == set(), sql


@pytest.mark.parametrize("address", ["/api/v1/backups/?limit=50", "/api/v1/jobs/?limit=50", "/api/v1/audit/?limit=50"])
@pytest.mark.parametrize("role", ROLES)
def test_a_page_further_down_costs_no_more(fleet: dict[str, Client], role: str, address: str) -> None:
    for _ in range(3):
        following = fleet[role].get(address).json()["next"]
        if following is None:
            break
        address = following.removeprefix("http://testserver")

    for sql, parameters in _statements_of(fleet[role], address):
        assert _read_whole(sql, parameters) == set(), sql


@pytest.mark.parametrize("address", PAGES)
@pytest.mark.parametrize("role", ROLES)
def test_a_page_of_the_portal_is_a_few_indexed_statements(fleet: dict[str, Client], role: str, address: str) -> None:
    if fleet[role].get(address).status_code == 403:
        return
    statements = _statements_of(fleet[role], address)

    assert len(statements) <= PAGES[address]
    # What is summed up stops after some thousands; means are of the last week, which is most of what this fleet has.
    summed = [one for one in statements if "AVG(" in one[0] or ("COUNT(" in one[0] and "LIMIT" in one[0])]
    for sql, parameters in [one for one in statements if one not in summed]:
        assert _read_whole(sql, parameters) == set(), sql


@pytest.mark.parametrize(
    ("address", "indexes"),
    [
        ("/choices/servers/?q=web-0001", ["server_by_part_of_name"]),
        ("/api/v1/servers/?search=web-0001", ["server_by_part_of_name"]),
        (
            "/api/v1/backups/?search=web-0001",
            ["backup_by_part_of_name", "backup_by_part_of_server", "backup_by_part_of_note"],
        ),
        ("/api/v1/jobs/?search=web-0001", ["job_by_part_of_name"]),
    ],
)
def test_a_part_of_a_name_is_looked_up_in_an_index(fleet: dict[str, Client], address: str, indexes: list[str]) -> None:
    """Few rows would be read at once as well: the plan is asked for as if that cost much."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_indexscan = off")
        cursor.execute("SET LOCAL enable_indexonlyscan = off")
    try:
        statements = _statements_of(fleet["SuperAdmin"], address)
        searching = [one for one in statements if "LIKE UPPER" in one[0]]
        assert searching
        with connection.cursor() as cursor:
            for sql, parameters in searching:
                cursor.execute(f"EXPLAIN {sql}", parameters)
                plan = str(cursor.fetchall())
                assert [index for index in indexes if index not in plan] == []
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET enable_seqscan; RESET enable_indexscan; RESET enable_indexonlyscan")


def test_the_check_sees_a_whole_table(fleet: dict[str, Client]) -> None:
    assert _read_whole("SELECT * FROM backups_backup WHERE note = %s ORDER BY name", ["x"]) == {"backups_backup"}


def _statements_of(client: Client, address: str) -> list[tuple[str, Any]]:
    """What is selected while the page is made, without what only looks for rights."""
    seen: list[tuple[str, Any]] = []

    def note(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if sql.startswith("SELECT") and not many:
            seen.append((sql, parameters))
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(note):
        assert client.get(address).status_code == 200
    return seen


def _lists(sql: str, table: str) -> bool:
    return re.search(rf'FROM "{table}"', sql) is not None and "ORDER BY" in sql


def _read_whole(sql: str, parameters: Any) -> set[str]:
    """Which of the tables that grow are read from beginning to end."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
        [[plan]] = cursor.fetchall()
    return {node["Relation Name"] for node in _nodes(plan[0]["Plan"]) if node["Node Type"] == "Seq Scan"} & GROWS


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from _nodes(below)
