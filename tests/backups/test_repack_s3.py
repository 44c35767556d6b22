"""Repack on a real S3 server with Object Lock: a chain goes on and restores when the old packs are really gone."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from django.utils import timezone

from backups.moved_packs import moved_packs_of, stand_ins
from backups.removal.repacking import repack_vault
from backups.states import JobState
from tests.backups.conftest import MIB, Site
from vaults.models import StoredObject
from vaults.storage import see_object

pytestmark = pytest.mark.stack


def test_a_chain_goes_on_when_the_old_packs_are_gone(site: Site) -> None:
    disk, target = site.server("web01", content=os.urandom(6 * MIB)), site.server("web02")
    definition = site.definition(disk)
    first = site.back_up(definition).backup
    with open(site.path(disk), "r+b") as file:
        file.write(os.urandom(4 * MIB))
    second, content = site.back_up(definition).backup, site.path(disk).read_bytes()
    type(first).objects.filter(pk=first.pk).update(removed_at=timezone.now())
    StoredObject.objects.update(granted_at=timezone.now() - timedelta(days=3))
    site.vault.__class__.objects.update(reconciled_at=timezone.now())

    report = repack_vault(vault_id=str(site.vault.pk), now=timezone.now())

    assert report is not None and report.moved_packs == 1 and 2 * MIB < report.copied_bytes < 3 * MIB
    old = moved_packs_of(second.manifest).get()
    second.refresh_from_db()
    for row in stand_ins(second.manifest, [old]):
        seen = see_object(site.vault, key=row.key, version_id=row.version_id)
        assert seen.lock_mode == "COMPLIANCE" and seen.retain_until >= second.immutable_until
    # No lock of a real server ends while a test waits. To the service the pack is gone: the gate grants no read of it.
    StoredObject.objects.filter(pk=old.pk).update(status="deleted", condemned_epoch=1, deleted_at=timezone.now())
    with open(site.path(disk), "r+b") as file:
        file.seek(5 * MIB)
        file.write(os.urandom(100_000))
    job = site.back_up(definition)
    assert job.state == JobState.OK, job.message
    third, newer = job.backup, site.path(disk).read_bytes()
    assert third.stored_bytes < MIB, "what was moved was stored again"
    assert list(moved_packs_of(third.manifest)) == [old]
    for backup, expected in ((second, content), (third, newer)):
        job = site.restore(backup, target)
        assert job.state == JobState.OK, job.message
        assert site.path(target).read_bytes() == expected
