"""Every list of the portal: each order that it offers orders the rows both ways, over its pages there and back, and
what was chosen is found again on the way back to it. A list without a row in the table fails here.
"""

from __future__ import annotations

import pytest
from django.utils.html import escape

from backups.models import Backup
from tenants.listing import MOST_COUNTED
from tenants.models import ApprovalRequest
from tests.factories import make_backup
from tests.portal.listed import CASES, every_listing, pages_of, read
from tests.worlds import World


def test_the_table_knows_every_list_and_every_order() -> None:
    found: dict[str, set[str]] = {}
    for listing in every_listing():
        found.setdefault(listing.name, set()).update(listing.sorts)

    assert found == {case.name or path.rstrip("/"): set(case.keys) for path, case in CASES.items()}


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
