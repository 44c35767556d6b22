"""What a backup of a whole server keeps of its disks: the portal has no key to it, and says who has and how."""

from __future__ import annotations

import shlex

import pytest

from backups.models import Backup
from engine.alone import commands
from engine.alone.cli import build_parser
from tests.worlds import World


def keep(world: World, **changes: object) -> Backup:
    backup = world.ours.backup
    Backup.objects.filter(pk=backup.pk).update(**{"content": "tree", "has_configuration": True} | changes)
    backup.refresh_from_db()
    return backup


def page(world: World, name: str) -> str:
    return world.client(name).get(f"/backups/{world.ours.backup.pk}/").content.decode()


def command_in(text: str) -> list[str]:
    return shlex.split(text[text.index("backupsite-restore facts") :].split("<")[0].replace("&#x27;", "'"))


def test_the_page_has_the_command_that_shows_the_layout(world: World) -> None:
    backup = keep(world)
    assert backup.manifest is not None

    text = page(world, "admin_a")

    parsed = build_parser().parse_args(command_in(text)[1:])
    assert parsed.run is commands.run_facts and parsed.part is None
    assert backup.manifest.sha256.startswith(parsed.backup) and len(parsed.backup) == 12
    assert (parsed.bucket, parsed.endpoint_url) == (world.ours.vault.bucket, world.ours.vault.endpoint.url)
    assert (parsed.tenant, parsed.domain) == (str(backup.tenant_id), str(backup.manifest.domain_id))
    assert "Disk layout, boot and packages" in text


def test_who_may_not_know_the_vault_gets_it_without_the_bucket(world: World) -> None:
    keep(world)

    parsed = build_parser().parse_args(command_in(page(world, "owner_a1"))[1:])

    assert (parsed.bucket, parsed.endpoint_url) == ("BUCKET", "URL")


@pytest.mark.parametrize("changes", [{"has_configuration": False}, {"content": "disk"}])
def test_a_backup_without_such_facts_says_nothing_of_them(world: World, changes: dict[str, object]) -> None:
    keep(world, **changes)

    assert "backupsite-restore facts" not in page(world, "admin_a")


def test_the_api_says_that_there_are_facts_and_warns_of_a_part(world: World) -> None:
    warning = {"code": "part_of_server", "message": "Only /srv of this server is in its backup."}
    backup = keep(world, warnings=[warning])

    told = world.client("admin_a").get(f"/api/v1/backups/{backup.pk}/").json()

    assert told["has_configuration"] is True and told["warnings"] == [warning]
    assert warning["message"] in page(world, "admin_a")


def file_command_in(text: str) -> list[str]:
    return shlex.split(text[text.index("backupsite-restore restore") :].split("<")[0].replace("&#x27;", "'"))


def test_the_page_of_files_says_how_one_of_them_comes_to_ones_own_machine(world: World) -> None:
    """There is no download: data never passes the portal. The line is one that the tool takes."""
    backup = keep(world)
    assert backup.manifest is not None

    text = page(world, "admin_a")

    parsed = build_parser().parse_args(file_command_in(text)[1:])
    assert parsed.run is commands.run_restore and (parsed.to, parsed.path) == ("DIRECTORY", ["PATH"])
    assert backup.manifest.sha256.startswith(parsed.backup)
    assert (parsed.bucket, parsed.domain) == (world.ours.vault.bucket, str(backup.manifest.domain_id))
    assert "the portal gives no download" in text
    # Within the portal: the third step of the wizard takes single files.
    assert "only the files and folders that you name in the third step" in text


@pytest.mark.parametrize(("name", "changes"), [("owner_a1", {}), ("admin_a", {"content": "disk"})])
def test_who_has_no_recovery_key_or_no_files_gets_no_such_line(
    world: World, name: str, changes: dict[str, object]
) -> None:
    keep(world, **changes)

    assert "backupsite-restore restore" not in page(world, name)
