"""Dataset backups, and File backups of ZFS disks, from a definition to the pool and back; `zfs` is the fake one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.utils import timezone

from agents.program.zfs_hosts import UnknownHostError, host_of
from backups import retainer, verifier
from backups.models import Backup, Job
from backups.services import remove_backups
from backups.states import BackupHealth, BackupStatus, JobState
from common.errors import ConflictError, InvalidInputError
from tests.copies import fake_zfs
from tests.copies.conftest import Site, made_by, other_disk
from tests.copies.quick_zfs import Machine
from tests.factories import make_node

pytestmark = pytest.mark.stack


def test_a_dataset_goes_on_is_removed_lost_checked_and_restored(site: Site, pool: Machine) -> None:
    definition = site.definition(type="dataset", retention_count=2)
    first = made_by(site, definition)
    pool.write("tank/vms/web", "second content " * 30)
    second = made_by(site, definition)
    pool.write("tank/vms/web", "third content")
    third = made_by(site, definition)

    assert [one.full_reason for one in (first, second, third)] == ["first_backup", "", ""]
    assert len({one.place.partition("@")[0] for one in (first, second, third)}) == 1
    assert third.checksum.startswith("guid:") and third.stored_bytes > 0
    assert retainer.apply_retention(definition_id=str(definition.pk), now=timezone.now()) == 1
    assert site.tend().erased == 1
    chain = third.place.partition("@")[0]
    assert len(pool.names()[chain]) == 2

    job = site.restore(second, site.disk)
    assert (job.state, pool.content("tank/vms/web")) == (JobState.OK, "second content " * 30), job.message
    check = site.run(verifier.request_verification(backup=third, actor=site.admin, now=timezone.now()))
    third.refresh_from_db()
    assert (check.state, third.health) == (JobState.OK, BackupHealth.VERIFIED), check.message

    good = pool.state["sets"]
    pool.change(sets={name: one for name, one in good.items() if not name.startswith("tank/copies/")})
    assert site.tend().lost == 2
    pool.change(sets=good)
    assert site.tend().back == 2
    third.refresh_from_db()
    assert third.status == BackupStatus.OK
    remove_backups(backups=Backup.objects.in_catalogue(), actor=site.admin, now=timezone.now())
    site.tend()
    assert pool.names() == {name: [] for name in ("tank", "tank/vms", "tank/copies", "tank/vms/web")} | {
        chain.rpartition("/")[0]: []
    }


def test_what_is_encrypted_is_backed_up_checked_and_restored_without_its_key(site: Site, pool: Machine) -> None:
    pool.host.set("tank/vms/web", "encryption", "aes-256-gcm")
    backup = made_by(site, site.definition(type="dataset"))
    assert pool.host.value(backup.place.partition("@")[0], "encryption") == "aes-256-gcm"

    check = site.run(verifier.request_verification(backup=backup, actor=site.admin, now=timezone.now()))
    backup.refresh_from_db()
    assert (check.state, backup.health) == (JobState.OK, BackupHealth.VERIFIED), check.message
    job = site.restore(backup, site.disk)
    assert (job.state, pool.content("tank/vms/web")) == (JobState.OK, "first content " * 30), job.message


def test_two_definitions_go_on_from_their_own_and_the_sweep_takes_what_nobody_needs(site: Site, pool: Machine) -> None:
    one, two = (site.definition(type="dataset", name=name) for name in ("one", "two"))
    for definition in (one, two, one, two):
        made_by(site, definition)
        pool.write("tank/vms/web", f"after {definition.name}")
    pool.host.snapshot("tank/vms/web", "bs-leftover", disk=str(site.disk.pk))
    pool.host.snapshot("tank/vms/web", "bs-foreign", disk="another one")

    assert list(Backup.objects.values_list("full_reason", flat=True)).count("") == 2
    site.tend()
    newest = [Backup.objects.filter(definition=one_of).latest("created_at") for one_of in (one, two)]
    assert pool.names()["tank/vms/web"] == sorted(
        ["bs-foreign", *(backup.place.partition("@")[2] for backup in newest)]
    )


def test_what_fails_leaves_neither_backup_nor_snapshot(site: Site, pool: Machine) -> None:
    definition = site.definition(type="dataset")
    before = pool.names()
    for verb in ("snapshot", "receive"):
        pool.change(faults={verb: "fail"})

        job = site.back_up(definition)

        assert (job.state, job.code) == (JobState.FAILED, "zfs_failed"), verb
        assert not Backup.objects.exists()
        assert {name: snaps for name, snaps in pool.names().items() if name in before} == before
    assert made_by(site, definition).full_reason == "first_backup"


def test_a_full_stream_goes_into_a_file_and_back(site: Site, pool: Machine, tmp_path: Path) -> None:
    site.storage.path = str(tmp_path / "copies")
    site.storage.save()
    backup = made_by(site, site.definition(compression="zstd"))
    assert backup.place.endswith(".zfs.zst") and pool.names()["tank/vms/web"] == []
    manifest = json.loads((site.file_of(backup).parent / (site.file_of(backup).name + ".json")).read_text())
    assert manifest["content"] == "zfs"
    pool.write("tank/vms/web", "broken")
    data = site.file_of(backup).read_bytes()
    site.file_of(backup).write_bytes(data[:-3] + b"xyz")
    failed = site.restore(backup, site.disk)
    assert (failed.state, pool.content("tank/vms/web")) == (JobState.FAILED, "broken")
    site.file_of(backup).write_bytes(data)

    job = site.restore(backup, site.disk)

    assert (job.state, pool.content("tank/vms/web")) == (JobState.OK, "first content " * 30), job.message
    assert list(pool.state["sets"]) == ["tank", "tank/vms", "tank/copies", "tank/vms/web"]


def test_what_zfs_sent_goes_to_zfs_only_and_other_nodes_are_reached_by_what_their_operator_wrote(
    site: Site, pool: Machine, tmp_path: Path
) -> None:
    backup = made_by(site, site.definition(type="dataset"))
    site.disk.storage.path = str(tmp_path / "own")
    image = other_disk(site, size_bytes=4096)
    with pytest.raises(ConflictError) as caught:
        site.restore(backup, image)
    assert caught.value.code == "other_kind_of_disk"
    for changes in ({"type": "vault", "storage": None}, {"type": "file"}):
        with pytest.raises(InvalidInputError):
            site.definition(name="x", **changes)
    site.disk.server.node = make_node(site.disk.tenant, name="n2")
    site.disk.server.save()
    job = site.back_up(site.definition(name="far", type="dataset"))
    assert (job.state, job.code) == (JobState.FAILED, "unknown_host")
    hosts = tmp_path / "zfs-hosts.toml"
    hosts.write_text('[n2]\naddress = "n2.example"\nuser = "backupsite"\nkey = "/k"\nknown_hosts = "/h"\n')
    assert "StrictHostKeyChecking=yes" in host_of(tmp_path, "n2").ssh
    for text in ("[n2", "[n2]\nuser = 3\n"):
        hosts.write_text(text)
        with pytest.raises(UnknownHostError):
            host_of(tmp_path, "n2")
    assert Job.objects.filter(state=JobState.OK).count() == 1 and fake_zfs.new_set()["snapshots"] == {}
