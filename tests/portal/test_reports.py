"""Health, damage, space and locks in the portal: shown to whom they concern, and to nobody else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from backups.models import Backup
from tests.factories import make_backup, make_manifest
from tests.worlds import World
from vaults.models import ObjectUse

OVERVIEW = "/vaults/overview/"


def text_of(world: World, name: str, address: str) -> str:
    answer = world.client(name).get(address)
    assert answer.status_code == 200
    return str(answer.content.decode())


def page(world: World) -> str:
    return f"/backups/{world.ours.backup.pk}/"


def change(world: World, **fields: Any) -> None:
    Backup.objects.filter(pk=world.ours.backup.pk).update(**fields)


def test_a_backup_says_whether_it_was_checked(world: World) -> None:
    assert "not yet" in text_of(world, "owner_a1", page(world))
    change(world, health="verified", verified_at=timezone.now())

    text = text_of(world, "owner_a1", page(world))

    assert ">verified<" in text
    assert "not yet" not in text
    assert "Only your own key" not in text


def test_a_damaged_backup_says_what_cannot_be_restored(world: World) -> None:
    damage = [[4096 * number, 512] for number in range(25)]
    change(world, health="damaged", damage=damage, damaged_bytes=25 * 512)

    text = text_of(world, "owner_a1", page(world))

    assert ">damaged<" in text
    assert "from byte 4096 on" in text
    assert "and 15 more places" in text
    assert 'title="12,800 bytes"' in text


def test_a_pending_backup_says_nothing_of_its_health(world: World) -> None:
    pending = make_backup(world.ours.server, status="pending")

    assert "Whether it can be restored" not in text_of(world, "admin_a", f"/backups/{pending.pk}/")


def test_damage_needs_a_person_who_sees_the_backup(world: World) -> None:
    change(world, health="damaged", damage=[[0, 512]], damaged_bytes=512)

    for name, sees in (("super", True), ("admin_a", True), ("owner_a1", True), ("owner_a2", False), ("admin_b", False)):
        text = text_of(world, name, "/")
        assert ("Backup damaged" in text and world.ours.backup.name in text) == sees, name


def test_alarms_are_shown_to_who_sees_the_vault(world: World) -> None:
    for name, sees in (("super", True), ("admin_a", True), ("owner_a1", False), ("admin_b", False)):
        text = text_of(world, name, "/")
        assert ("of a</div>" in text.replace("\n", "") or ": of a" in text) == sees, name
    assert ": of b" in text_of(world, "super", "/")
    world.ours.alarm.cleared_at = timezone.now()
    world.ours.alarm.save()
    assert ": of a" not in text_of(world, "admin_a", "/")


def test_a_server_s_page_counts_its_space(world: World) -> None:
    server, backup = world.ours.server, world.ours.backup
    server.domain = backup.manifest.domain
    server.save()
    change(world, unique_bytes=1000)
    spare = make_manifest(world.ours.vault)
    spare.domain = server.domain
    spare.size_bytes = 3072
    spare.save()

    text = text_of(world, "owner_a1", f"/servers/{server.pk}/")

    assert 'title="1,000 bytes"' in text
    assert "Needed by none" in text and "3.0 KiB" in text


@pytest.mark.parametrize("name", ["super", "admin_a", "admin_b", "owner_a1"])
def test_the_overview_holds_exactly_the_vaults_that_one_sees(world: World, name: str) -> None:
    text = text_of(world, name, OVERVIEW)

    for estate, sees in ((world.ours, name in {"super", "admin_a"}), (world.theirs, name in {"super", "admin_b"})):
        assert (estate.vault.name in text) == sees
        assert (estate.tenant.title in text) == sees
    loads = OVERVIEW in text_of(world, name, "/")
    assert loads == (name != "owner_a1")


def test_the_overview_says_when_locks_are_short(world: World) -> None:
    assert "as promised" in text_of(world, "admin_a", OVERVIEW)
    manifest = world.ours.backup.manifest
    row = make_manifest(world.ours.vault)
    row.retain_until = timezone.now() + timedelta(days=1)
    row.save()
    ObjectUse.objects.create(manifest=manifest, needed=row)

    assert "1 shorter than promised" in " ".join(text_of(world, "admin_a", OVERVIEW).split())


def test_the_overview_is_for_who_signed_in(world: World) -> None:
    assert world.client("anonymous").get(OVERVIEW).status_code == 302
