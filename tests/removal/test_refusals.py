"""What stops a run, an inventory or the reaper, and what is done then: nothing, said clearly."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db import transaction

from backups import committer
from backups.removal import run as removal
from backups.removal.roots import find_roots
from backups.states import JobState
from engine.store.memory import Fault
from tests.removal.test_removal import DAY, _back_up
from tests.removal.world import World, advance, now, running
from vaults import inventory, ledger
from vaults.inventory import take_inventory
from vaults.models import Alarm, Removal, RemovalRun, StoredObject, Vault
from vaults.storage import ListedVersion, StorageContractError, StorageRefusedError

pytestmark = pytest.mark.django_db


def _vault() -> Vault:
    return Vault.objects.select_related("endpoint").get()


def _ready(world: World) -> None:
    Vault.objects.update(reconciled_at=now())


def _orphan(world: World) -> None:
    writer = world.start_session()
    world.put_pack(writer)
    world.fail(writer)


def test_one_run_at_a_time_and_a_lost_one_is_followed() -> None:
    with running() as (world, clock):
        _ready(world)
        RemovalRun.objects.create(vault=world.vault, epoch=1, started_at=now())

        world.run_removal()
        assert RemovalRun.objects.count() == 1

        advance(clock, world, timedelta(hours=7))
        world.run_removal()
        assert list(RemovalRun.objects.order_by("epoch").values_list("outcome", flat=True)) == ["lost", "ok"]


def test_two_runs_do_not_take_one_epoch() -> None:
    with running() as (_world, _clock):
        vault = _vault()
        Vault.objects.update(epoch=vault.epoch + 1)
        assert removal._begin(vault, now=now()) is None

        RemovalRun.objects.create(vault=vault, epoch=vault.epoch + 2, started_at=now(), finished_at=now())
        assert removal._begin(_vault(), now=now()) is None


def test_a_ledger_without_what_backups_need_stops_the_run() -> None:
    with running() as (world, _clock):
        _back_up(world)
        _ready(world)
        StoredObject.objects.filter(kind="p").update(status="deleting", condemned_epoch=1, condemned_at=now())

        world.run_removal()

        assert RemovalRun.objects.get().outcome == "ledger_incomplete"
        assert "being removed" in Alarm.objects.standing().get(code="removal_stopped").message
        StoredObject.objects.filter(kind="p").update(status="stored")
        world.run_removal()
        assert not Alarm.objects.standing().filter(code="removal_stopped").exists()


def test_a_manifest_of_another_vault_stops_the_run() -> None:
    with running() as (world, _clock):
        _back_up(world)
        roots = find_roots(_vault())
        gone = SimpleNamespace(manifests=roots.manifests | {10**9}, catalogued=roots.catalogued)

        with pytest.raises(Exception, match="1 manifests of the catalogue are not in the ledger"):
            removal._mark(_vault(), gone, now=now())


def test_a_needed_object_that_was_condemned_is_kept_and_told() -> None:
    with running() as (world, _clock):
        _back_up(world)
        _ready(world)
        StoredObject.objects.filter(kind="p").update(status="condemned", condemned_epoch=1, condemned_at=now())

        world.run_removal()

        assert set(StoredObject.objects.filter(kind="p").values_list("status", flat=True)) == {"stored"}
        assert Alarm.objects.standing().filter(code="condemned_object_needed").exists()


def test_what_a_commit_names_during_the_mark_is_not_condemned(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as (world, clock):
        backup = _back_up(world)
        advance(clock, world, DAY * 3)
        _ready(world)
        mark = removal._mark

        def blind(*arguments, **options):
            found = mark(*arguments, **options)
            found.unneeded.update(StoredObject.objects.filter(kind="p").values_list("pk", flat=True))
            return found

        monkeypatch.setattr(removal, "_mark", blind)
        world.run_removal()

        assert RemovalRun.objects.get().condemned_objects == 0
        world.check_whole(backup)


def test_a_store_that_is_away_stops_run_and_inventory() -> None:
    with running() as (world, _clock):
        _back_up(world)
        _ready(world)
        store = world.store
        store.faults = {store.operation_count: Fault.BEFORE}
        world.run_removal()
        assert RemovalRun.objects.get().outcome == "store_unreachable"

        store.faults = {store.operation_count: Fault.BEFORE}
        with pytest.raises(Exception, match="does not answer"):
            take_inventory(_vault())


def test_an_altered_manifest_stops_the_run() -> None:
    with running() as (world, _clock):
        backup = _back_up(world)
        _ready(world)
        StoredObject.objects.filter(pk=backup.manifest_id).update(sha256="0" * 64)

        world.run_removal()

        assert RemovalRun.objects.get().outcome == "manifest_unreadable"


def test_a_manifest_of_a_writer_that_nobody_knows_stops_the_run() -> None:
    with running() as (world, _clock):
        _back_up(world)
        _ready(world)
        world.disk.server.node.writer_keys.all().delete()

        world.run_removal()

        assert RemovalRun.objects.get().outcome == "manifest_unreadable"


# --- inventory --------------------------------------------------------------------------------------------------------


def test_the_inventory_tells_apart_what_is_wrong() -> None:
    with running() as (world, _clock):
        _back_up(world, packs=4)
        packs = list(StoredObject.objects.filter(kind="p").order_by("key"))
        bucket = world.vault.bucket
        del world.store._versions[f"{bucket}/{packs[0].key}"]
        StoredObject.objects.filter(pk=packs[1].pk).update(size_bytes=1)
        StoredObject.objects.filter(pk=packs[2].pk).update(status="deleted")
        world.store.put_object(key=f"{bucket}/{packs[3].key}", data=b"junk laid over it")
        world.store.delete_object(key=f"{bucket}/{packs[3].key}")
        world.store.put_object(key=f"{bucket}/t/a/stranger", data=b"?")
        world.store.put_object(key=f"{bucket}/probe/x", data=b"not ours to judge")

        found = take_inventory(_vault())

        assert found.missing == [packs[0].pk]
        assert found.altered == [packs[1].pk]
        assert [pk for pk, _ in found.returned] == [packs[2].pk]
        assert packs[3].pk not in {*found.missing, *found.altered}, "what lies over an object hides nothing"
        assert [version.key for version in found.unknown] == ["t/a/stranger"]


def test_a_granted_object_with_two_versions_is_the_older_one() -> None:
    with running() as (world, clock):
        _orphan(world)
        pack = StoredObject.objects.get(kind="p")
        first = world.store._versions[f"{world.vault.bucket}/{pack.key}"][0].version_id
        advance(clock, world, DAY)
        world.store.put_object(key=f"{world.vault.bucket}/{pack.key}", data=b"somebody else's")

        found = take_inventory(_vault())

        assert {pk: version.version_id for pk, version in found.arrived}[pack.pk] == first


def test_a_listing_that_leaves_out_what_is_there_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as (world, _clock):
        _back_up(world)
        monkeypatch.setattr(inventory, "list_versions", lambda *_, **__: iter(()))

        with pytest.raises(StorageContractError, match="leaves objects out"):
            take_inventory(_vault())
        world.reconcile()
        assert Alarm.objects.standing().filter(code="reconciling_failed").exists()
        assert not StoredObject.objects.exclude(damaged_since=None).exists()


def test_a_store_that_refuses_to_look_is_not_taken_for_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as (world, _clock):
        _back_up(world)
        monkeypatch.setattr(inventory, "list_versions", lambda *_, **__: iter(()))

        def refuse(*_: object, **__: object) -> None:
            raise StorageRefusedError("no", extra={"store_code": "AccessDenied"})

        monkeypatch.setattr(inventory, "see_object", refuse)

        with pytest.raises(StorageRefusedError):
            take_inventory(_vault())


def test_rows_out_of_order_fail_loudly() -> None:
    rows = iter([SimpleNamespace(key="b"), SimpleNamespace(key="a")])
    version = ListedVersion("c", "1", 1, "", now(), is_latest=True, is_delete_marker=False)

    with pytest.raises(StorageContractError, match="order"):
        list(inventory._side_by_side(rows, iter([("c", [version])])))


# --- ledger and reaper ------------------------------------------------------------------------------------------------


def _ordered(world: World, clock) -> int:
    _orphan(world)
    for _ in range(10):
        advance(clock, world, DAY * 3)
        world.reconcile()
        world.run_removal()
    return Removal.objects.filter(done_at=None).count()


def test_a_lock_that_is_longer_than_the_ledger_knew_puts_the_order_off() -> None:
    with running() as (world, clock):
        count = _ordered(world, clock)
        for versions in world.store._versions.values():
            for version in versions:
                world.store.put_retention(key=version.key, version_id=version.version_id, retain_until=now() + DAY * 3)

        assert world.reap() == 0
        assert Removal.objects.filter(attempts=1, last_refusal="AccessDenied", try_after__gt=now()).count() == count
        assert world.reap() == 0  # Not before its time.
        advance(clock, world, DAY * 4)
        assert world.reap() == count


def test_an_order_that_the_ledger_does_not_agree_with_is_not_carried_out() -> None:
    with running() as (world, clock):
        assert _ordered(world, clock)
        StoredObject.objects.filter(status="deleting").update(status="stored", condemned_epoch=None)
        before = world.keys_in_store()

        assert world.reap() == 0
        assert world.keys_in_store() == before


def test_a_commit_with_an_object_that_goes_is_rolled_back_whole() -> None:
    with running() as (world, _clock):
        _back_up(world)
        pack = StoredObject.objects.filter(kind="p").first()
        StoredObject.objects.filter(pk=pack.pk).update(status="deleting", condemned_epoch=1, condemned_at=now())

        with pytest.raises(ledger.ObjectRemovedError, match="being removed"), transaction.atomic():
            ledger.hold_for_commit([pack.pk])


def test_a_commit_that_loses_against_the_reaper_fails_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at every object and the transaction, one is given to the reaper."""
    with running() as (world, _clock):
        _back_up(world)
        writer = world.start_session()
        look = committer._check

        def slow(*arguments, **options):
            found = look(*arguments, **options)
            StoredObject.objects.filter(pk=found.reused[0].pk).update(
                status="deleting", condemned_epoch=1, condemned_at=now()
            )
            return found

        monkeypatch.setattr(committer, "_check", slow)
        job = world.commit(writer)

        assert (job.state, job.code) == (JobState.FAILED, "object_removed")


def test_a_commit_waits_for_a_store_that_is_away() -> None:
    with running() as (world, _clock):
        writer = world.start_session()
        world.put_pack(writer)
        store, puts = world.store, 1
        store.faults = {store.operation_count + puts: Fault.BEFORE}

        job = world.commit(writer)

        assert job.state == JobState.RUNNING
        committer.commit_session(session_id=str(writer.session.pk))
        job.refresh_from_db()
        assert job.state == JobState.OK
        committer.commit_session(session_id=str(writer.session.pk))  # Once more changes nothing.
        world.check()
