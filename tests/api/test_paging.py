"""Pages by cursor: every row once, in both directions, whatever is added meanwhile; no cursor can be made up."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.signing import dumps
from django.urls import get_resolver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.models import Disk
from backups.models import Backup
from tenants.api.paging import COUNT_CAP, KeysetPaging, columns_of
from tests.factories import GIB, make_backup
from tests.worlds import World

SETTINGS = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def page(world: World, query: str, name: str = "super") -> Any:
    answer = world.client(name).get(f"/api/v1/backups/?{query}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def follow(world: World, address: str | None, direction: str = "next") -> list[list[str]]:
    """The ids of each page, as the links lead."""
    pages, client = [], world.client("super")
    while address:
        body = client.get(address).json()
        pages.append([row["id"] for row in body["results"]])
        address = body[direction]
        assert len(pages) < 100
    return pages


@pytest.fixture
def many(world: World) -> World:
    """Eleven more backups, of three sizes only, so that the key decides."""
    for number in range(11):
        backup = make_backup(world.ours.server)
        Backup.objects.filter(pk=backup.pk).update(size_bytes=GIB * (1 + number % 3))
    return world


@pytest.mark.parametrize("ordering", ["created_at", "-created_at", "size_bytes", "-size_bytes"])
@pytest.mark.parametrize("limit", [1, 4, 13, 500])
def test_every_row_comes_once_and_in_order(many: World, ordering: str, limit: int) -> None:
    wanted = [
        str(key)
        for key in Backup.objects.order_by(ordering, "-pk" if ordering[0] == "-" else "pk").values_list("pk", flat=True)
    ]

    pages = follow(many, f"/api/v1/backups/?limit={limit}&ordering={ordering}")

    assert [key for one in pages for key in one] == wanted
    assert all(len(one) == limit for one in pages[:-1])


def test_the_way_back_shows_the_same_pages(many: World) -> None:
    forwards = follow(many, "/api/v1/backups/?limit=4")
    last = many.client("super").get(_last_address(many, "/api/v1/backups/?limit=4")).json()

    backwards = follow(many, last["previous"], "previous")

    assert list(reversed(backwards)) == forwards[:-1]


def _last_address(world: World, address: str) -> str:
    client = world.client("super")
    while (following := client.get(address).json()["next"]) is not None:
        address = following
    return address


def test_the_first_page_has_no_way_back_and_the_last_none_on(many: World) -> None:
    first = page(many, "limit=7")
    last = many.client("super").get(first["next"]).json()

    assert (first["previous"], last["next"]) == (None, None)
    assert many.client("super").get(last["previous"]).json()["previous"] is None


@SETTINGS
@given(limit=st.integers(1, 5), at=st.integers(0, 3), added=st.integers(1, 4), removed=st.integers(0, 2))
def test_what_comes_and_goes_meanwhile_moves_no_other_row(
    world: World, limit: int, at: int, added: int, removed: int
) -> None:
    Backup.objects.exclude(pk=world.ours.backup.pk).delete()
    for _ in range(9):
        make_backup(world.ours.server)
    before = [str(key) for key in Backup.objects.order_by("-created_at", "-pk").values_list("pk", flat=True)]
    seen, address, client = [], f"/api/v1/backups/?limit={limit}", world.client("super")
    for number in range(20):
        if number == at:
            for _ in range(added):
                make_backup(world.ours.server)
            Backup.objects.filter(pk__in=seen[:removed]).delete()
        body = client.get(address).json()
        seen.extend(row["id"] for row in body["results"])
        address = body["next"]
        if address is None:
            break

    assert len(seen) == len(set(seen))
    # What was added at the front before the first page was read belongs to it.
    assert [key for key in seen if key in before] == before


def test_links_keep_the_filters(many: World) -> None:
    body = page(many, f"limit=2&status=ok&server={many.ours.server.pk}&count=true")

    query = parse_qs(urlsplit(body["next"]).query)
    assert (query["status"], query["server"], query["limit"]) == (["ok"], [str(many.ours.server.pk)], ["2"])
    assert "count" not in query


def test_the_total_is_told_only_when_asked_for(many: World) -> None:
    assert (page(many, "")["count"], page(many, "")["count_is_exact"]) == (None, None)
    assert (page(many, "count=true")["count"], page(many, "count=true")["count_is_exact"]) == (13, True)


def test_a_total_stops_at_the_cap(many: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenants.api.paging.COUNT_CAP", 5)

    body = page(many, "count=true")

    assert COUNT_CAP == 10_000
    assert (body["count"], body["count_is_exact"]) == (5, False)


def test_a_cursor_that_was_altered_is_refused(many: World) -> None:
    cursor = parse_qs(urlsplit(page(many, "limit=2")["next"]).query)["cursor"][0]
    mangled = [
        cursor[:-1] + ("A" if cursor[-1] != "A" else "B"),
        cursor[1:],
        cursor[: len(cursor) // 2],
        cursor + "x",
        cursor * 50,
        "",
        "nonsense",
        "\0",
        dumps([["-created_at", "-pk"], False, ["2026-01-01", "x"]], salt="another"),
        # Signed, and still no position of this list.
        dumps([["-created_at", "-pk"], False, ["no time", "x"]], salt="tenants.api.paging"),
        dumps([["-created_at", "-pk"], False, ["2026-01-01T00:00:00Z"]], salt="tenants.api.paging"),
        dumps("text", salt="tenants.api.paging"),
        dumps(7, salt="tenants.api.paging"),
    ]

    for wrong in mangled:
        answer = many.client("super").get("/api/v1/backups/", {"cursor": wrong})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "cursor"), wrong


def test_a_cursor_of_another_order_is_refused(many: World) -> None:
    cursor = parse_qs(urlsplit(page(many, "limit=2")["next"]).query)["cursor"][0]

    answer = many.client("super").get("/api/v1/backups/", {"cursor": cursor, "ordering": "size_bytes"})

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "bad_cursor")


def test_a_cursor_of_somebody_else_shows_only_own_rows(many: World) -> None:
    """It says where to begin, and nothing about what may be seen."""
    cursor = parse_qs(urlsplit(page(many, "limit=2", "super")["next"]).query)["cursor"][0]

    rows = many.client("admin_b").get("/api/v1/backups/", {"cursor": cursor}).json()["results"]

    assert {row["id"] for row in rows} <= {str(many.theirs.backup.pk)}


def test_a_page_far_down_costs_two_queries_less_than_it_has_rows(
    many: World, django_assert_max_num_queries: Any
) -> None:
    """One for the session, one for the person, one for the rows: none for each row."""
    client, address = many.client("super"), page(many, "limit=5")["next"]

    with django_assert_max_num_queries(4):
        client.get(address)


def test_an_order_by_what_may_be_null_cannot_be_declared(db: None) -> None:
    with pytest.raises(ImproperlyConfigured):
        columns_of(Disk.objects.order_by("incomplete_since"))


def test_every_order_that_is_declared_can_be_paged(db: None) -> None:
    """Walks all viewsets: a column that is null, or none, is found here and not by a caller."""
    for view in _viewsets():
        if issubclass(view.pagination_class, KeysetPaging):
            columns_of(view.queryset)
            for name in view.ordering_fields:
                columns_of(view.queryset.order_by(name))
        else:
            assert all(columns_of(view.queryset.order_by(name)) for name in view.ordering_fields)


def _viewsets() -> set[Any]:
    found, waiting = set(), list(get_resolver().url_patterns)
    while waiting:
        pattern = waiting.pop()
        waiting.extend(getattr(pattern, "url_patterns", []))
        view = getattr(getattr(pattern, "callback", None), "cls", None)
        if view is not None and hasattr(view, "role_actions") and hasattr(view, "pagination_class"):
            found.add(view)
    assert len(found) >= 12
    return found
