"""Removal step by step: what goes, what stays, and what stops it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backups.models import Backup
from backups.states import JobState
from engine.store.memory import Fault
from tests import factories
from tests.removal.world import World, advance, now, running
from vaults.models import Alarm, Removal, RemovalRun, StoredObject, Vault

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


def _back_up(world: World, *, packs: int = 2, keep: int | None = None) -> Backup:
    writer = world.start_session()
    assert writer is not None
    if keep is not None:
        writer.reused = writer.reused[:keep]
    for _ in range(packs):
        world.put_pack(writer)
    job = world.commit(writer)
    assert job.state == JobState.OK, job.message
    return job.backup


def _months(world: World, clock, *, days: int = 60) -> None:
    """That many days of service; of many, every third."""
    step = 3 if days > 30 else 1
    for _ in range(days // step):
        advance(clock, world, DAY * step)
        world.reconcile()
        world.run_removal()
        world.reap()
        world.check()


def test_what_only_a_removed_backup_needs_goes_after_its_lock_and_the_rest_stays() -> None:
    with running() as (world, clock):
        _back_up(world, packs=3)
        second = _back_up(world, packs=1, keep=1)
        before = world.keys_in_store()
        world.remove_backup(0)

        _months(world, clock)

        assert world.keys_in_store() == world.keys_needed() < before
        assert Backup.objects.in_catalogue().get() == second
        gone = StoredObject.objects.filter(status="deleted")
        assert {f"{world.vault.bucket}/{row.key}" for row in gone} == before - world.keys_needed()
        assert all(row.deleted_at > row.retain_until for row in gone)


def test_what_a_crashed_session_left_goes_too() -> None:
    with running() as (world, clock):
        writer = world.start_session()
        world.put_pack(writer)
        world.fail(writer)

        _months(world, clock)

        assert not world.keys_in_store()
        assert set(StoredObject.objects.values_list("status", flat=True)) == {"deleted"}


def test_nothing_goes_while_a_manifest_cannot_be_read() -> None:
    with running() as (world, clock):
        _back_up(world)
        _back_up(world, keep=0)
        world.remove_backup(0)
        kept = Backup.objects.in_catalogue().get().manifest
        world.reconcile()
        advance(clock, world, DAY * 40)
        world.reconcile()
        lost = world.store._versions.pop(f"{world.vault.bucket}/{kept.key}")
        before = world.keys_in_store()

        for _ in range(4):
            advance(clock, world, DAY / 2)
            world.run_removal()
            world.reap()

        assert world.keys_in_store() == before
        assert Alarm.objects.standing().filter(code="removal_stopped").exists()
        assert not RemovalRun.objects.filter(outcome="ok").exists()
        world.store._versions[f"{world.vault.bucket}/{kept.key}"] = lost


def test_a_vault_that_was_not_reconciled_is_left_alone() -> None:
    with running() as (world, clock):
        _back_up(world)
        advance(clock, world, DAY * 40)

        world.run_removal()

        assert not RemovalRun.objects.exists()


def test_at_most_a_fifth_goes_in_one_run() -> None:
    with running() as (world, clock):
        _back_up(world, packs=30)
        _back_up(world, packs=1, keep=0)
        world.remove_backup(0)
        _months(world, clock, days=30)
        world.reconcile()
        for run in RemovalRun.objects.all():
            assert run.deleting_objects <= max(1, 36 // 5)
        assert StoredObject.objects.filter(status="deleted").count() > 20


@pytest.mark.case("RS-12")
def test_a_restore_under_way_holds_what_it_reads() -> None:
    with running() as (world, clock):
        backup = _back_up(world)
        job = factories.make_job(backup.server, kind="restore", backup=backup)
        Backup.objects.filter(pk=backup.pk).update(removed_at=backup.created_at)
        before = world.keys_in_store()

        _months(world, clock)
        assert world.keys_in_store() == before

        job.state = JobState.CANCELED
        job.save()
        _months(world, clock)
        assert not world.keys_in_store()


def test_a_commit_takes_back_what_was_condemned_meanwhile() -> None:
    """A session that opened between the two looks of a mark is seen by neither; its commit settles it."""
    with running() as (world, _clock):
        _back_up(world)
        writer = world.start_session()
        StoredObject.objects.filter(kind="p").update(status="condemned", condemned_epoch=9, condemned_at=now())

        job = world.commit(writer)

        assert job.state == JobState.OK, job.message
        assert set(StoredObject.objects.filter(kind="p").values_list("status", flat=True)) == {"stored"}
        world.check()


def test_a_commit_is_refused_when_what_it_needs_is_being_removed() -> None:
    with running() as (world, _clock):
        _back_up(world)
        writer = world.start_session()
        pack = StoredObject.objects.filter(kind="p").first()
        StoredObject.objects.filter(pk=pack.pk).update(status="deleting", condemned_epoch=1, condemned_at=now())

        job = world.commit(writer)

        assert job.state == JobState.FAILED
        assert not Backup.objects.filter(pk=writer.session.job.backup_id).exists()


@pytest.mark.case("CP-14")
def test_after_a_database_was_restored_unknown_objects_are_adopted_and_nothing_is_removed() -> None:
    with running() as (world, clock):
        _back_up(world)
        second = _back_up(world, keep=1)
        world.reconcile()
        body = world.body_of(second)
        # As if the copy of the database was made between the two backups.
        own = StoredObject.objects.filter(session_id=second.jobs.get().sessions.get().pk)
        keys = set(own.values_list("key", flat=True))
        second.manifest.uses.all().delete()
        second.jobs.all().delete()
        second.delete()
        own.delete()
        advance(clock, world, DAY)

        world.reconcile()

        found = Backup.objects.get(sequence=body.sequence)
        assert world.body_of(found) == body
        assert set(StoredObject.objects.values_list("key", flat=True)) >= keys
        vault = Vault.objects.get(pk=world.vault.pk)
        assert vault.removal_stopped and vault.reconciled_at is None
        world.run_removal()
        assert not RemovalRun.objects.exists()
        world.check()

        world.reconcile()
        vault.refresh_from_db()
        assert not vault.removal_stopped and vault.reconciled_at


def test_a_second_name_for_one_content_does_not_stop_removal() -> None:
    with running() as (world, _clock):
        backup = _back_up(world)
        pack = StoredObject.objects.filter(kind="p").first()
        alias = StoredObject.objects.get(pk=pack.pk)
        alias.pk, alias.key = None, pack.key + "-alias"
        alias.save()
        world.store.put_object(key=f"{world.vault.bucket}/{alias.key}", data=b"x", retain_until=pack.retain_until)
        Vault.objects.update(reconciled_at=now())

        world.run_removal()

        run = RemovalRun.objects.get()
        assert (run.outcome, run.condemned_objects) == ("ok", 0), run.message
        assert backup.manifest.status == "stored"


def test_the_fifth_is_for_a_day_however_often_it_runs() -> None:
    with running() as (world, clock):
        _back_up(world, packs=30)
        _back_up(world, packs=1, keep=0)
        world.remove_backup(0)
        for _ in range(2):
            advance(clock, world, DAY * 20)
            world.reconcile()
            world.run_removal()
        total = len(world.keys_in_store())
        for _ in range(20):
            advance(clock, world, DAY / 24)
            world.reconcile()
            world.run_removal()
            world.reap()

        assert 0 < total - len(world.keys_in_store()) <= total // 5


def test_whoever_stops_removal_stops_what_was_ordered() -> None:
    with running() as (world, clock):
        writer = world.start_session()
        world.put_pack(writer)
        world.fail(writer)
        for _ in range(10):
            advance(clock, world, DAY * 3)
            world.reconcile()
            world.run_removal()
        assert StoredObject.objects.filter(status="deleting").exists()
        before = world.keys_in_store()
        Vault.objects.update(removal_stopped="I want to look first.")

        assert world.reap() == 0
        assert world.keys_in_store() == before

        Vault.objects.update(removal_stopped="")
        assert world.reap() > 0


def test_a_silent_vault_does_not_keep_the_reaper_from_the_others() -> None:
    with running() as (world, clock):
        writer = world.start_session()
        world.put_pack(writer)
        world.fail(writer)
        for _ in range(10):
            advance(clock, world, DAY * 3)
            world.reconcile()
            world.run_removal()
        orders = Removal.objects.filter(done_at=None)
        count = orders.count()
        assert count
        world.store.faults = {world.store.operation_count: Fault.BEFORE}

        assert world.reap() == 0
        assert orders.filter(try_after__gt=now()).count() == count
        advance(clock, world, DAY)
        assert world.reap() == count


def test_what_came_back_can_be_deleted_again() -> None:
    with running() as (world, clock):
        writer = world.start_session()
        world.put_pack(writer)
        world.fail(writer)
        snapshot = {key: list(versions) for key, versions in world.store._versions.items()}
        _months(world, clock)
        assert not world.keys_in_store()

        # The bucket is set back to an earlier state.
        world.store._versions.update(snapshot)
        _months(world, clock)

        assert not world.keys_in_store()
        assert not RemovalRun.objects.exclude(outcome="ok").exists()
