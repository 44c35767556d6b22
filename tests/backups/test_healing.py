"""Self-heal: what a damaged pack held is stored again by the next backup, and earlier backups find it there."""

from __future__ import annotations

import os

import pytest
from django.utils import timezone

from backups.models import Backup
from backups.states import JobState
from tests.backups.conftest import MIB, Site
from vaults.models import RelocatedPack, StoredObject

pytestmark = pytest.mark.stack


def _lose(pack: StoredObject) -> None:
    """The bytes cannot be had any more: the version that the ledger knows is not in the vault."""
    pack.version_id = "0" * 32
    pack.damaged_since, pack.damage = timezone.now(), "missing"
    pack.save()


def _packs(backup: Backup) -> set[int]:
    return set(StoredObject.objects.filter(used_by__manifest=backup.manifest, kind="p").values_list("pk", flat=True))


def test_the_next_backup_heals_the_earlier_ones(site: Site) -> None:
    disk, target = site.server("web01", content=os.urandom(3 * MIB)), site.server("web02")
    definition = site.definition(disk)
    first, first_content = site.back_up(definition).backup, site.path(disk).read_bytes()
    with open(site.path(disk), "r+b") as file:
        file.seek(MIB)
        file.write(os.urandom(200_000))
    second, second_content = site.back_up(definition).backup, site.path(disk).read_bytes()
    lost = StoredObject.objects.get(pk__in=_packs(first))
    _lose(lost)

    broken = site.restore(first, target)
    assert (broken.state, broken.code) == (JobState.FAILED, "damaged")
    third = site.back_up(definition).backup

    assert lost.pk not in _packs(third)
    assert RelocatedPack.objects.filter(pack=lost).count() == 1
    for backup, content in ((third, second_content), (second, second_content)):
        job = site.restore(backup, target)
        assert job.state == JobState.OK, job.message
        assert site.path(target).read_bytes() == content
    # What the first backup had before the change is nowhere else: that, and no more, stays damaged.
    job = site.restore(first, target)
    assert (job.state, job.code) == (JobState.FAILED, "damaged")
    restored = site.path(target).read_bytes()
    assert restored[:MIB] == first_content[:MIB]
    assert restored[MIB + 5 * 65536 :] == first_content[MIB + 5 * 65536 :]


def test_a_backup_after_the_healing_one_is_small_and_whole(site: Site) -> None:
    disk = site.server("web01", content=os.urandom(2 * MIB))
    definition = site.definition(disk)
    first = site.back_up(definition).backup
    _lose(StoredObject.objects.get(pk__in=_packs(first)))

    healing = site.back_up(definition).backup
    after = site.back_up(definition).backup

    assert healing.stored_bytes > 2 * MIB > 100_000 > after.stored_bytes
    assert _packs(after) == _packs(healing)
