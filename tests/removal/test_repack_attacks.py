"""Repack against its enemies: crashes, second runs, copies of the database, copies that go bad later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from unittest import mock

import msgspec
import pytest
from django.db import transaction

from backups import content, verifier
from backups.checking import Outcome
from backups.damage import review_backup, review_damage
from backups.lock_coverage import coverage_of
from backups.models import Backup
from backups.removal import live_records, rounds, switching
from backups.states import BackupHealth
from engine.manifest import CONTENT_TREE
from tests.removal.forging import forge
from tests.removal.real_writer import BLOCK, KilledError
from tests.removal.test_repack import DAY, change, days, disk, forget_all, mostly_dead, moved
from tests.removal.world import World, now
from vaults.models import Alarm, MovedPack, ObjectUse, RelocatedPack, StoredObject
from vaults.own_objects import NO_SESSION

pytestmark = pytest.mark.django_db


def copies() -> list[StoredObject]:
    return list(StoredObject.objects.filter(session_id=NO_SESSION, kind="p").order_by("pk"))


def lose(world: World, rows: list[StoredObject]) -> None:
    """Not in the vault any more, and the ledger knows it."""
    for row in rows:
        world.store._versions.pop(f"{world.vault.bucket}/{row.key}")
        StoredObject.objects.filter(pk=row.pk).update(damaged_since=now(), damage="missing")


def standing_alarms(world: World) -> set[str]:
    return set(Alarm.objects.standing().filter(vault=world.vault).values_list("code", flat=True))


@contextmanager
def database_restored_later() -> Iterator[None]:
    """What the database is told within is forgotten afterwards: a copy from before is brought back."""
    copy = transaction.savepoint()
    yield
    transaction.savepoint_rollback(copy)
    rounds.fence_after_database_restore(now=now())


# --- crashes and second runs ------------------------------------------------------------------------------------------


def test_a_run_that_is_killed_at_any_store_call_loses_nothing_and_the_next_one_moves_all() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        bytes_of_it = bytes(mover.image)
        store, rows = world.store.snapshot(), transaction.savepoint()
        begun = world.store.operation_count
        world.repack()
        total, expected = world.store.operation_count - begun, {row.pk for row in moved(second)}
        assert total >= 20 and len(expected) >= 9

        for after in (False, True):
            for number in range(total):
                transaction.savepoint_rollback(rows)
                world.store.bring_back(store)
                rows = transaction.savepoint()
                world.store.kill_at, world.store.kill_after = world.store.operation_count + number, after
                with suppress(KilledError):
                    world.repack()
                world.store.kill_at = None
                assert mover.restored(second) == bytes_of_it
                world.repack()

                assert {row.pk for row in moved(second)} == expected
                assert mover.restored(second) == bytes_of_it
                assert not coverage_of(world.vault, now=now()).violation_count


def test_of_two_runs_at_once_one_moves_and_the_other_leaves_nothing_for_good() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        real = switching.switch

        def overtaken(*args, **options):
            with mock.patch("backups.removal.repacking.switch", real):
                assert world.repack().moved_packs
            return real(*args, **options)

        with mock.patch("backups.removal.repacking.switch", overtaken):
            report = world.repack()

        assert report.moved_packs == 0 and report.copied_bytes
        days(world, 60)
        assert mover.restored(second) == bytes(mover.image)
        assert world.keys_in_store() == world.keys_needed(), "the copies of the slower run stay for good"


# --- copies that go bad later -----------------------------------------------------------------------------------------


def test_an_old_pack_that_is_needed_again_is_locked_as_long_as_was_promised_since() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        for number in range(8):
            change(mover, 50, text=b"%05d" % number)
            newest = mover.back_up()
            days(world, 1)
        old = moved(newest)
        assert old and {row.status for row in old} <= {"stored", "condemned"}
        assert any(row.retain_until < newest.immutable_until for row in old), "nothing is shown by this"

        lose(world, copies())
        days(world, 1)

        assert not moved(newest) and not moved(second)
        assert not coverage_of(world.vault, now=now()).violation_count
        world.check_whole(newest)
        assert mover.restored(newest) == bytes(mover.image)


def test_a_pack_whose_copy_went_bad_is_moved_again_and_no_alarm_stays() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        names = {row.pk for row in moved(second)}
        lose(world, bad := copies())
        days(world, 3)
        assert not moved(second) and "objects_missing" in standing_alarms(world)

        assert world.repack().moved_packs == len(names)
        days(world, 1)
        assert {row.pk for row in moved(second)} == names, "the new copy was blamed for the old one"
        days(world, 60)

        assert {row.status for row in moved(second)} == {"deleted"}
        assert set(StoredObject.objects.filter(pk__in=[row.pk for row in bad]).values_list("status", flat=True)) == {
            "deleted"
        }
        assert mover.restored(second) == bytes(mover.image)
        assert "objects_missing" not in standing_alarms(world)
        assert world.keys_in_store() == world.keys_needed()


def test_a_lock_that_cannot_be_lengthened_keeps_the_move_and_stops_the_run() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        days(world, 6)
        change(mover, 50)
        newest = mover.back_up()
        before = set(ObjectUse.objects.values_list("manifest", "needed"))
        lose(world, [*copies(), *moved(second)])
        StoredObject.objects.filter(pk__in=[row.pk for row in moved(second)]).update(damaged_since=None, damage="")

        world.run_removal()

        assert moved(second) and moved(newest)
        assert set(ObjectUse.objects.values_list("manifest", "needed")) == before
        assert "removal_stopped" in standing_alarms(world)


def test_a_copy_that_goes_bad_after_the_old_packs_are_gone_is_told_by_range_and_healed() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        days(world, 60)
        lost = [number for number in range(30) if number % 3 == 0]
        lose(world, copies())

        review_damage(vault_id=world.vault.pk, now=now(), everything=True)

        second.refresh_from_db()
        assert second.health == BackupHealth.DAMAGED
        assert second.damage == [[number * BLOCK, BLOCK] for number in lost[: len(second.damage)]]
        assert second.damaged_bytes == BLOCK * len(second.damage) >= 9 * BLOCK
        healing = mover.back_up()
        assert not moved(healing)
        review_damage(vault_id=world.vault.pk, now=now(), everything=True)
        second.refresh_from_db()
        assert (second.health, second.damage) == (BackupHealth.UNVERIFIED, [])
        for backup in (second, healing):
            assert mover.restored(backup) == bytes(mover.image)
        for _ in range(6):
            world.wait(10 * DAY)
            world.reconcile()
            world.run_removal()
            world.reap()
        assert mover.restored(second) == bytes(mover.image)


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_relocation_that_goes_bad_is_survived_while_the_old_packs_are_there_and_told_afterwards(
    is_gone: bool,
) -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        days(world, 60 if is_gone else 1)
        lose(world, list(StoredObject.objects.filter(session_id=NO_SESSION, kind="r")))

        review_backup(backup_id=second.pk)
        world.run_removal()

        second.refresh_from_db()
        if is_gone:
            assert second.health == BackupHealth.DAMAGED and second.damaged_bytes >= 9 * BLOCK
        else:
            assert not moved(second) and mover.restored(second) == bytes(mover.image)
            review_backup(backup_id=second.pk)
            second.refresh_from_db()
            assert second.health == BackupHealth.UNVERIFIED


def test_a_relocation_with_a_short_lock_can_be_read_all_the_same() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        days(world, 60)
        StoredObject.objects.filter(session_id=NO_SESSION).update(damaged_since=now(), damage="short_lock")

        opened = content.open_content(
            Backup.objects.select_related("manifest__domain", "vault__endpoint").get(pk=second.pk)
        )

        assert content.relocations_of(opened)
        # A review that is made for another object's sake must not take the moved blocks for lost.
        other = StoredObject.objects.filter(used_by__manifest=second.manifest, kind="p").exclude(session_id=NO_SESSION)
        lose(world, [other.order_by("-pk").first()])
        review_backup(backup_id=second.pk)
        second.refresh_from_db()
        assert 0 < second.damaged_bytes <= 4 * BLOCK


# --- checks with keys -------------------------------------------------------------------------------------------------


def check_with_keys(backup: Backup) -> Outcome:
    job = verifier.request_verification(backup=Backup.objects.get(pk=backup.pk), actor=None, now=now())
    verdict = verifier.verify_backup(job_id=job.pk, clock=now, beat_seconds=3600)
    assert verdict is not None
    return verdict.outcome


def test_a_check_with_keys_opens_what_was_moved_and_sees_when_it_is_lost() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        assert check_with_keys(second) == Outcome.VERIFIED
        days(world, 60)
        assert check_with_keys(second) == Outcome.VERIFIED
        second.refresh_from_db()
        assert second.health == BackupHealth.VERIFIED

        copy = copies()[0]
        versions = world.store._versions[f"{world.vault.bucket}/{copy.key}"]
        object.__setattr__(versions[0], "data", bytes(len(versions[0].data)))

        assert check_with_keys(second) == Outcome.DAMAGED
        second.refresh_from_db()
        copy.refresh_from_db()
        assert second.health == BackupHealth.DAMAGED and second.damaged_bytes
        assert copy.damage == "wrong_bytes"


# --- longer promises --------------------------------------------------------------------------------------------------


def test_a_longer_promise_after_the_move_locks_the_copies_as_long() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        old = {row.pk: row.retain_until for row in moved(second)}
        world.definition.immutable_days = 90
        world.definition.save()
        change(mover, 50)

        third = mover.back_up()

        assert third.immutable_until >= now() + 89 * DAY
        world.check_whole(third)
        assert {row.pk: row.retain_until for row in moved(third)} == old
        days(world, 60)
        assert not coverage_of(world.vault, now=now()).violation_count
        assert mover.restored(third) == bytes(mover.image)


# --- other contents in the domain -------------------------------------------------------------------------------------


def test_a_pack_that_a_tree_names_and_its_map_does_not_is_never_moved() -> None:
    """What it reads there is not known, and it may be the only one who needs it."""
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        body = world.body_of(second)
        shared = body.packs[0]
        key = forge(
            world,
            body,
            content=CONTENT_TREE,
            sequence=body.sequence + 7,
            block_size=0,
            fan_out=0,
            required_features=["file-tree"],
            packs=[msgspec.structs.replace(shared, use_count=1)],
        )
        world.wait(timedelta(hours=21))
        world.reconcile()
        assert not world.vault.alarms.filter(message__contains=key).exists(), world.vault.alarms.latest(
            "seen_at"
        ).message
        world.wait(timedelta(hours=2))
        world.reconcile()
        other = Backup.objects.get(manifest__key=key)
        pack = StoredObject.objects.get(sha256=shared.sha256.hex(), kind="p")
        StoredObject.objects.filter(granted_at__gt=now() - 3 * DAY).update(granted_at=now() - 3 * DAY)
        assert ObjectUse.objects.filter(manifest=other.manifest, needed=pack).exists()

        report = world.repack()

        assert report.moved_packs >= 8, "the packs that only the disk needs are moved"
        assert pack not in moved(second) and not MovedPack.objects.filter(manifest=other.manifest).exists()
        assert not RelocatedPack.objects.filter(pack=pack).exists()
        days(world, 60)
        pack.refresh_from_db()
        assert pack.status == "stored"
        assert ObjectUse.objects.filter(manifest=other.manifest, needed=pack).exists()
        assert mover.restored(second) == bytes(mover.image)


def test_two_maps_that_contradict_each_other_keep_the_pack_where_it_is() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        change(mover, 60)
        mover.back_up()
        days(world, 3)
        real, named = live_records.mapped_records, []

        def contradicting(**arguments):
            entries = list(real(**arguments))
            named.append(entries[0].object_name)
            wrong = named[1:] and named[1]
            return [entry._replace(nonce=bytes(12)) if entry.object_name == wrong else entry for entry in entries]

        with mock.patch.object(live_records, "mapped_records", contradicting):
            world.repack()

        kept = StoredObject.objects.get(sha256=named[1].hex())
        assert moved(second) and kept not in moved(second)


# --- copies of the database -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reaped", [True, False])
def test_a_database_from_before_the_move_learns_of_it(reaped: bool) -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        bytes_of_it = bytes(mover.image)
        with database_restored_later():
            world.repack()
            names = {row.sha256 for row in moved(second)}
            days(world, 60 if reaped else 1)
        assert not MovedPack.objects.exists()

        days(world, 2)

        assert mover.restored(second) == bytes_of_it
        assert {row.sha256 for row in moved(second)} == (names if reaped else set())
        change(mover, 50)
        mover.sent.clear()
        third = mover.back_up()
        assert sum("/p/" in key for key in mover.sent) == 1, "what was moved is not lost"
        days(world, 60)
        for backup in (second, third):
            world.check_whole(Backup.objects.get(pk=backup.pk))
        assert mover.restored(second) == bytes_of_it
        assert mover.restored(third) == bytes(mover.image)
        assert "objects_missing" not in standing_alarms(world)
        assert not coverage_of(world.vault, now=now()).violation_count


def test_a_database_that_was_copied_between_the_copies_and_the_switch_keeps_them() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        real, savepoints = switching.switch, []

        def copied(*args, **options):
            savepoints.append(transaction.savepoint())
            return real(*args, **options)

        with mock.patch("backups.removal.repacking.switch", copied):
            world.repack()
        days(world, 60)
        transaction.savepoint_rollback(savepoints[0])
        rounds.fence_after_database_restore(now=now())

        days(world, 120)

        assert mover.restored(second) == bytes(mover.image), "the only copy was taken for the rest of a broken-off run"
        assert moved(second) and "objects_missing" not in standing_alarms(world)


def test_a_missing_relocation_keeps_no_other_from_standing_in() -> None:
    """Adoption reads all relocations of the domain: one that is listed and gone must not stop it."""
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        change(mover, *range(0, 30, 3))
        mover.back_up()
        days(world, 60)
        key = second.manifest.key
        forget_all()
        row = StoredObject(
            vault=world.vault,
            domain=world.domain,
            session_id=world.domain.pk,
            kind="r",
            key=f"t/{world.vault.tenant_id}/d/{world.domain.pk}/r/{'0' * 64}",
            sha256="0" * 64,
            size_bytes=100,
            status="stored",
            version_id="gone",
            retain_until=now(),
            granted_at=now(),
        )
        row.save(force_insert=True)

        days(world, 2)

        assert moved(Backup.objects.get(manifest__key=key))
