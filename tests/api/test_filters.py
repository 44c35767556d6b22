"""Filters, search and ordering: what they find, and that nothing can be asked that was not declared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from backups.models import Backup
from tenants.api import filtering
from tests.factories import GIB, make_backup
from tests.worlds import World


def found(world: World, resource: str, query: dict[str, str], name: str = "admin_a") -> list[str]:
    answer = world.client(name).get(f"/api/v1/{resource}/", query)
    assert answer.status_code == 200, answer.content
    return [row["id"] for row in answer.json()["results"]]


def refusal(world: World, resource: str, query: dict[str, Any], name: str = "super") -> tuple[str, str]:
    answer = world.client(name).get(f"/api/v1/{resource}/", query)
    assert answer.status_code == 400, answer.content
    return answer.json()["errors"][0]["field"], answer.json()["errors"][0]["code"]


@pytest.fixture
def orphan(world: World) -> Backup:
    """A backup whose server, disk and definition are gone."""
    backup = make_backup(world.ours.server)
    gone = {"server": None, "disk": None, "definition": None, "node": None, "size_bytes": 5 * GIB}
    Backup.objects.filter(pk=backup.pk).update(**gone, note="100% of it_all", status="lost")
    return backup


def test_several_values_with_commas(world: World, orphan: Backup) -> None:
    kept = str(world.ours.backup.pk)

    assert found(world, "backups", {"status": "lost"}) == [str(orphan.pk)]
    assert set(found(world, "backups", {"status": "ok,lost"})) == {kept, str(orphan.pk)}
    assert found(world, "backups", {"server": f"{world.ours.server.pk},{world.ours.other_server.pk}"}) == [kept]


@pytest.mark.parametrize("name", ["server", "disk", "definition", "node"])
def test_none_is_what_has_none(world: World, orphan: Backup, name: str) -> None:
    assert found(world, "backups", {name: "none"}) == [str(orphan.pk)]


def test_none_beside_an_id(world: World, orphan: Backup) -> None:
    both = found(world, "backups", {"server": f"none,{world.ours.server.pk}"})

    assert set(both) == {str(orphan.pk), str(world.ours.backup.pk)}


def test_ranges_meet_without_a_gap(world: World, orphan: Backup) -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    Backup.objects.filter(pk=orphan.pk).update(created_at=moment)
    text = "2026-03-01T12:00:00Z"

    assert found(world, "backups", {"created_before": text}) == []
    assert str(orphan.pk) in found(world, "backups", {"created_after": text})
    assert found(world, "backups", {"size_min": str(5 * GIB)}) == [str(orphan.pk)]
    assert str(orphan.pk) not in found(world, "backups", {"size_max": str(5 * GIB - 1)})
    assert str(orphan.pk) in found(world, "backups", {"size_max": str(5 * GIB)})


def test_presence(world: World) -> None:
    slotted = make_backup(world.ours.server)
    Backup.objects.filter(pk=slotted.pk).update(slot_at=timezone.now())

    assert found(world, "backups", {"scheduled": "true"}) == [str(slotted.pk)]
    assert found(world, "backups", {"scheduled": "false"}) == [str(world.ours.backup.pk)]


def test_alarms_by_severity_in_words(world: World) -> None:
    alarm = str(world.ours.alarm.pk)

    assert found(world, "alarms", {"severity": "critical,warning"}) == [alarm]
    assert found(world, "alarms", {"severity": "info"}) == []


@pytest.mark.parametrize(
    ("text", "hits"),
    [("100%", 1), ("it_all", 1), ("OF IT", 1), ("1__%", 0), ("%", 1), ("_all", 1), ("\\", 0), ("'; drop table", 0)],
)
def test_search_takes_every_sign_for_itself(world: World, orphan: Backup, text: str, hits: int) -> None:
    assert len([key for key in found(world, "backups", {"search": text}) if key == str(orphan.pk)]) == hits


def test_search_finds_no_hidden_rows(world: World) -> None:
    assert found(world, "servers", {"search": "server-"}, "admin_a") == found(world, "servers", {}, "admin_a")
    assert found(world, "servers", {"search": world.theirs.server.name}, "admin_a") == []
    assert found(world, "backups", {"search": world.theirs.server.name}, "owner_a1") == []


@pytest.mark.parametrize("few", [True, False])
def test_what_is_rare_is_looked_for_before_it_is_ordered(
    world: World, orphan: Backup, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    """Of a word that nothing has the database read the index of the order to its end: a second at a million backups."""
    monkeypatch.setattr(filtering, "MOST_KEYS", 1000 if few else 0)
    with CaptureQueriesContext(connection) as asked:
        assert found(world, "backups", {"search": "of it"}) == [str(orphan.pk)]

    [ordered] = [one["sql"] for one in asked if 'ORDER BY "backups_backup"."created_at" DESC' in one["sql"]]
    assert ("LIKE" not in ordered) is few
    assert found(world, "backups", {"search": "no such word"}) == []


def test_ordering_turns_round(world: World) -> None:
    by_name = found(world, "servers", {"ordering": "name"})

    assert by_name == [str(world.ours.server.pk), str(world.ours.other_server.pk)]
    assert found(world, "servers", {"ordering": "-name"}) == by_name[::-1]


@pytest.mark.case("IN-13")
@pytest.mark.parametrize(
    ("resource", "query"),
    [
        ("backups", {"tenant__title": "x"}),
        ("backups", {"tenant__users__password__startswith": "a"}),
        ("backups", {"server__name": "x"}),
        ("backups", {"status__in": "ok"}),
        ("backups", {"offset": "0"}),
        ("tenants", {"cursor": "x"}),
        ("storages", {"ordering": "path"}),
        ("servers", {"id": "x"}),
    ],
)
def test_what_is_not_declared_is_refused_by_name(world: World, resource: str, query: dict[str, str]) -> None:
    assert refusal(world, resource, query)[0] == next(iter(query))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server", "1"),
        ("server", ""),
        ("server", "None"),
        ("server", ","),
        ("server", ",".join(["none"] * 51)),
        ("vault", "none"),
        ("status", "OK"),
        ("status", "ok,"),
        ("status", "ok,ok2"),
        ("frozen", "1"),
        ("frozen", "True"),
        ("removed", "yes"),
        ("size_min", "-1"),
        ("size_min", "1.5"),
        ("size_min", str(2**63)),
        ("size_min", "1e3"),
        ("created_after", "yesterday"),
        ("created_after", "2026-13-01T00:00:00Z"),
        ("created_after", "0001-01-01T00:00:00+14:00"),
        ("format", ""),
        ("search", ""),
        ("search", "x" * 101),
        ("search", "a\0b"),
        ("type", "a\0b"),
        ("ordering", "note"),
        ("ordering", "--created_at"),
        ("ordering", "tenant__title"),
        ("ordering", "created_at,name"),
        ("ordering", "?"),
    ],
)
def test_a_value_that_cannot_be(world: World, name: str, value: str) -> None:
    assert refusal(world, "backups", {name: value})[0] == name


def test_a_parameter_given_twice_is_refused(world: World) -> None:
    assert refusal(world, "backups", {"status": ["ok", "lost"]}) == ("status", "given_twice")


def test_a_time_without_zone_is_utc(world: World) -> None:
    person = world.people["admin_a"]
    assert person is not None
    person.time_zone = "Asia/Kolkata"
    person.save()
    text = (world.ours.backup.created_at.astimezone(UTC) - timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%S")

    assert found(world, "backups", {"created_after": text}) == [str(world.ours.backup.pk)]
