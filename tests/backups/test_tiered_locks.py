"""A backup that is promised longer is locked longer, the packs that it shares with others included."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from django.utils import timezone

from backups.states import JobState
from tests.backups.conftest import MIB, Site
from vaults.models import StoredObject
from vaults.storage import see_object

pytestmark = pytest.mark.stack


def test_shared_packs_are_locked_as_long_as_the_longest_promise(site: Site) -> None:
    disk = site.server("web01", content=os.urandom(2 * MIB))
    short = site.back_up(site.definition(disk, name="daily")).backup
    with open(site.path(disk), "r+b") as file:
        file.write(os.urandom(1000))

    job = site.back_up(site.definition(disk, name="yearly", immutable_days=365))

    assert job.state == JobState.OK, job.message
    promised = job.backup.immutable_until
    assert promised > timezone.now() + timedelta(days=364)
    rows = [job.backup.manifest, *StoredObject.objects.filter(used_by__manifest=job.backup.manifest)]
    assert {row.kind for row in rows} == {"p", "i", "k", "m"}
    assert any(row.used_by.filter(manifest=short.manifest).exists() for row in rows if row.kind == "p")
    for row in rows:
        seen = see_object(site.vault, key=row.key, version_id=row.version_id)
        assert seen.retain_until == row.retain_until >= promised
    # What only the short promise needs stays as it was.
    assert short.manifest.retain_until < timezone.now() + timedelta(days=60)


def test_a_bandwidth_limit_reaches_the_writer(site: Site) -> None:
    disk = site.server("web01", content=os.urandom(2 * MIB))

    job = site.back_up(site.definition(disk, bandwidth_limit=MIB))

    assert job.state == JobState.OK, job.message
    # 2 MiB at 1 MiB a second; the first quarter of a second may be saved up.
    assert job.mover_wall_seconds > 1.6
