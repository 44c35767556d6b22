"""After a real repack bucket and recovery key alone restore and check; a catalogue that is made again knows it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from backups.accounting import recompute
from backups.models import Backup
from backups.moved_packs import moved_packs_of
from backups.rebuild.objects import rebuild_domain
from backups.rebuild.places import Places
from engine.alone.catalogue import OpenDomain, open_domain, read_manifests
from engine.alone.checking import check_domain
from engine.alone.layout import DomainPlace
from engine.alone.listing import list_domain
from engine.alone.restoring import RestoreOrder, restore_backup
from engine.compression import Compressor
from engine.crypto import generate_writer_key, key_fingerprint
from engine.description import Labels, VaultFacts, build_description, description_key, parse_description
from engine.hashing import sha256_hex
from engine.manifest import CONTENT_STREAM
from engine.recovery import RecoveryKey
from engine.store.memory import ModelStore
from tests.alone.support import ModelBucket
from tests.removal.forging import forge
from tests.removal.test_repack import change, days, disk, forget_all, mostly_dead, moved
from tests.removal.world import World, now
from vaults.models import Domain, StoredObject
from vaults.own_objects import NO_SESSION

pytestmark = pytest.mark.django_db


def bucket_alone(world: World, *, without: str = "") -> tuple[ModelBucket, OpenDomain]:
    """A copy of the bucket with a description of the domain, opened with the recovery key and nothing else."""
    store = ModelStore(now=now)
    for key, versions in world.store._versions.items():
        own = key.removeprefix(f"{world.vault.bucket}/")
        for version in versions if own != without else ():
            store.put_object(key=own, data=version.data)
    catalogue = generate_writer_key()
    data = build_description(
        tenant=str(world.vault.tenant_id),
        domain=str(world.domain.pk),
        sequence=1,
        created_at=now(),
        writers=[world.writer_key.public],
        labels=Labels(
            tenant_title="Acme",
            server_name="web01",
            disks=[],
            vault=VaultFacts(region="RBX", immutable_days=14),
            definitions=["daily"],
        ),
        map_key=world.domain_keys.map_key,
        catalogue_key=catalogue,
        salt=bytes(16),
        compressor=Compressor(1),
    )
    fingerprint = key_fingerprint(catalogue.public)
    body = parse_description(data, catalogue_fingerprint=fingerprint).body
    store.put_object(key=description_key(body, sha256=sha256_hex(data)), data=data)
    bucket = ModelBucket(store)
    place = DomainPlace(str(world.vault.tenant_id), str(world.domain.pk))
    return bucket, open_domain(bucket, place, RecoveryKey(world.tenant_key.private, fingerprint))


def restored_to(bucket: ModelBucket, domain: OpenDomain, backup: Backup, target: Path) -> None:
    found = next(item for item in read_manifests(bucket, domain) if item.ref.sha256 == backup.manifest.sha256)
    outcome = restore_backup(
        bucket, domain, found, RestoreOrder(to=str(target)), progress=lambda _: None, cancel=lambda: False
    )
    assert outcome.is_complete


def restored_alone(bucket: ModelBucket, domain: OpenDomain, backup: Backup, target: Path) -> bytes:
    restored_to(bucket, domain, backup, target)
    return target.read_bytes()


def test_the_tool_restores_and_checks_a_chain_whose_packs_were_moved_and_removed(tmp_path: Path) -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        content = bytes(mover.image)
        world.repack()
        days(world, 60)
        change(mover, 40, text=b"third")
        third = mover.back_up()
        assert {row.status for row in moved(third)} == {"deleted"}

        bucket, domain = bucket_alone(world)

        for read_data in (False, True):
            result = check_domain(bucket, domain, read_data=read_data)
            assert result.is_sound and result.backup_count == 2, result.bad_objects
        assert all(backup.is_complete for source in list_domain(bucket, domain).sources for backup in source.backups)
        assert restored_alone(bucket, domain, second, tmp_path / "second") == content
        assert restored_alone(bucket, domain, third, tmp_path / "third") == bytes(mover.image)


@pytest.mark.parametrize("kind", ["p", "r"])
def test_the_tool_names_both_backups_when_a_copy_or_a_relocation_is_gone(kind: str) -> None:
    with disk() as (world, mover):
        second = mostly_dead(world, mover)
        world.repack()
        days(world, 60)
        change(mover, 40, text=b"third")
        third = mover.back_up()
        lost = StoredObject.objects.filter(session_id=NO_SESSION, kind=kind).first()

        bucket, domain = bucket_alone(world, without=lost.key)

        result = check_domain(bucket, domain, read_data=False)
        assert not result.is_sound
        hit = {name for bad in result.bad_objects for name in bad.backups}
        assert hit == {second.manifest.sha256, third.manifest.sha256}


def test_a_catalogue_that_is_made_again_knows_the_move_and_goes_on() -> None:
    with disk() as (world, mover):
        mostly_dead(world, mover)
        world.repack()
        days(world, 60)
        change(mover, 40, text=b"third")
        third = mover.back_up()
        names = {row.sha256 for row in moved(third)}
        manifests = set(Backup.objects.in_catalogue().values_list("manifest__key", flat=True))
        stream = {"content": CONTENT_STREAM, "block_size": 0, "fan_out": 0, "required_features": ["chunk-stream"]}
        other = forge(world, world.body_of(third), sequence=77, **stream)
        bucket, domain = bucket_alone(world)
        # The same bucket, so that the world's store can be used on: versions by their own ids.
        bucket.store._versions = {
            key: [
                replace(version, key=key) for version in world.store._versions.get(f"{world.vault.bucket}/{key}", own)
            ]
            for key, own in bucket.store._versions.items()
        }
        forget_all()
        places = Places(
            vault=world.vault,
            domain=Domain.objects.get(pk=world.domain.pk),
            server=world.disk.server,
            disks={str(world.disk.pk): world.disk},
            immutable_days=14,
        )

        result = rebuild_domain(bucket, domain, places, now=now())

        assert result.backup_count == len(manifests)
        assert [problem for problem in result.problems if other not in problem] == [], "a stream stands by itself"
        assert len(result.problems) == 1
        world.store._versions.pop(f"{world.vault.bucket}/{other}")
        for backup in Backup.objects.in_catalogue():
            assert {row.sha256 for row in moved_packs_of(backup.manifest)} == names
        recompute(world.domain.pk)
        newest = Backup.objects.in_catalogue().order_by("-sequence").first()
        assert mover.restored(newest) == bytes(mover.image)
        StoredObject.objects.filter(kind="c").delete()
        for _ in range(4):
            world.wait(timedelta(days=15))
            world.reconcile()
            world.run_removal()
            world.reap()
        assert mover.restored(newest) == bytes(mover.image)
