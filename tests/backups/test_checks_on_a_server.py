"""Scrub, check with keys and lock report against a real S3 server, with the keeper's own credential."""

from __future__ import annotations

import os

import pytest
from django.utils import timezone

from backups.checking import Outcome
from backups.damage import review_damage
from backups.lock_coverage import check_locks
from backups.models import Backup
from backups.verifier import request_verification, verify_backup
from tests.backups.conftest import MIB, Site
from vaults.damage import Damage
from vaults.models import Alarm, StoredObject
from vaults.scrubber import scrub_vault

pytestmark = pytest.mark.stack


def test_what_a_backup_stored_is_read_opened_and_locked_and_what_is_not_there_is_missing(site: Site) -> None:
    disk = site.server("web01", content=os.urandom(3 * MIB))
    definition = site.definition(disk)
    site.back_up(definition)
    with open(site.path(disk), "r+b") as file:
        file.write(os.urandom(200_000))
    backup = site.back_up(definition).backup
    vault_id = str(site.vault.pk)

    result = scrub_vault(vault_id=vault_id, clock=timezone.now)
    job = request_verification(backup=backup, actor=site.admin, now=timezone.now())
    verdict = verify_backup(job_id=job.pk, clock=timezone.now)
    coverage = check_locks(site.vault, now=timezone.now())

    stored = StoredObject.objects.filter(status="stored")
    assert result.looked_at == stored.count() >= 6
    assert (result.damaged, result.put_off) == ([], 0)
    assert verdict is not None and verdict.outcome == Outcome.VERIFIED, verdict
    assert coverage.is_kept and coverage.backup_count == 2
    assert not Alarm.objects.filter(
        vault=site.vault, code__in=["damaged_objects", "locks_short", "keeper_down"]
    ).exists()

    pack, segment = (StoredObject.objects.filter(used_by__manifest=backup.manifest, kind=kind)[0] for kind in "pi")
    # Nobody can delete them: the ledger is told of a key and of a version that the server never had.
    StoredObject.objects.filter(pk=pack.pk).update(key=pack.key[:-4] + "0000", read_at=None)
    other = StoredObject.objects.filter(kind="m").exclude(pk=segment.pk)[0].version_id
    StoredObject.objects.filter(pk=segment.pk).update(version_id=other, read_at=None)
    result = scrub_vault(vault_id=vault_id, clock=timezone.now)

    found = dict(StoredObject.objects.exclude(damage="").values_list("pk", "damage"))
    assert found == {pack.pk: Damage.MISSING, segment.pk: Damage.WRONG_VERSION}
    assert review_damage(vault_id=vault_id, now=timezone.now()) >= 1
    assert Backup.objects.get(pk=backup.pk).health == "damaged"
