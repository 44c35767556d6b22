"""Repack in the service: mostly dead packs go although manifests name them, and nothing promised goes with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from unittest import mock

import pytest
from django.conf import settings

from backups import opening
from backups.accounting import recompute
from backups.lock_coverage import coverage_of
from backups.models import Backup
from backups.moved_packs import moved_packs_of
from backups.moves import moves_for
from backups.removal import live_records, rounds, switching
from backups.states import JobKind, JobState
from tests import factories
from tests.removal.chunk_movers import mover_of
from tests.removal.real_writer import BLOCK, IMAGE_BLOCKS, KillableStore, Mover
from tests.removal.world import World, advance, now, running
from vaults.models import Envelope, MovedPack, ObjectUse, RelocatedPack, Removal, StoredObject
from vaults.own_objects import NO_SESSION

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)
# Packs hold three blocks: of each of these two are rewritten.
MOSTLY = [number for number in range(30) if number % 3]


@contextmanager
def disk(content: str = "disk") -> Iterator[tuple[World, Mover]]:
    image = b"".join(bytes([number + 1]) * BLOCK for number in range(IMAGE_BLOCKS))
    with running(KillableStore(now=now)) as (world, clock), mover_of(world, content, bytearray(image)) as mover:
        world.wait = lambda by: advance(clock, world, by)
        world.reconcile()
        yield world, mover


def change(mover: Mover, *blocks: int, text: bytes = b"new!") -> None:
    for number in blocks:
        mover.image[number * BLOCK : number * BLOCK + len(text)] = text


def days(world: World, count: int) -> None:
    """That many days of service; of many, every fifth."""
    step = 5 if count > 20 else 1
    for _ in range(count // step):
        world.wait(DAY * step)
        world.reconcile()
        world.run_removal()
        world.reap()
        world.check()


def mostly_dead(world: World, mover: Mover) -> Backup:
    """A backup that still needs a third of most packs of one that was removed, some days later."""
    mover.back_up()
    change(mover, *MOSTLY)
    second = mover.back_up()
    world.remove_backup(0)
    days(world, 3)
    return second


def moved(backup: Backup) -> list[StoredObject]:
    return list(moved_packs_of(backup.manifest).order_by("pk"))


def test_a_chain_restores_after_the_old_packs_are_gone_and_the_next_backup_builds_on_it() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        content = bytes(mover.image)

        report = world.repack()
        old = moved(second)
        assert report.moved_packs == len(old) >= 9 and not report.refused_packs
        assert mover.restored(second) == content
        days(world, 60)

        assert {row.status for row in moved(second)} == {"deleted"}
        assert not {f"{world.vault.bucket}/{row.key}" for row in old} & world.keys_in_store()
        assert world.keys_in_store() == world.keys_needed()
        assert mover.restored(second) == content
        change(mover, 40, text=b"third")
        mover.sent.clear()
        third = mover.back_up()
        assert sum("/p/" in key for key in mover.sent) == 1, "what was moved was sent again"
        assert set(moved(third)) == set(old)
        assert mover.restored(third) == bytes(mover.image)
        world.remove_backup(0)
        days(world, 60)
        assert Backup.objects.in_catalogue().get() == third
        assert mover.restored(third) == bytes(mover.image)
        assert world.keys_in_store() == world.keys_needed()
        assert not coverage_of(world.vault, now=now()).violation_count


def test_daily_backups_do_not_lock_the_old_pack_any_further() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        old = moved(second)
        locked = {row.pk: row.retain_until for row in old}

        for number in range(14):
            change(mover, 50, text=b"%05d" % number)
            mover.back_up()
            world.remove_backup(0)
            world.wait(2 * DAY)
            days(world, 1)

        for row in old:
            row.refresh_from_db()
            assert row.status == "deleted" and row.retain_until == locked[row.pk]
        newest = Backup.objects.in_catalogue().order_by("-sequence").first()
        assert moved(newest) == old and mover.restored(newest) == bytes(mover.image)
        stand_ins = StoredObject.objects.filter(session_id=NO_SESSION, kind__in="pr", used_by__manifest=newest.manifest)
        assert all(row.retain_until >= newest.immutable_until for row in stand_ins.distinct())


def test_a_session_that_was_open_during_the_switch_commits() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        change(mover, 41)
        request = mover._write

        def late(session, sink):
            result = request(session, sink)
            world.repack()
            return result

        with mock.patch.object(mover, "_write", late):
            third = mover.back_up()

        assert moved(third) == moved(second) != []
        days(world, 60)
        assert mover.restored(third) == bytes(mover.image)
        assert world.keys_in_store() == world.keys_needed()


def test_a_manifest_that_was_committed_during_the_repack_keeps_the_old_pack() -> None:
    """It is not among those whose records were copied, so its own use stands; the next run moves it, too."""
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        real = switching.switch

        def late(*args, **options):
            change(mover, 42)
            mover.back_up()
            return real(*args, **options)

        with mock.patch("backups.removal.repacking.switch", late):
            world.repack()
        third = Backup.objects.in_catalogue().order_by("-sequence").first()

        assert moved(second) and not moved(third)
        days(world, 60)
        assert {row.status for row in moved(second)} == {"stored"}
        world.repack()
        assert {row.pk for row in moved(third)} == {row.pk for row in moved(second)}
        days(world, 60)
        for backup in (second, third):
            world.check_whole(backup)
        assert mover.restored(third) == bytes(mover.image)


def test_a_restore_that_began_before_keeps_the_old_packs_until_it_ends() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        job = factories.make_job(second.server, kind=JobKind.RESTORE, backup=second)
        world.repack()

        days(world, 60)
        assert {row.status for row in moved(second)} == {"stored"}
        type(job).objects.filter(pk=job.pk).update(state=JobState.CANCELED)
        days(world, 30)

        assert {row.status for row in moved(second)} == {"deleted"}
        assert mover.restored(second) == bytes(mover.image)


def test_a_restore_is_told_where_things_are_and_a_writer_does_not_distrust_them() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        days(world, 60)
        names = {row.sha256 for row in moved(second)}

        assert set(opening._gone(second.manifest)) == names
        assert opening._distrusted(second) == []
        relocation = moves_for(second.manifest)[0]
        StoredObject.objects.filter(used_by__manifest=relocation, kind="p").update(
            damaged_since=now(), damage="missing"
        )
        assert set(opening._distrusted(second)) >= names


def test_a_bad_stand_in_brings_the_old_pack_back_while_it_is_there() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        names = {row.pk for row in moved(second)}
        days(world, 1)
        copies = StoredObject.objects.filter(session_id=NO_SESSION, kind="p")
        copies.update(damaged_since=now(), damage="wrong_bytes")
        for row in copies:
            world.store._versions.pop(f"{world.vault.bucket}/{row.key}")

        days(world, 60)

        assert not moved(second)
        assert set(StoredObject.objects.filter(pk__in=names).values_list("status", flat=True)) == {"stored"}
        assert set(ObjectUse.objects.filter(manifest=second.manifest).values_list("needed_id", flat=True)) >= names
        assert mover.restored(second) == bytes(mover.image)


def test_nothing_is_condemned_while_a_stand_in_is_not_in_the_vault_as_it_was() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        copy = StoredObject.objects.filter(session_id=NO_SESSION, kind="p").first()
        versions = world.store._versions.pop(f"{world.vault.bucket}/{copy.key}")
        world.wait(timedelta(hours=3))

        world.run_removal()

        assert world.vault.removal_runs.latest("epoch").outcome != "ok"
        assert set(
            StoredObject.objects.filter(moved_from__manifest=second.manifest).values_list("status", flat=True)
        ) == {"stored"}
        world.store._versions[f"{world.vault.bucket}/{copy.key}"] = versions
        days(world, 60)
        assert {row.status for row in moved(second)} == {"deleted"}


@pytest.mark.parametrize("trouble", ["lost copy", "lost relocation", "short lock", "wrong bytes"])
def test_nothing_is_moved_when_the_proof_fails(trouble: str) -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        real = switching.switch

        def damage(*args, **options):
            kind = "/r/" if trouble == "lost relocation" else "/p/"
            row = next(row for row in options["new"] if kind in row.key)
            versions = world.store._versions[f"{world.vault.bucket}/{row.key}"]
            if trouble.startswith("lost"):
                versions.clear()
            elif trouble == "short lock":
                object.__setattr__(versions[0], "retain_until", now())
            else:
                object.__setattr__(versions[0], "data", bytes(len(versions[0].data)))
            return real(*args, **options)

        before = set(ObjectUse.objects.filter(manifest=second.manifest).values_list("needed_id", flat=True))
        with mock.patch("backups.removal.repacking.switch", damage), pytest.raises(Exception) as raised:
            world.repack()

        assert getattr(raised.value, "code", "") in {"verification_failed", "store_refused", "storage_refused"}
        assert not MovedPack.objects.exists() and not RelocatedPack.objects.exists()
        assert set(ObjectUse.objects.filter(manifest=second.manifest).values_list("needed_id", flat=True)) == before


def test_what_a_run_left_that_was_broken_off_goes_and_stops_nothing() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        with mock.patch("backups.removal.repacking.switch", side_effect=KeyError), pytest.raises(KeyError):
            world.repack()
        left = {row.key for row in StoredObject.objects.filter(session_id=NO_SESSION, kind__in="pr")}
        assert len(left) >= 2

        days(world, 1)
        assert not world.vault.__class__.objects.get().removal_stopped
        days(world, 40)

        assert set(StoredObject.objects.filter(key__in=left).values_list("status", flat=True)) == {"deleted"}
        assert mover.restored(second) == bytes(mover.image)


@pytest.mark.parametrize(
    "limits", [{"repack_dead_percent": 90}, {"repack_lock_days": 5}, {"repack_bytes_per_day": 100}]
)
def test_what_is_live_enough_or_locked_for_long_or_beyond_the_budget_stays(limits: dict[str, int]) -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        with mock.patch.object(settings, "CONFIG", settings.CONFIG.model_copy(update=limits)):
            report = world.repack()

        assert report.moved_packs == 0 and not moved(second)
        assert not StoredObject.objects.filter(session_id=NO_SESSION, kind="p").exists()


def test_the_budget_is_one_of_a_day() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        limits = {"repack_bytes_per_day": 3000}
        with mock.patch.object(settings, "CONFIG", settings.CONFIG.model_copy(update=limits)):
            world.repack()
            first = len(moved(second))
            world.repack()
            assert len(moved(second)) - first <= 1
            days(world, 2)
            world.repack()

        assert 0 < first < len(moved(second))
        copied = StoredObject.objects.filter(session_id=NO_SESSION, kind="p", granted_at__gt=now() - DAY)
        assert sum(copied.values_list("size_bytes", flat=True)) < 2 * 3000


def test_a_pack_that_is_not_what_its_name_says_is_passed_over() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        change(mover, 60)
        bad = (
            StoredObject.objects.filter(kind="p", used_by__manifest=second.manifest)
            .order_by("granted_at", "pk")
            .first()
        )
        versions = world.store._versions[f"{world.vault.bucket}/{bad.key}"]
        whole = versions[0].data
        object.__setattr__(versions[0], "data", whole[:-1] + b"x")

        report = world.repack()

        assert report.refused_packs == 1 and report.moved_packs >= 8
        assert bad not in moved(second)
        object.__setattr__(versions[0], "data", whole)
        days(world, 60)
        assert mover.restored(second) == bytes(mover.image[: 60 * BLOCK]) + bytes([61]) * BLOCK + bytes(
            mover.image[61 * BLOCK :]
        )


def test_a_manifest_whose_counts_are_not_those_of_its_map_keeps_its_packs() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        real = live_records.mapped_records

        def one_less(**arguments):
            found = real(**arguments)
            next(found)
            return found

        with mock.patch.object(live_records, "mapped_records", one_less):
            world.repack()
        count = len(moved(second))
        world.repack()

        assert len(moved(second)) == count + 1


def test_accounts_and_locks_follow_the_move() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        before = second.unique_bytes + second.shared_bytes
        world.repack()
        second.refresh_from_db()

        assert second.unique_bytes + second.shared_bytes < before
        assert recompute(world.domain.pk) == 0
        assert not coverage_of(world.vault, now=now()).violation_count
        days(world, 60)
        assert recompute(world.domain.pk) == 0
        assert not coverage_of(world.vault, now=now()).violation_count


# --- catalogues that are made again -----------------------------------------------------------------------------------


def test_a_backup_whose_packs_are_gone_is_adopted_through_its_relocations() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        days(world, 60)
        key, names = second.manifest.key, {row.sha256 for row in moved(second)}
        needed = set(second.manifest.uses.values_list("needed__key", flat=True))
        forget_all()

        world.reconcile()

        again = Backup.objects.get(manifest__key=key)
        assert {row.sha256 for row in moved(again)} == names
        assert set(again.manifest.uses.values_list("needed__key", flat=True)) == needed
        assert again.immutable_until <= min(row.retain_until for row in StoredObject.objects.filter(status="stored"))
        days(world, 60)
        assert mover.restored(again) == bytes(mover.image)
        change(mover, 44)
        third = mover.back_up()
        assert {row.sha256 for row in moved(third)} == names
        assert mover.restored(third) == bytes(mover.image)


@pytest.mark.parametrize("lost", ["/r/", "/p/"])
def test_a_backup_whose_packs_are_gone_and_not_covered_is_told(lost: str) -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        days(world, 60)
        key = second.manifest.key
        row = StoredObject.objects.filter(session_id=NO_SESSION, key__contains=lost).first()
        forget_all()
        world.store._versions.pop(f"{world.vault.bucket}/{row.key}")

        world.reconcile()

        assert not Backup.objects.exists() and not MovedPack.objects.exists()
        told = world.vault.alarms.standing().get(code="unknown_objects").message
        assert f"{key} needs" in told


def forget_all() -> None:
    """The database is older than everything in the vault."""
    Backup.objects.update(manifest=None, status="pending")
    type(Backup.objects.first()).objects.all().delete()
    for model in (MovedPack, RelocatedPack, ObjectUse):
        model.objects.all().delete()
    Envelope.objects.all().delete()
    Removal.objects.all().delete()
    StoredObject.objects.all().delete()
    rounds.fence_after_database_restore(now=now())
