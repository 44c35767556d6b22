"""Repack: each thing that must hold for a move is asked for, and each that is missing stops it."""

from __future__ import annotations

from datetime import timedelta
from unittest import mock

import pytest

from backups.models import Backup
from backups.removal import covering, disowning, repacking, switching
from backups.removal.repacking import repack_vault
from engine import map_survey
from engine.errors import EngineError, StoreError
from engine.manifest import CONTENT_STREAM
from engine.repository import LeafSpan
from tests.removal.forging import forge, put, relocation_key
from tests.removal.test_repack import days, disk, forget_all, mostly_dead, moved
from tests.removal.world import now, running
from vaults.keeper import UnverifiedObjectError
from vaults.models import MovedPack, ObjectUse, RelocatedPack, StoredObject, Vault
from vaults.storage import StorageRefusedError, StorageUnreachableError

pytestmark = pytest.mark.django_db


def uses() -> set[tuple[int, int]]:
    return set(ObjectUse.objects.values_list("manifest", "needed"))


def transient(*_: object, **__: object) -> bytes:
    raise StoreError("away", code="store_unreachable", transient=True)


@pytest.mark.parametrize(
    ("place", "fake", "error"),
    [
        ("_envelopes", lambda *_: [], UnverifiedObjectError),
        ("_is_copy", lambda *_: False, UnverifiedObjectError),
        ("fetch_whole", transient, StorageUnreachableError),
    ],
)
def test_a_proof_that_lacks_anything_moves_nothing(place: str, fake: object, error: type[Exception]) -> None:
    with disk() as (world, mover):
        mostly_dead(world, mover)
        before = uses()

        with mock.patch.object(switching, place, fake), pytest.raises(error):
            world.repack()

        assert uses() == before
        assert not MovedPack.objects.exists() and not RelocatedPack.objects.exists()


def test_a_copy_of_another_size_moves_nothing() -> None:
    with disk() as (world, mover):
        mostly_dead(world, mover)
        before, real = uses(), switching.switch

        def cut(*args, **options):
            version = world.store._versions[f"{world.vault.bucket}/{options['new'][0].key}"][0]
            object.__setattr__(version, "data", version.data[:-1])
            return real(*args, **options)

        with mock.patch("backups.removal.repacking.switch", cut), pytest.raises(UnverifiedObjectError, match="size"):
            world.repack()

        assert uses() == before and not MovedPack.objects.exists()


def test_a_promise_that_grew_since_the_locks_were_chosen_moves_nothing() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        before, real = uses(), switching.switch

        def promised(*args, **options):
            Backup.objects.filter(pk=second.pk).update(immutable_until=now() + timedelta(days=400))
            return real(*args, **options)

        with mock.patch("backups.removal.repacking.switch", promised), pytest.raises(UnverifiedObjectError):
            world.repack()

        assert uses() == before and not MovedPack.objects.exists() and not RelocatedPack.objects.exists()


def test_nothing_is_looked_at_while_removal_is_stopped() -> None:
    with running() as (world, _clock):
        Vault.objects.update(removal_stopped="a person said so")

        assert repack_vault(vault_id=str(world.vault.pk), now=now()) is None


def test_of_many_packs_a_bounded_number_is_looked_at_and_all_have_their_turn() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        with mock.patch.object(repacking, "LOOKED_AT", 4):
            first = world.repack().moved_packs
            assert 1 <= first <= 4
            for _ in range(12):
                days(world, 1)
                world.repack()

        assert len(moved(second)) >= 9
        days(world, 60)
        assert mover.restored(second) == bytes(mover.image)


def test_a_map_page_that_cannot_be_read_stops_the_repack() -> None:
    with disk() as (world, mover):
        mostly_dead(world, mover)
        before = uses()

        with (
            mock.patch.object(map_survey, "walk_leaves", lambda _: [LeafSpan(0, 512, None)]),
            pytest.raises(EngineError, match="page of a block map"),
        ):
            world.repack()

        assert uses() == before


# --- catalogues that are made again -----------------------------------------------------------------------------------


def test_a_stream_without_a_map_is_not_taken_in_on_the_word_of_relocations() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        days(world, 60)
        key = forge(
            world,
            world.body_of(second),
            content=CONTENT_STREAM,
            block_size=0,
            fan_out=0,
            sequence=77,
            required_features=["chunk-stream"],
        )

        world.wait(timedelta(hours=21))
        world.reconcile()

        assert not Backup.objects.filter(manifest__key=key).exists()
        assert f"{key} needs" in world.vault.alarms.standing().get(code="unknown_objects").message


def test_what_is_no_relocation_leads_nowhere_and_stops_nothing() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        days(world, 60)
        key = second.manifest.key
        forget_all()
        junk = put(world, relocation_key(world, "0" * 64), b"junk")

        days(world, 1)

        assert moved(Backup.objects.get(manifest__key=key))
        assert junk in world.vault.alarms.standing().get(code="unknown_objects").message


@pytest.mark.parametrize(("code", "passes"), [("NoSuchVersion", False), ("AccessDenied", True)])
def test_a_relocation_that_is_gone_leads_nowhere_and_trouble_of_the_store_is_told(code: str, passes: bool) -> None:
    with disk() as (world, mover):
        mostly_dead(world, mover)
        world.repack()
        rows = list(StoredObject.objects.filter(kind="r"))
        refused = StorageRefusedError("no")
        refused.extra["store_code"] = code

        with mock.patch.object(covering, "open_relocations", side_effect=refused):
            if passes:
                with pytest.raises(StorageRefusedError):
                    list(covering._readable(world.vault, rows))
            else:
                assert rows and list(covering._readable(world.vault, rows)) == []


def test_a_page_of_the_map_that_is_lost_covers_nothing() -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        days(world, 60)
        key = second.manifest.key
        forget_all()

        with mock.patch.object(map_survey, "walk_leaves", lambda _: [LeafSpan(0, 512, None)]):
            days(world, 1)
        assert not Backup.objects.filter(manifest__key=key).exists()
        days(world, 1)

        assert moved(Backup.objects.get(manifest__key=key))


def test_a_session_that_ended_by_itself_meanwhile_is_not_disowned() -> None:
    with running() as (world, _clock):
        writer = world.start_session()
        world.put_pack(writer)
        StoredObject.objects.filter(session_id=writer.session.pk).update(kind="m")

        with mock.patch.object(disowning, "end_session_job", return_value=False):
            assert disowning.disown_running_sessions(now=now()) == 0
        assert StoredObject.objects.filter(session_id=writer.session.pk).exists()

        assert disowning.disown_running_sessions(now=now()) == 1
        assert not StoredObject.objects.filter(session_id=writer.session.pk, kind="m").exists()
