"""If-Match: an edit or a removal is done on what the caller saw, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone

from backups.models import Backup
from definitions.models import Definition
from tests.factories import make_backup
from tests.worlds import World


def address(world: World, resource: str) -> str:
    return f"/api/v1/{resource}/{world.ours.object_of(resource).pk}/"


def etag(world: World, resource: str) -> str:
    found: str = world.client("admin_a").get(address(world, resource))["ETag"]
    return found


CHANGES = [("definitions", {"description": "changed"}), ("backups", {"note": "changed"})]


@pytest.mark.parametrize(("resource", "change"), CHANGES)
def test_an_edit_of_what_was_seen_is_done_and_tells_the_next_etag(
    world: World, resource: str, change: dict[str, Any]
) -> None:
    seen = etag(world, resource)

    answer = world.client("admin_a").patch(address(world, resource), change, headers={"If-Match": seen})

    assert answer.status_code == 200
    assert answer["ETag"] != seen
    assert answer["ETag"] == etag(world, resource)


@pytest.mark.parametrize(("resource", "change"), CHANGES)
@pytest.mark.parametrize("method", ["patch", "delete"])
def test_what_was_changed_meanwhile_is_left_alone(
    world: World, resource: str, change: dict[str, Any], method: str
) -> None:
    seen = etag(world, resource)
    world.client("super").patch(address(world, resource), change)
    before = world.client("super").get(address(world, resource)).json()

    answer = getattr(world.client("admin_a"), method)(
        address(world, resource), {next(iter(change)): "mine"}, headers={"If-Match": seen}
    )

    assert (answer.status_code, answer.json()["code"]) == (412, "changed_meanwhile")
    assert world.client("super").get(address(world, resource)).json() == before


@pytest.mark.parametrize("given", ["*", " * ", '"x", {}', "{}", '{} , "y"'])
def test_forms_that_match(world: World, given: str) -> None:
    header = given.replace("{}", etag(world, "backups"))

    answer = world.client("admin_a").delete(address(world, "backups"), headers={"If-Match": header})

    assert answer.status_code == 204


@pytest.mark.parametrize("given", ["", "W/{}", '"x"', "x", "{}x", "**", '"*"', "a" * 2000])
def test_forms_that_do_not(world: World, given: str) -> None:
    header = given.replace("{}", etag(world, "backups"))

    answer = world.client("admin_a").delete(address(world, "backups"), headers={"If-Match": header})

    assert answer.status_code == 412
    assert Backup.objects.filter(pk=world.ours.backup.pk, removed_at=None).exists()


def test_figures_of_the_service_do_not_change_it(world: World) -> None:
    """A run that moves the schedule on must not refuse the edit of a person."""
    seen = etag(world, "definitions"), etag(world, "backups")

    Definition.objects.update(next_run_at=timezone.now(), changed_at=timezone.now())
    Backup.objects.update(unique_bytes=7, health="damaged", verified_at=timezone.now(), changed_at=timezone.now())

    assert (etag(world, "definitions"), etag(world, "backups")) == seen


@pytest.mark.parametrize("field", ["cron", "time_zone", "retention_count", "active", "description", "bandwidth_limit"])
def test_everything_that_an_editor_sets_changes_it(world: World, field: str) -> None:
    seen = etag(world, "definitions")
    other = {
        "cron": "7 7 * * *",
        "time_zone": "Asia/Tokyo",
        "retention_count": 3,
        "active": False,
        "description": "x",
        "bandwidth_limit": 1 << 20,
    }

    world.client("super").patch(address(world, "definitions"), {field: other[field]})

    assert etag(world, "definitions") != seen


def test_two_objects_that_are_alike_differ(world: World) -> None:
    twin = make_backup(world.ours.server)

    other = world.client("admin_a").get(f"/api/v1/backups/{twin.pk}/")["ETag"]

    assert other != etag(world, "backups")


def test_without_the_header_it_is_as_before(world: World) -> None:
    assert world.client("admin_a").delete(address(world, "backups")).status_code == 204


@pytest.mark.parametrize("method", ["patch", "delete"])
def test_an_installation_may_insist(world: World, method: str) -> None:
    with override_settings(API_REQUIRE_IF_MATCH=True):
        refused = getattr(world.client("admin_a"), method)(address(world, "backups"), {"note": "x"})
        done = getattr(world.client("admin_a"), method)(
            address(world, "backups"), {"note": "x"}, headers={"If-Match": etag(world, "backups")}
        )

    assert (refused.status_code, refused.json()["code"]) == (428, "if_match_needed")
    assert done.status_code in {200, 204}


@pytest.mark.parametrize(("name", "status"), [("admin_b", 404), ("owner_a1", 403)])
def test_rights_come_first(world: World, name: str, status: int) -> None:
    """Who may not see it must not learn from the answer what it is like."""
    for header in ("*", '"wrong"', etag(world, "backups")):
        answer = world.client(name).patch(address(world, "backups"), {"note": "x"}, headers={"If-Match": header})

        assert answer.status_code == status
