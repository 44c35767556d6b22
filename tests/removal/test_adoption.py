"""Adoption and reconciling: what may be broken off, what may be forged, and what none of it may undo."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from unittest import mock

import pytest

from agents.models import WriterKey
from backups.models import Backup
from backups.removal import adoption, rounds
from backups.states import JobState
from backups.transitions import request_commit
from engine.errors import FormatError, StoreError
from tests import factories
from tests.removal.forging import forge, forget, large_pack, put, put_relocation, relocation_key
from tests.removal.world import World, advance, now, running
from vaults.models import Alarm, Envelope, ObjectUse, RelocatedPack, Removal, RemovalRun, StoredObject, Vault
from vaults.storage import StorageUnreachableError

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


def _stands(code: str) -> bool:
    return Alarm.objects.standing().filter(code=code).exists()


def _told() -> str:
    return Alarm.objects.standing().get(code="unknown_objects").message


def _vault(world: World) -> Vault:
    return Vault.objects.get(pk=world.vault.pk)


# --- broken off and tried again ---------------------------------------------------------------------------------------


def test_a_pass_that_was_broken_off_between_rows_and_backups_is_taken_up_again() -> None:
    with running() as (world, clock):
        _back_up(world)
        second = _back_up(world, keep=0)
        world.reconcile()
        body = world.body_of(second)
        forget(second)
        advance(clock, world, DAY)

        with mock.patch("backups.removal.adoption.read_object", side_effect=StorageUnreachableError("no answer")):
            world.reconcile()

        assert _stands("reconciling_failed") and _vault(world).removal_stopped
        assert StoredObject.objects.filter(kind="m", backup=None).exists()
        world.reconcile()
        assert world.body_of(Backup.objects.get(sequence=body.sequence)) == body
        world.reconcile()
        assert not _vault(world).removal_stopped and not _stands("reconciling_failed")
        for _ in range(20):
            advance(clock, world, DAY * 3)
            world.reconcile()
            world.run_removal()
            world.reap()
            world.check()
        assert Backup.objects.in_catalogue().count() == 2


def test_what_was_refused_is_tried_in_every_pass_and_removal_waits_for_it() -> None:
    with running() as (world, clock):
        _back_up(world)
        second = _back_up(world, keep=0)
        sequence = second.sequence
        forget(second)
        key = WriterKey.objects.get()
        WriterKey.objects.all().delete()

        for _ in range(3):
            advance(clock, world, DAY)
            world.reconcile()
            assert _stands("unknown_objects") and _vault(world).removal_stopped
            assert _vault(world).reconciled_at is None
            world.run_removal()
        assert not Backup.objects.filter(sequence=sequence).exists() and not RemovalRun.objects.exists()

        key.save(force_insert=True)
        world.reconcile()
        assert Backup.objects.filter(sequence=sequence).exists()
        world.reconcile()
        assert not _stands("unknown_objects") and not _vault(world).removal_stopped


def test_a_reason_that_somebody_else_gave_is_neither_replaced_nor_cleared() -> None:
    with running() as (world, _clock):
        backup = _back_up(world)
        forget(backup)
        Vault.objects.update(removal_stopped="I want to look first.")

        for _ in range(3):
            world.reconcile()
            assert _vault(world).removal_stopped == "I want to look first."
        rounds.fence_after_database_restore(now=now())

        assert _vault(world).removal_stopped == "I want to look first."
        assert not _stands("unknown_objects") and _vault(world).reconciled_at is None


def test_an_adopted_backup_takes_back_what_was_condemned() -> None:
    with running() as (world, _clock):
        _back_up(world)
        body = world.body_of(Backup.objects.get())
        StoredObject.objects.filter(kind="p").update(status="condemned", condemned_epoch=1, condemned_at=now())
        key = forge(world, body, sequence=2)

        world.reconcile()

        assert Backup.objects.filter(manifest__key=key).exists()
        assert set(StoredObject.objects.filter(kind="p").values_list("status", flat=True)) == {"stored"}


def test_a_removed_backup_stays_removed_and_an_own_session_that_failed_brings_none() -> None:
    with running() as (world, _clock):
        backup = _back_up(world)
        world.remove_backup(0)
        writer = world.start_session()
        world.put_pack(writer)
        manifest, _ = world._put_manifest(writer)
        world.fail(writer)

        world.reconcile()

        assert StoredObject.objects.get(key=manifest.key).status == "stored"
        assert Backup.objects.get() == backup and not Backup.objects.in_catalogue().exists()
        assert not _vault(world).removal_stopped and not _stands("unknown_objects")


def test_adopted_envelopes_are_recorded_even_when_the_pass_before_could_not() -> None:
    with running() as (world, _clock):
        keys = forget(_back_up(world))
        Envelope.objects.all().delete()

        with mock.patch("backups.removal.adoption.record_missing", side_effect=StorageUnreachableError("no answer")):
            world.reconcile()
        assert Backup.objects.exists() and not Envelope.objects.exists()
        world.reconcile()

        assert {envelope.stored_object.key for envelope in Envelope.objects.all()} == {
            key for key in keys if "/k/" in key
        }


# --- sessions that ran when the database was copied -------------------------------------------------------------------


def test_what_a_session_committed_that_the_copy_takes_for_running_is_adopted() -> None:
    with running() as (world, clock):
        first = _back_up(world)
        world.reconcile()
        writer = world.start_session()
        world.put_pack(writer)
        # Granted before the copy was made; stored, and committed, after it.
        manifest, body = world._put_manifest(writer)

        rounds.fence_after_database_restore(now=now())
        world.reconcile()

        job = writer.session.job
        job.refresh_from_db()
        assert (job.state, job.code) == (JobState.FAILED, "database_restored")
        adopted = Backup.objects.get(manifest__key=manifest.key)
        assert (adopted.status, adopted.sequence, adopted.disk) == ("ok", body.sequence, first.disk)
        assert set(adopted.manifest.uses.values_list("needed__key", flat=True)) == {
            ref.key for ref in body.needed_refs()
        }
        # Whoever still has the session gets nothing done with it.
        assert not request_commit(writer.session, request={}, now=now())
        for _ in range(20):
            advance(clock, world, DAY * 3)
            world.reconcile()
            world.run_removal()
            world.reap()
            world.check()
        assert RemovalRun.objects.filter(outcome="ok").exists()
        assert _back_up(world).sequence > body.sequence


def test_a_session_that_the_copy_takes_for_running_and_that_came_to_nothing_leaves_nothing() -> None:
    with running() as (world, clock):
        world.reconcile()
        writer = world.start_session()
        world.put_pack(writer)

        assert rounds.fence_after_database_restore(now=now()) == 1
        world.reconcile()
        assert not _vault(world).removal_stopped and not Backup.objects.exists()
        for _ in range(20):
            advance(clock, world, DAY * 3)
            world.reconcile()
            world.run_removal()
            world.reap()

        assert not world.keys_in_store()


def test_a_restore_and_what_ended_before_are_left_as_they_are_by_the_fence() -> None:
    with running() as (world, _clock):
        backup = _back_up(world)
        writer = world.start_session()
        world.put_pack(writer)
        manifest, _ = world._put_manifest(writer)
        world.fail(writer)
        restore = factories.make_job(backup.server, kind="restore", backup=backup, state="running", lease_until=now())

        rounds.fence_after_database_restore(now=now())
        world.reconcile()

        restore.refresh_from_db()
        writer.session.job.refresh_from_db()
        assert restore.state == JobState.RUNNING and writer.session.job.code == "crashed"
        assert not Backup.objects.filter(manifest__key=manifest.key).exists()


# --- relocations ------------------------------------------------------------------------------------------------------


def test_a_relocation_that_the_database_does_not_know_gets_its_rows() -> None:
    with running() as (world, clock):
        first = _back_up(world)
        writer = world.start_session()
        writer.reused = []
        large_pack(world, writer)
        second = world.commit(writer).backup
        old = StoredObject.objects.filter(kind="p", used_by__manifest=first.manifest).first()
        key = put_relocation(world, old=old, like=world.body_of(second))

        world.reconcile()
        row = StoredObject.objects.get(key=key)
        body = world.body_of(second)
        needed = {body.packs[-1].sha256.hex(), body.sessions[-1].envelope.sha256.hex()}
        assert [moved.pack for moved in RelocatedPack.objects.filter(relocation=row)] == [old]
        assert set(ObjectUse.objects.filter(manifest=row).values_list("needed__sha256", flat=True)) == needed

        for _ in range(14):
            advance(clock, world, DAY * 3)
            world.reconcile()
            world.run_removal()
            world.reap()
        assert RemovalRun.objects.filter(outcome="ok").exists()
        row.refresh_from_db()
        assert row.status == "stored"


@pytest.mark.parametrize("trouble", ["unreadable", "incomplete"])
def test_a_relocation_that_leads_nowhere_is_told_and_stays(trouble: str) -> None:
    with running() as (world, _clock):
        backup = _back_up(world)
        forgotten = forget(_back_up(world, keep=0))
        pack = StoredObject.objects.filter(kind="p").first()
        if trouble == "unreadable":
            key = put(world, relocation_key(world, "ab" * 32), b"no relocation")
        else:
            key = put_relocation(world, old=pack, like=world.body_of(backup), new_pack=b"\7" * 32)

        world.reconcile()
        world.reconcile()

        assert key in _told() and _vault(world).removal_stopped
        assert StoredObject.objects.get(key=key).status == "stored" and not RelocatedPack.objects.exists()
        assert StoredObject.objects.get(key=next(key for key in forgotten if "/m/" in key)).backup


# --- rounds and what comes back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "round_of", "code"),
    [
        ("reconcile", rounds.reconcile_everywhere, "reconciling_failed"),
        ("remove_unneeded", rounds.remove_everywhere, "removal_failed"),
        ("repack_vault", rounds.repack_everywhere, "repacking_failed"),
    ],
)
def test_a_fault_with_one_vault_does_not_keep_the_others_from_their_round(name, round_of, code) -> None:
    with running() as (world, _clock):
        others = [factories.make_vault(factories.make_tenant()) for _ in range(2)]
        seen = []

        def run(*, vault_id: str, now: datetime) -> None:
            seen.append(vault_id)
            if vault_id == str(world.vault.pk):
                raise KeyError("secret")

        with mock.patch.object(rounds, name, run):
            round_of(now=now())
        assert set(seen) == {str(vault.pk) for vault in (world.vault, *others)}
        alarm = Alarm.objects.standing().get()
        assert (alarm.vault, alarm.code) == (world.vault, code)
        assert "KeyError" in alarm.message and "secret" not in alarm.message

        with mock.patch.object(rounds, name, mock.Mock()):
            round_of(now=now())
        assert not Alarm.objects.standing().exists()


def test_what_comes_back_after_its_removal_can_be_ordered_again() -> None:
    with running() as (world, clock):
        writer = world.start_session()
        world.put_pack(writer)
        world.fail(writer)
        key = writer.packs[0].key
        version = world.store._versions[f"{world.vault.bucket}/{key}"][0]
        while StoredObject.objects.get(key=key).status != "deleted":
            advance(clock, world, DAY)
            world.reconcile()
            world.run_removal()
            world.reap()
        world.store._versions[f"{world.vault.bucket}/{key}"] = [version]
        advance(clock, world, DAY)

        world.reconcile()

        row = StoredObject.objects.get(key=key)
        assert (row.status, row.condemned_epoch, row.deleted_at) == ("stored", None, None)
        assert not Removal.objects.filter(stored_object=row).exists()
        assert Removal.objects.exists()


def test_the_earliest_time_of_the_world_is_one_that_a_manifest_may_tell() -> None:
    with running() as (world, _clock):
        key = forge(world, world.body_of(_back_up(world)), sequence=2, created_at="2026-02-01T02:00:00+02:00")

        world.reconcile()

        assert Backup.objects.get(manifest__key=key).created_at == datetime(2026, 2, 1, tzinfo=UTC)


# --- what an object can be besides ------------------------------------------------------------------------------------


def test_a_fault_of_the_program_with_one_object_is_told_without_its_text() -> None:
    with running() as (world, _clock):
        body = world.body_of(_back_up(world))
        bad, good = forge(world, body, sequence=5), forge(world, body, sequence=6)
        real = adoption.adopt_manifest

        def faulty(vault, manifest, *, now):
            if manifest.key == bad:
                raise ValueError("secret")
            return real(vault, manifest, now=now)

        with mock.patch.object(adoption, "adopt_manifest", faulty):
            world.reconcile()

        assert f"{bad} could not be taken in (ValueError)" in _told() and "secret" not in _told()
        assert Backup.objects.filter(manifest__key=good).exists()


def test_many_unknown_objects_get_their_rows_in_parts() -> None:
    with running() as (world, _clock):
        keys = forget(_back_up(world, packs=5))

        with mock.patch.object(adoption, "_ROWS_AT_ONCE", 2):
            world.reconcile()

        assert set(StoredObject.objects.values_list("key", flat=True)) == keys
        assert Backup.objects.exclude(manifest=None).count() == 1


def test_of_several_unknown_versions_the_oldest_counts() -> None:
    with running() as (world, clock):
        keys = forget(_back_up(world))
        pack = next(key for key in keys if "/p/" in key)
        first = world.store._versions[f"{world.vault.bucket}/{pack}"][0].version_id
        advance(clock, world, timedelta(minutes=5))
        put(world, pack, b"somebody else's")

        world.reconcile()

        assert StoredObject.objects.get(key=pack).version_id == first


def test_an_etag_that_is_no_digest_is_not_taken_for_one() -> None:
    assert adoption._md5_base64("d41d8cd98f00b204e9800998ecf8427e-2") == ""
    assert adoption._md5_base64("d41d8cd98f00b204e9800998ecf8427e") == "1B2M2Y8AsgTpgAmY7PhCfg=="


@pytest.mark.parametrize("what", ["bytes", "tenant", "size"])
def test_a_manifest_that_is_not_what_its_name_says_is_told(what: str) -> None:
    with running() as (world, _clock):
        body = world.body_of(_back_up(world))
        if what == "tenant":
            key = forge(world, body, sequence=40, tenant="other", named={"tenant": body.tenant})
        else:
            key = forge(world, body, sequence=40)
        version = world.store._versions[f"{world.vault.bucket}/{key}"][0]
        if what == "bytes":
            object.__setattr__(version, "data", version.data[:-1] + b"x")
        limit = mock.patch.object(adoption, "OBJECT_SIZE_MAX", 10 if what == "size" else adoption.OBJECT_SIZE_MAX)

        with limit:
            world.reconcile()

        assert key in _told() and not Backup.objects.filter(manifest__key=key).exists()
        said = {"bytes": "not what its name says", "tenant": "another tenant", "size": "larger than any object"}
        assert said[what] in _told()


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_map_that_cannot_be_read_is_no_reason_to_take_a_manifest_for_whole(is_silent: bool) -> None:
    """Its packs are not all there: whether relocations stand in for them cannot be said."""
    with running() as (world, _clock):
        body = world.body_of(_back_up(world))
        key = forge(world, body, sequence=40, packs=[type(body.packs[0])(b"\7" * 32, 5, None, 1)])
        error = StoreError("silent", transient=True) if is_silent else FormatError("a bad page")

        with mock.patch.object(adoption, "find_cover", side_effect=error):
            world.reconcile()

        assert not Backup.objects.filter(manifest__key=key).exists()
        assert _stands("reconciling_failed") == is_silent and _vault(world).removal_stopped
