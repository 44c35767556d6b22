"""CSV: the rows of the list and no other, whole, bounded, and harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from backups.models import Backup
from tenants.api.export import safe_cell
from tests.factories import make_backup
from tests.worlds import World

LISTS = (
    "tenants",
    "vaults",
    "keys",
    "alarms",
    "nodes",
    "storages",
    "servers",
    "disks",
    "definitions",
    "backups",
    "jobs",
    "restores",
)


def rows_of(answer: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode())))


def export(world: World, resource: str, name: str = "admin_a", query: str = "") -> Any:
    answer = world.client(name).get(f"/api/v1/{resource}/?format=csv{query}")
    assert answer.status_code == 200, answer.content
    assert answer["Content-Type"].startswith("text/csv; charset=utf-8")
    return answer


@pytest.mark.parametrize("resource", LISTS)
@pytest.mark.parametrize("name", ["super", "admin_a", "owner_a1", "owner_a2"])
def test_it_holds_exactly_the_rows_and_columns_of_the_list(world: World, name: str, resource: str) -> None:
    shown = world.client(name).get(f"/api/v1/{resource}/").json()["results"]

    rows = rows_of(export(world, resource, name))

    assert [row["id"] for row in rows] == [row["id"] for row in shown]
    if shown:
        assert list(rows[0]) == list(shown[0])


def test_filters_and_ordering_hold(world: World) -> None:
    lost = make_backup(world.ours.server)
    Backup.objects.filter(pk=lost.pk).update(status="lost")

    assert [row["id"] for row in rows_of(export(world, "backups", query="&status=lost"))] == [str(lost.pk)]
    for wrong in ("sever=1", "limit=-1", "count=perhaps", "offset=0"):
        assert world.client("admin_a").get(f"/api/v1/backups/?format=csv&{wrong}").status_code == 400


def test_it_is_asked_for_by_accept_too(world: World) -> None:
    answer = world.client("admin_a").get("/api/v1/backups/", HTTP_ACCEPT="text/csv")

    assert len(rows_of(answer)) == 1
    assert answer["Content-Disposition"] == 'attachment; filename="backups.csv"'


@pytest.mark.case("IN-07")
@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "\u00a0=", "＝"])
def test_a_formula_is_shown_and_not_run(world: World, sign: str) -> None:
    note = f"{sign}HYPERLINK(1)"
    Backup.objects.filter(pk=world.ours.backup.pk).update(note=note)

    [row] = rows_of(export(world, "backups"))

    assert row["note"].startswith("'")


@pytest.mark.case("IN-07")
@given(st.text())
def test_no_text_begins_a_formula(text: str) -> None:
    cell = safe_cell(text)

    assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert cell.removeprefix("'").replace("\0", "") == text.replace("\0", "") or text.startswith("'")


@pytest.mark.parametrize(
    ("value", "cell"),
    [(None, ""), (True, "true"), (False, "false"), (-5, -5), (0.5, 0.5), ([1, "ü"], '[1, "ü"]'), ("plain", "plain")],
)
def test_other_values(value: Any, cell: Any) -> None:
    assert safe_cell(value) == cell


def test_quotes_commas_and_line_ends_stay_in_their_cell(world: World) -> None:
    note = 'a "quoted", and\r\ntwo lines; ü 🛟'
    Backup.objects.filter(pk=world.ours.backup.pk).update(note=note)

    [row] = rows_of(export(world, "backups"))

    assert row["note"] == note


def test_a_cut_is_told_and_a_whole_is_not(world: World) -> None:
    for _ in range(3):
        make_backup(world.ours.server)

    with override_settings(API_EXPORT_ROWS=3):
        cut = b"".join(export(world, "backups").streaming_content).decode().splitlines()
    with override_settings(API_EXPORT_ROWS=4):
        whole = b"".join(export(world, "backups").streaming_content).decode().splitlines()

    assert (len(cut), cut[-1][:22]) == (5, "# Only the first 3 row")
    assert (len(whole), whole[-1][0] == "#") == (5, False)


def test_rows_are_read_in_lots_with_one_query_each(
    world: World, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr("tenants.api.export.ROWS_AT_ONCE", 2)
    for _ in range(6):
        make_backup(world.ours.server)
    answer = export(world, "backups")

    # The heading is there before any; then the keys.
    rows = iter(answer.streaming_content)
    with django_assert_num_queries(0):
        heading = next(rows)
    with django_assert_num_queries(2):
        first = next(rows)
    with django_assert_num_queries(3):
        lots = [heading, first, *rows]

    assert len(lots) == 5
    assert len(b"".join(lots).splitlines()) == 8


def test_an_error_is_no_csv(world: World) -> None:
    answer = world.client("anonymous").get("/api/v1/backups/?format=csv")

    assert (answer.status_code, answer["Content-Type"]) == (401, "application/problem+json")


def test_a_single_object_has_none(world: World) -> None:
    address = f"/api/v1/backups/{world.ours.backup.pk}/"

    assert world.client("super").get(address, HTTP_ACCEPT="text/csv").status_code == 406
