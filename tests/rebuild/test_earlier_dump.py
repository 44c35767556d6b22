"""The database comes back from an earlier copy: what only the vault knows is taken in, and all of it restores."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from backups.describing import describe_domain
from backups.models import Backup
from backups.removal import rounds
from backups.states import BackupStatus, JobState
from definitions.models import Definition
from tests.backups.conftest import MIB, Site
from vaults.models import Removal, RemovalRun, Vault

pytestmark = [pytest.mark.stack, pytest.mark.case("CP-15", "CP-14")]


def _change(site: Site, path: Path, number: int) -> bytes:
    with path.open("r+b") as file:
        file.seek(number * MIB)
        file.write(os.urandom(100_000))
    return path.read_bytes()


@pytest.mark.skipif(connection.vendor != "sqlite", reason="copies the database with SQLite's own backup")
def test_backups_of_both_sides_of_the_dump_restore(site: Site) -> None:
    disk = site.server("web01", content=os.urandom(3 * MIB))
    definition, contents = site.definition(disk), {}
    for number in range(2):
        contents[number] = _change(site, site.path(disk), number)
        assert site.back_up(definition).state == JobState.OK
        if number == 0:
            describe_domain(Backup.objects.get().manifest.domain_id)
            dump = sqlite3.connect(":memory:")
            connection.connection.backup(dump)
    lost = Backup.objects.select_related("manifest").latest("sequence")

    dump.backup(connection.connection)
    dump.close()
    call_command("after_database_restore")
    assert Backup.objects.count() == 1 and not Backup.objects.filter(pk=lost.pk).exists()
    # Life goes on before anything was compared: a backup with the number of the lost one, and a restore.
    contents[2] = _change(site, site.path(disk), 2)
    job = site.back_up(Definition.objects.get(pk=definition.pk))
    assert job.state == JobState.OK, job.message
    _assert_restores(site, Backup.objects.order_by("created_at")[0], contents[0])
    rounds.remove_everywhere(now=timezone.now())
    assert not RemovalRun.objects.exists()

    for _ in range(2):
        rounds.reconcile_everywhere(now=timezone.now())

    vault = Vault.objects.get()
    assert (vault.removal_stopped, vault.reconciled_at is not None) == ("", True)
    assert not Removal.objects.exists()
    found = {backup.manifest.sha256: backup for backup in Backup.objects.in_catalogue().filter(status=BackupStatus.OK)}
    assert len(found) == 3 and len({backup.sequence for backup in found.values()}) == 3
    adopted = found[lost.manifest.sha256]
    assert (adopted.tenant_id, adopted.disk_id, adopted.name) == (lost.tenant_id, disk.pk, lost.name)
    _assert_restores(site, adopted, contents[1])
    newest = Backup.objects.get(pk=job.backup_id)
    _assert_restores(site, newest, contents[2])
    # And the chain goes on from there.
    contents[3] = _change(site, site.path(disk), 0)
    assert site.back_up(Definition.objects.get(pk=definition.pk)).state == JobState.OK


def _assert_restores(site: Site, backup: Backup, content: bytes) -> None:
    target = site.server(f"for-{backup.pk.hex[-6:]}")
    job = site.restore(backup, target)
    assert job.state == JobState.OK, job.message
    assert site.path(target).read_bytes() == content
