"""The night on which the database is gone: bucket and recovery key make the catalogue again, and it restores."""

from __future__ import annotations

import base64
import os
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pydantic import SecretStr

from agents.models import Disk, Node
from agents.program.signing import load_writer_key
from agents.services import report_node
from backups.describing import describe_domain
from backups.lock_coverage import coverage_of
from backups.models import Backup, Job
from backups.moved_packs import moved_packs_of
from backups.removal import rounds
from backups.removal.repacking import repack_vault
from backups.server_moves import move_server
from backups.states import BackupStatus, JobState
from backupsite.installation import write_fixed_rows
from engine.alone.s3 import S3Bucket
from engine.crypto import key_fingerprint
from engine.recovery import RecoveryKey
from tenants.models import Person, Tenant
from tenants.services import create_tenant
from tests.backups.conftest import MIB, Site
from vaults.custody import active_key, catalogue_key_of, private_key_of
from vaults.models import ObjectUse, StoredObject, Vault

pytestmark = pytest.mark.stack


def _recovery_key(tenant: Tenant) -> RecoveryKey:
    catalogue = catalogue_key_of(tenant.pk)
    return RecoveryKey(
        tenant_private_key=private_key_of(active_key(tenant.pk)),
        catalogue_fingerprint=key_fingerprint(catalogue.public),
    )


def _lose_the_database(site: Site, settings) -> None:
    """Everything is gone but the bucket; the service is installed anew, with another master key."""
    call_command("flush", interactive=False, verbosity=0)
    key = SecretStr(base64.b64encode(os.urandom(32)).decode())
    settings.CONFIG = settings.CONFIG.model_copy(update={"master_key": key})
    write_fixed_rows(embedded=True)
    writer = load_writer_key(settings.CONFIG.node_directory)
    report_node(name="local", now=timezone.now(), signing_public_key=None)
    assert writer.public and not Backup.objects.exists()


def _rebuild(site: Site, key: RecoveryKey, tmp_path: Path) -> None:
    path = tmp_path / "recovery-key"
    path.write_text(key.encode())
    path.chmod(0o600)
    call_command("rebuild_catalogue", site.vault.bucket, region="GRA", recovery_key_file=path)


def test_the_catalogue_is_made_again_and_its_backups_restore(site: Site, settings, tmp_path: Path) -> None:
    disk = site.server("web01", content=os.urandom(3 * MIB))
    definition = site.definition(disk)
    contents = []
    for number in range(2):
        with open(site.path(disk), "r+b") as file:
            file.seek(number * MIB)
            file.write(os.urandom(50_000))
        assert site.back_up(definition).state == JobState.OK
        contents.append(site.path(disk).read_bytes())
    describe_domain(Backup.objects.first().manifest.domain_id)
    before = [
        (row.name, row.sequence, row.server_name, row.size_bytes, row.manifest.sha256, row.created_at)
        for row in Backup.objects.order_by("sequence")
    ]
    uses = set(ObjectUse.objects.values_list("manifest__key", "needed__key"))
    versions = dict(StoredObject.objects.filter(status="stored").values_list("key", "version_id"))
    key = _recovery_key(site.tenant)

    _lose_the_database(site, settings)
    _rebuild(site, key, tmp_path)
    _rebuild(site, key, tmp_path)  # May be run again; nothing is there twice.

    after = [
        (row.name, row.sequence, row.server_name, row.size_bytes, row.manifest.sha256, row.created_at)
        for row in Backup.objects.order_by("sequence")
    ]
    assert after == before
    assert set(ObjectUse.objects.values_list("manifest__key", "needed__key")) == uses
    known = dict(StoredObject.objects.values_list("key", "version_id"))
    assert {key: known.get(key) for key in versions} == versions
    tenant = Tenant.objects.get(title="Acme")
    again = Site(
        data=site.data,
        tenant=tenant,
        vault=tenant.vaults.get(),
        node=Node.objects.get(name="local"),
        admin=Person.objects.create(username="root", is_superuser=True),
    )
    target = again.server("web02")
    for backup, content in zip(Backup.objects.order_by("sequence"), contents, strict=True):
        job: Job = again.restore(backup, target)
        assert job.state == JobState.OK, job.message
        assert again.path(target).read_bytes() == content
    assert Backup.objects.get(sequence=1).status == BackupStatus.OK


