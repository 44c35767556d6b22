"""Restores of files over the API and in the portal: what is asked for, what is shown, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from agents.models import Disk
from backups.models import Backup, Job
from definitions.models import Definition
from tests.factories import disk_of
from tests.worlds import World


@pytest.fixture
def files(world: World) -> World:
    """The world, where what is protected are files: their server has a tree of them."""
    Disk.objects.update(driver="filesystem")
    Backup.objects.update(content="tree", counts={"files": 12, "directories": 3, "changed_entries": 4})
    return world


def _restore(world: World, **body: Any) -> Any:
    order = {"target": str(disk_of(world.ours.server).pk), **body}
    return world.client("admin_a").post(f"/api/v1/backups/{world.ours.backup.pk}/restore/", order)


def _preview(world: World, query: str) -> Any:
    target = disk_of(world.ours.server).pk
    address = f"/api/v1/backups/{world.ours.backup.pk}/restore-preview/?target={target}{query}"
    return world.client("admin_a").get(address).json()


def test_files_are_shown_and_restored_into_a_folder_without_a_typed_name(files: World) -> None:
    shown = files.client("admin_a").get(f"/api/v1/backups/{files.ours.backup.pk}/").json()
    answer = _restore(files, folder="back", paths=["a", "b\\xe4d/"])

    assert (shown["content"], shown["counts"]["files"]) == ("tree", 12)
    assert answer.status_code == 202, answer.json()
    assert answer.json()["files"] == {"paths": ["a", "b\\xe4d"], "folder": "back"}
    assert Job.objects.get(pk=answer.json()["id"]).replaces_target is False


def test_what_is_replaced_is_said_before_and_confirmed(files: World) -> None:
    name = files.ours.server.name
    assert "Nothing is lost" in _preview(files, "&folder=back")["warning"]
    assert "stays" in _preview(files, "")["warning"]
    assert "is removed" in _preview(files, "&delete_extra=true")["warning"]

    missing, wrong = _restore(files), _restore(files, confirmation="other", delete_extra=True)
    good = _restore(files, confirmation=name, delete_extra=True)

    assert missing.json()["errors"][0]["field"] == "confirmation"
    assert (wrong.json()["code"], "is removed" in wrong.json()["detail"]) == ("not_confirmed", True)
    assert (good.status_code, good.json()["files"]) == (202, {"delete_extra": True})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"folder": "../x"}, "bad_files"),
        ({"folder": "a", "paths": ["/"]}, "bad_files"),
        ({"folder": "a", "delete_extra": True}, "bad_files"),
        ({"folder": "a", "paths": [f"f{number}" for number in range(1001)]}, "invalid_input"),
    ],
)
def test_wishes_that_cannot_be_are_refused(files: World, body: dict[str, Any], code: str) -> None:
    answer = _restore(files, **body)

    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert not Job.objects.exclude(files={}).exists()


def test_on_a_whole_server_nothing_is_removed(files: World) -> None:
    Disk.objects.update(driver="host")

    answer = _restore(files, confirmation=files.ours.server.name, delete_extra=True)

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_files")
    assert not Job.objects.filter(kind="restore", files__delete_extra=True).exists()


def test_of_a_disk_image_no_single_file_is_restored(world: World) -> None:
    answer = _restore(world, folder="back")

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_files")


def test_the_portal_asks_which_files_and_where_to(files: World) -> None:
    client = files.client("admin_a")
    target = disk_of(files.ours.server)
    address = f"/backups/{files.ours.backup.pk}/restore/"
    asked = client.get(f"{address}?target={target.pk}").content.decode()

    unnamed = client.post(address, {"target": str(target.pk), "place": "folder"}, format="multipart")
    over = client.post(address, {"target": str(target.pk), "place": "over"}, format="multipart")
    body = {"target": str(target.pk), "place": "folder", "folder": "back", "paths": "a\r\n\r\nb/c\r\n"}
    done = client.post(address, body, format="multipart")

    assert f"restored-{files.ours.backup.name}" in asked
    assert "12 files, 3 folders" in asked
    assert unnamed.status_code == over.status_code == 400
    assert "Give the new folder a name" in unnamed.content.decode()
    assert "To confirm, type the name of its server" in over.content.decode()
    job = Job.objects.exclude(files={}).get()
    assert (done.status_code, job.files) == (302, {"paths": ["a", "b/c"], "folder": "back"})
    assert "b/c" in client.get(f"/jobs/{job.pk}/").content.decode()


def test_what_is_left_out_is_kept_with_the_definition_and_checked_by_line(files: World) -> None:
    definition = Definition.objects.get(pk=files.ours.definition.pk)
    address = f"/api/v1/definitions/{definition.pk}/"
    client = files.client("admin_a")

    good = client.patch(address, {"excludes": "*.tmp\ncache/\n"})
    wrong = client.patch(address, {"excludes": "*.tmp\n[z-a]\n"})
    slow = client.patch(address, {"excludes": "*a*b*c*d"})

    assert (good.status_code, good.json()["excludes"]) == (200, "*.tmp\ncache/\n")
    assert (wrong.status_code, wrong.json()["code"]) == (400, "bad_excludes")
    assert "Line 2" in wrong.json()["detail"] and "stars" in slow.json()["detail"]
    assert "cache/" in client.get(f"/definitions/{definition.pk}/").content.decode()
