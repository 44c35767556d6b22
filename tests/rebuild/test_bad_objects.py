"""A rebuild from a bucket in which a host left forged objects: the rest comes back, and what does not is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest

from backups.models import Backup, Session
from backups.rebuild.objects import DomainResult, rebuild_domain
from backups.rebuild.places import Places, _server
from backups.states import JobState
from engine.alone.bucket import StoredBytes, StoredVersion
from engine.alone.layout import DomainPlace
from engine.description import DiskLabel, Labels, VaultFacts
from tests import factories
from tests.alone.support import ModelBucket
from tests.removal.forging import forge, large_pack, put, put_relocation, relocation_key
from tests.removal.world import World, now, running
from vaults.models import ObjectUse, RelocatedPack, StoredObject

pytestmark = pytest.mark.django_db
DAYS = 14


class _BucketOf(ModelBucket):
    """The vault's own bucket: without its name before every key."""

    def __init__(self, world: World) -> None:
        super().__init__(world.store)
        self._prefix = f"{world.vault.bucket}/"

    def versions(self, prefix: str) -> Iterator[list[StoredVersion]]:
        for group in super().versions(self._prefix + prefix):
            yield [replace(version, key=version.key.removeprefix(self._prefix)) for version in group]

    def read(self, version: StoredVersion, *, offset: int, length: int) -> StoredBytes:
        return super().read(replace(version, key=self._prefix + version.key), offset=offset, length=length)


def _back_up(world: World) -> Backup:
    writer = world.start_session()
    assert writer is not None
    writer.reused = []
    large_pack(world, writer)
    job = world.commit(writer)
    assert job.state == JobState.OK, job.message
    return job.backup


def _rebuild(world: World) -> DomainResult:
    """Everything below the server again, from the bucket alone."""
    RelocatedPack.objects.all().delete()
    ObjectUse.objects.all().delete()
    Session.objects.all().delete()
    Backup.objects.all().delete()
    StoredObject.objects.all().delete()
    place = DomainPlace(str(world.vault.tenant_id), str(world.domain.pk))
    body = SimpleNamespace(writers=[world.writer_key.public])
    description = SimpleNamespace(body=body, sha256="")
    found = SimpleNamespace(place=place, description=description, domain_keys=world.domain_keys)
    disks = {str(world.disk.pk): world.disk}
    places = Places(world.vault, world.domain, world.disk.server, disks, DAYS)
    return rebuild_domain(_BucketOf(world), found, places, now=now())


_REFUSED = {
    "naive": {"created_at": "2026-02-01T00:00:00"},
    "beyond the calendar": {"created_at": "0001-01-01T00:00:00+23:59"},
    "no uuid": {"source_id": "disk"},
    "other sequence": {"sequence": 77, "named": {"sequence": 78}},
    "negative sequence": {"sequence": -1, "named": {"sequence": 5}},
}


@pytest.mark.parametrize("name", _REFUSED)
def test_a_manifest_that_tells_nonsense_is_a_problem_and_the_others_come_back(name: str) -> None:
    with running() as (world, _clock):
        backup = _back_up(world)
        good = backup.manifest.key
        bad = forge(world, world.body_of(backup), **{"sequence": 40, **_REFUSED[name]})

        result = _rebuild(world)

        assert Backup.objects.get().manifest.key == good
        assert len(result.problems) == 1 and result.problems[0].startswith(bad)


def test_two_manifests_of_one_sequence_both_come_back() -> None:
    with running() as (world, _clock):
        backup = _back_up(world)
        body = world.body_of(backup)
        forge(world, body, size_bytes=8192)
        forge(world, body, sequence=1 << 62)

        result = _rebuild(world)

        assert (result.backup_count, result.problems) == (3, [])
        assert sorted(Backup.objects.values_list("sequence", flat=True), key=str) == [1, None, None]


@pytest.mark.parametrize("year", [2126, 9999])
def test_no_date_of_a_manifest_leads_to_a_long_lock(year: int) -> None:
    with running() as (world, _clock):
        body = world.body_of(_back_up(world))
        counters = {"read_bytes": (1 << 64) - 1}
        key = forge(world, body, sequence=2, created_at=f"{year}-12-31T23:59:59+00:00", counters=counters)

        result = _rebuild(world)

        found = Backup.objects.get(manifest__key=key)
        assert not result.problems and found.read_bytes is None
        assert found.created_at == now() + timedelta(days=1)
        latest = max(StoredObject.objects.values_list("retain_until", flat=True))
        assert latest == found.immutable_until == now() + timedelta(days=DAYS + 1)


def test_relocations_come_back_and_one_that_cannot_be_read_is_a_problem() -> None:
    with running() as (world, _clock):
        first, second = _back_up(world), _back_up(world)
        old = StoredObject.objects.filter(kind="p", used_by__manifest=first.manifest).first()
        body = world.body_of(second)
        key = put_relocation(world, old=old, like=body)
        unreadable = put(world, relocation_key(world, "ab" * 32), b"no relocation")

        result = _rebuild(world)

        row = StoredObject.objects.get(key=key)
        assert [moved.pack.key for moved in RelocatedPack.objects.filter(relocation=row)] == [old.key]
        needed = {body.packs[-1].sha256.hex(), body.sessions[-1].envelope.sha256.hex()}
        assert set(ObjectUse.objects.filter(manifest=row).values_list("needed__sha256", flat=True)) == needed
        assert len(result.problems) == 1 and unreadable in result.problems[0]
        assert StoredObject.objects.get(key=unreadable).status == "stored"


def test_the_disk_of_another_server_is_none_of_this_domain() -> None:
    with running() as (world, _clock):
        other = factories.disk_of(factories.make_server(world.vault.tenant))
        labels = Labels(
            tenant_title="Acme",
            server_name="server",
            disks=[
                DiskLabel(source_id=str(disk.pk), number=number, name="disk", size_bytes=1)
                for number, disk in enumerate([world.disk, other], 1)
            ],
            vault=VaultFacts(region="GRA", immutable_days=DAYS),
            definitions=[],
        )

        _, disks = _server(labels, world.domain, world.vault.tenant, world.disk.server.node)

        assert disks == {str(world.disk.pk): world.disk}
