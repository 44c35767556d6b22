"""Packs of streams and file trees are repacked as those of disks are: one life of each, to the very end."""

from __future__ import annotations

from pathlib import Path

import pytest

from backups.damage import review_damage
from backups.lock_coverage import coverage_of
from backups.models import Backup
from backups.removal import live_records
from backups.states import BackupHealth
from engine.alone.catalogue import OpenDomain
from engine.alone.checking import check_domain
from tests.alone.support import ModelBucket
from tests.removal.chunk_movers import StreamMover, TreeMover
from tests.removal.test_repack import change, days, disk, forget_all, mostly_dead, moved
from tests.removal.test_repack_alone import bucket_alone, restored_to
from tests.removal.test_repack_attacks import check_with_keys, copies, lose
from tests.removal.world import now

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("content", ["stream", "tree"])
def test_a_chain_outlives_its_old_packs(content: str, tmp_path: Path) -> None:
    with disk(content) as (world, mover):
        second = mostly_dead(world, mover)
        bytes_of_it = bytes(mover.image)

        report = world.repack()

        old = moved(second)
        assert report.moved_packs == len(old) >= 5 and not report.refused_packs
        days(world, 60)
        assert {row.status for row in moved(second)} == {"deleted"}
        assert world.keys_in_store() == world.keys_needed()
        assert mover.restored(second) == bytes_of_it
        assert check_with_keys(second) == "verified"
        change(mover, 40, text=b"third")
        mover.sent.clear()
        third = mover.back_up()
        assert sum("/p/" in key for key in mover.sent) == 1, "what was moved was sent again"
        assert set(moved(third)) == set(old)
        assert not coverage_of(world.vault, now=now()).violation_count

        bucket, domain = bucket_alone(world)
        assert check_domain(bucket, domain, read_data=True).is_sound
        assert _restored_alone(mover, bucket, domain, second, tmp_path / "alone") == bytes_of_it
        without, domain = bucket_alone(world, without=copies()[0].key)
        bad = check_domain(without, domain, read_data=False).bad_objects
        assert {name for found in bad for name in found.backups} == {second.manifest.sha256, third.manifest.sha256}

        names, keys = {row.sha256 for row in old}, {backup.manifest.key for backup in (second, third)}
        forget_all()
        days(world, 2)
        for again in Backup.objects.filter(manifest__key__in=keys):
            assert {row.sha256 for row in moved(again)} == names
            keys.remove(again.manifest.key)
        assert not keys and mover.restored(again) in (bytes_of_it, bytes(mover.image))


@pytest.mark.parametrize("content", ["stream", "tree"])
def test_a_copy_that_is_lost_is_told_and_healed_by_the_next_backup(content: str) -> None:
    with disk(content) as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        days(world, 60)
        lose(world, copies())

        review_damage(vault_id=world.vault.pk, now=now(), everything=True)

        second.refresh_from_db()
        assert second.health == BackupHealth.DAMAGED and 0 < second.damaged_bytes < second.size_bytes / 2
        if content == "tree":
            assert all(isinstance(found, dict) for found in second.damage), "files are named"
        healing = mover.back_up()
        assert not moved(healing)
        review_damage(vault_id=world.vault.pk, now=now(), everything=True)
        second.refresh_from_db()
        assert (second.health, second.damage) == (BackupHealth.UNVERIFIED, [])
        for backup in (second, healing):
            assert mover.restored(backup) == bytes(mover.image)


def test_packs_with_too_many_live_records_stay_and_the_emptier_ones_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        monkeypatch.setattr(live_records, "RECORDS_AT_ONCE", 5)

        report = world.repack()

        # One record is live in each of those that are mostly dead, three in the others.
        assert 0 < report.moved_packs == len(moved(second)) <= 5
        monkeypatch.undo()
        world.repack()
        assert len(moved(second)) >= 9
        days(world, 60)
        assert mover.restored(second) == bytes(mover.image)


def _restored_alone(mover: StreamMover, bucket: ModelBucket, domain: OpenDomain, backup: Backup, target: Path) -> bytes:
    if isinstance(mover, TreeMover):
        target.mkdir()
    restored_to(bucket, domain, backup, target)
    return mover.image_at(target)
