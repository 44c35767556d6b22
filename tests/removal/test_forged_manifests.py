"""A manifest is signed by a host, and a host may lie: what it says is held against what can be."""

from __future__ import annotations

import pytest

from agents.models import WriterKey
from backups.models import Backup
from backups.removal.claims import SEQUENCE_END
from tests import factories
from tests.removal.forging import forge, put
from tests.removal.test_adoption import DAY, _back_up, _stands, _told, _vault
from tests.removal.world import now, running
from vaults.models import StoredObject

pytestmark = pytest.mark.django_db

_REFUSED = {
    "naive": {"created_at": "2026-02-01T00:00:00"},
    "no date": {"created_at": "yesterday"},
    "beyond the calendar": {"created_at": "0001-01-01T00:00:00+23:59"},
    "beyond its end": {"created_at": "9999-12-31T23:59:59-23:59"},
    "ancient": {"created_at": "1970-01-01T00:00:00+00:00"},
    "no uuid": {"source_id": "disk"},
    "other uuid": {"source_id": "{0}"},
    "other sequence": {"sequence": 77, "named": {"sequence": 78}},
    "other source": {"named": {"source_id": "00000000-0000-4000-8000-000000000000"}},
    "endless sequence": {"sequence": 1 << 63},
    "negative sequence": {"sequence": -1, "named": {"sequence": 5}},
    "needs what is not there": {"packs": "unknown"},
}


@pytest.mark.parametrize("name", _REFUSED)
def test_a_manifest_that_tells_nonsense_is_told_and_the_others_are_adopted(name: str) -> None:
    with running() as (world, _clock):
        backup = _back_up(world)
        body = world.body_of(backup)
        changes = {"sequence": 40, **_REFUSED[name]}
        if name == "other uuid":
            changes["source_id"] = body.source_id.replace("-", "")
        if name == "needs what is not there":
            changes["packs"] = [type(body.packs[0])(b"\7" * 32, 5, None, 1)]
        bad = forge(world, body, **changes)
        early, late = forge(world, body, sequence=1000), forge(world, body, sequence=2)

        world.reconcile()

        adopted = set(Backup.objects.exclude(pk=backup.pk).values_list("manifest__key", flat=True))
        assert adopted == {early, late}
        assert bad in _told() and _vault(world).removal_stopped
        assert not _stands("reconciling_failed")


@pytest.mark.parametrize("year", [2126, 9999])
def test_a_manifest_from_the_future_is_dated_by_the_vault(year: int) -> None:
    with running() as (world, _clock):
        backup = _back_up(world)
        key = forge(world, world.body_of(backup), sequence=2, created_at=f"{year}-12-31T23:59:59+00:00")

        world.reconcile()

        found = Backup.objects.get(manifest__key=key)
        assert found.created_at == found.finished_at == now() + DAY
        assert found.immutable_until <= now() + DAY * 30


def test_figures_that_fit_no_column_are_left_out() -> None:
    with running() as (world, _clock):
        body = world.body_of(_back_up(world))
        key = forge(world, body, sequence=2, counters={"read_bytes": (1 << 64) - 1, "changed_bytes": -1})

        world.reconcile()

        found = Backup.objects.get(manifest__key=key)
        assert (found.read_bytes, found.changed_bytes, found.size_bytes) == (None, None, body.size_bytes)


def test_a_sequence_is_given_once_and_none_near_the_end() -> None:
    with running() as (world, _clock):
        backup = _back_up(world)
        body = world.body_of(backup)
        twins = {forge(world, body, sequence=7, size_bytes=size) for size in (4096, 8192)}
        last = forge(world, body, sequence=SEQUENCE_END)

        world.reconcile()

        found = Backup.objects.filter(manifest__key__in=twins)
        assert sorted(found.values_list("sequence", flat=True), key=str) == [7, None]
        assert Backup.objects.get(manifest__key=last).sequence is None
        assert _back_up(world).sequence == 8


def test_a_host_brings_no_backup_for_the_disk_of_another_server() -> None:
    with running() as (world, _clock):
        body = world.body_of(_back_up(world))
        other = factories.disk_of(factories.make_server(world.vault.tenant))
        key = forge(world, body, source_id=str(other.pk))

        world.reconcile()

        found = Backup.objects.get(manifest__key=key)
        assert (found.disk, found.server, found.sequence) == (None, None, None)
        assert not other.backups.exists()


def test_an_object_that_is_named_like_none_of_ours_gets_no_row() -> None:
    with running() as (world, _clock):
        _back_up(world)
        keys = [f"t/{world.vault.tenant_id}/d/{world.domain.pk}/{name}" for name in ("p/junk", "zz/" + "a" * 64)]
        for key in keys:
            put(world, key, b"junk")

        world.reconcile()

        assert not StoredObject.objects.filter(key__in=keys).exists()
        assert all(key in _told() for key in keys) and _vault(world).removal_stopped


def test_a_manifest_that_is_gone_is_told_and_the_others_are_adopted() -> None:
    with running() as (world, _clock):
        body = world.body_of(_back_up(world))
        gone, good = forge(world, body, sequence=5), forge(world, body, sequence=6)
        WriterKey.objects.update(public_key=b"x" * 32)
        world.reconcile()
        WriterKey.objects.update(public_key=world.writer_key.public)
        world.store._versions.pop(f"{world.vault.bucket}/{gone}")

        world.reconcile()

        assert Backup.objects.filter(manifest__key=good).exists()
        assert f"{gone} is not in the vault any more" in _told() and not _stands("reconciling_failed")