def test_nothing_is_removed_after_a_rebuild_until_the_vault_was_compared(site: Site, settings, tmp_path: Path) -> None:
    disk = site.server("web01", content=os.urandom(MIB))
    site.back_up(site.definition(disk))
    describe_domain(Backup.objects.get().manifest.domain_id)
    key = _recovery_key(site.tenant)
    _lose_the_database(site, settings)

    _rebuild(site, key, tmp_path)

    assert Vault.objects.get().removal_stopped
    rounds.reconcile_everywhere(now=timezone.now())
    vault = Vault.objects.get()
    assert not vault.removal_stopped and vault.reconciled_at is not None


def test_a_wrong_recovery_key_finds_nothing_and_says_so(site: Site, settings, tmp_path: Path) -> None:
    disk = site.server("web01", content=os.urandom(MIB))
    site.back_up(site.definition(disk))
    describe_domain(Backup.objects.get().manifest.domain_id)
    other = RecoveryKey.generate(catalogue_fingerprint=bytes(32), random_bytes=os.urandom)
    _lose_the_database(site, settings)

    with pytest.raises(SystemExit) as stopped:
        _rebuild(site, other, tmp_path)

    assert stopped.value.code == 3
    assert not Backup.objects.exists()


def test_a_recovery_key_that_others_can_read_is_refused(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("x")
    path.chmod(0o644)
    with pytest.raises(CommandError, match="chmod 600"):
        call_command("rebuild_catalogue", "bucket", region="GRA", recovery_key_file=path)


@pytest.mark.parametrize("is_covered", [True, False])
def test_a_backup_whose_packs_were_moved_and_are_gone_is_rebuilt_through_relocations(
    site: Site, settings, tmp_path: Path, is_covered: bool
) -> None:
    """No lock of a real server ends while a test waits: the bucket is listed without what would have been deleted."""
    disk = site.server("web01", content=os.urandom(6 * MIB))
    definition = site.definition(disk)
    first = site.back_up(definition).backup
    with open(site.path(disk), "r+b") as file:
        file.write(os.urandom(4 * MIB))
    second = site.back_up(definition).backup
    content, manifest_key = site.path(disk).read_bytes(), second.manifest.key
    Backup.objects.filter(pk=first.pk).update(removed_at=timezone.now())
    StoredObject.objects.update(granted_at=timezone.now() - timedelta(days=3))
    Vault.objects.update(reconciled_at=timezone.now())
    assert repack_vault(vault_id=str(site.vault.pk), now=timezone.now()).moved_packs == 1
    gone = {moved_packs_of(second.manifest).get().key, first.manifest.key}
    if not is_covered:
        gone.add(second.manifest.uses.get(needed__kind="r").needed.key)
    describe_domain(second.manifest.domain_id)
    key = _recovery_key(site.tenant)
    _lose_the_database(site, settings)
    real = S3Bucket.versions

    def versions(bucket: S3Bucket, prefix: str):
        return ([*group] for group in real(bucket, prefix) if group[0].key not in gone)

    with mock.patch.object(S3Bucket, "versions", versions):
        if not is_covered:
            with pytest.raises(SystemExit):
                _rebuild(site, key, tmp_path)
            assert not Backup.objects.exists()
            return
        _rebuild(site, key, tmp_path)
        _rebuild(site, key, tmp_path)

    backup = Backup.objects.get(manifest__key=manifest_key)
    assert [row.status for row in moved_packs_of(backup.manifest)] == ["deleted"]
    assert not coverage_of(backup.vault, now=timezone.now()).violation_count
    tenant = Tenant.objects.get(title="Acme")
    admin = Person.objects.create(username="root", is_superuser=True)
    again = Site(site.data, tenant, tenant.vaults.get(), Node.objects.get(name="local"), admin)
    target = again.server("web02")
    job = again.restore(backup, target)
    assert job.state == JobState.OK, job.message
    assert again.path(target).read_bytes() == content


def _back_up_and_move(site: Site) -> tuple[Disk, Tenant]:
    disk = site.server("web01", content=os.urandom(MIB))
    assert site.back_up(site.definition(disk)).state == JobState.OK
    domain_id = Backup.objects.get().manifest.domain_id
    describe_domain(domain_id)
    other = create_tenant(title="Other", actor=None)
    move_server(server=disk.server, tenant=other, confirmation="web01", actor=site.admin)
    describe_domain(domain_id)
    return disk, other


def test_what_was_moved_to_a_tenant_who_is_deleted_is_placed_where_it_was_made(
    site: Site, settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk, other = _back_up_and_move(site)
    still = site.server("web02", content=os.urandom(MIB))
    assert site.back_up(site.definition(still)).state == JobState.OK
    describe_domain(Backup.objects.get(server=still.server).manifest.domain_id)
    key = _recovery_key(site.tenant)
    _lose_the_database(site, settings)
    # An earlier dump, which knows of the tenant only that it is gone.
    Tenant.objects.create(pk=other.pk, suffix=other.suffix, name=other.name, title="Other", status="deleted")

    _rebuild(site, key, tmp_path)
    _rebuild(site, key, tmp_path)

    former = Tenant.objects.get(title="Acme")
    assert list(Backup.objects.order_by("server_name").values_list("server_name", "tenant", "server__tenant")) == [
        ("web01", former.pk, former.pk),
        ("web02", former.pk, former.pk),
    ]
    backup = Backup.objects.get(server_name="web01")
    assert (backup.manifest.domain.held_for, backup.server.domain) == (None, backup.manifest.domain)
    assert backup.disk_id == disk.pk
    assert f"{other.name}, to whom the server was moved, is deleted" in capsys.readouterr().out
    again = Site(
        data=site.data,
        tenant=former,
        vault=backup.vault,
        node=Node.objects.get(name="local"),
        admin=Person.objects.create(username="root", is_superuser=True),
    )
    target = again.server("web03")
    job = again.restore(backup, target)
    assert job.state == JobState.OK, job.message
    assert again.path(target).read_bytes() == site.path(disk).read_bytes()


def test_a_server_that_was_moved_is_given_to_its_present_tenant(site: Site, settings, tmp_path: Path) -> None:
    disk, other = _back_up_and_move(site)
    key, content = _recovery_key(site.tenant), site.path(disk).read_bytes()

    _lose_the_database(site, settings)
    _rebuild(site, key, tmp_path)
    _rebuild(site, key, tmp_path)

    backup = Backup.objects.get()
    domain = backup.manifest.domain
    assert (backup.tenant_id, backup.server.tenant_id, domain.held_for_id) == (other.pk, other.pk, other.pk)
    assert (backup.disk_id, backup.server.name, backup.server.domain) == (disk.pk, "web01", None)
    former = Tenant.objects.get(title="Acme")
    assert (domain.tenant, backup.vault.tenant) == (former, former)
    assert not Backup.objects.filter(tenant=former).exists()
    # What the new tenant is called is not in the former one's bucket.
    assert Tenant.objects.get(pk=other.pk).title == Tenant.objects.get(pk=other.pk).name
    again = Site(
        data=site.data,
        tenant=Tenant.objects.get(pk=other.pk),
        vault=backup.vault,
        node=Node.objects.get(name="local"),
        admin=Person.objects.create(username="root", is_superuser=True),
    )
    target = again.server("web02")
    job = again.restore(backup, target)
    assert job.state == JobState.OK, job.message
    assert again.path(target).read_bytes() == content
