"""File backups from a definition to a file and back: the same jobs, fences and states as those of a vault."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import os
import threading
import time
from datetime import timedelta

import pytest
import zstandard
from django.utils import timezone

from agents.models import Disk
from agents.program import copies as program
from agents.program.session import SessionClient, SessionEndedError
from backups import retainer, runner, verifier
from backups.accounting import stored_bytes, usage_of
from backups.models import Backup, Job
from backups.services import cancel_job, remove_backups, request_backup
from backups.states import BackupHealth, BackupStatus, JobState
from backups.transitions import claim_job
from common.errors import ConflictError, InvalidInputError
from definitions.models import Definition
from tests.copies.conftest import MIB, Site, other_disk

pytestmark = pytest.mark.stack
UNPACK = {"off": bytes, "gzip": gzip.decompress, "bzip2": bz2.decompress, "zstd": zstandard.decompress}
CONTENT = os.urandom(MIB) + bytes(MIB) + os.urandom(MIB // 2 + 7)


def test_a_copy_is_the_disk_with_a_manifest_beside_it_and_comes_back_whole(site: Site) -> None:
    site.write(site.disk, CONTENT)
    target = other_disk(site, size_bytes=5 * MIB)
    whole = CONTENT + bytes(4 * MIB - len(CONTENT))
    for compression, unpack in UNPACK.items():
        job = site.back_up(site.definition(name=compression, compression=compression))

        backup = Backup.objects.get(pk=job.backup_id)
        assert (job.state, backup.status) == (JobState.OK, BackupStatus.OK), job.message
        data = site.file_of(backup).read_bytes()
        assert (
            unpack(data) if compression != "zstd" else zstandard.ZstdDecompressor().decompressobj().decompress(data)
        ) == whole
        assert (backup.checksum, backup.stored_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        manifest = json.loads(site.file_of(backup).with_name(site.file_of(backup).name + ".json").read_text())
        assert (manifest["sha256"], manifest["facts"]["backup"]) == (backup.sha256, str(backup.pk))
        restored = site.restore(backup, target)
        assert restored.state == JobState.OK, restored.message
        assert site.path(target).read_bytes()[: 4 * MIB] == whole
        target.refresh_from_db()
        assert target.incomplete_since is None
    backups = Backup.objects.filter(tenant=site.disk.tenant)
    total = sum(backups.values_list("stored_bytes", flat=True))
    assert (usage_of(site.disk.tenant, now=timezone.now()).used_bytes, stored_bytes(site.disk.tenant)) == (total, total)
    assert site.file_of(backups.get(compression="off")).stat().st_blocks * 512 < 4 * MIB


def test_retention_and_deletion_remove_file_and_manifest_and_give_the_bytes_back(site: Site) -> None:
    site.write(site.disk, CONTENT)
    definition = site.definition(retention_count=1)
    first, second = (Backup.objects.get(pk=site.back_up(definition).backup_id) for _ in range(2))

    assert retainer.apply_retention(definition_id=str(definition.pk), now=timezone.now()) == 1
    assert site.tend().erased == 1 and site.tend().erased == 0

    first.refresh_from_db()
    assert first.erased_at is not None and site.files() == sorted(
        [site.file_of(second).name, site.file_of(second).name + ".json"]
    )
    assert usage_of(site.disk, now=timezone.now()).total_bytes == second.stored_bytes
    remove_backups(backups=[second], actor=site.admin, now=timezone.now())
    site.tend()
    assert (site.files(), usage_of(site.disk, now=timezone.now()).total_bytes) == ([], 0)


@pytest.mark.case("CP-02")
def test_a_killed_attempt_leaves_a_leftover_for_the_next_and_can_do_nothing_more(site: Site, monkeypatch) -> None:
    site.write(site.disk, CONTENT)
    definition = site.definition()
    job = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    dead = claim_job(job_id=job.pk, now=timezone.now())
    client = SessionClient(gate_url=runner.settings.CONFIG.gate_url, token=dead.token, retry_seconds=0)
    work = client.open()
    folder = os.path.join(site.storage.path, os.path.dirname(work.at.place))
    os.makedirs(folder)
    for name in (".partial", ".json.0a0b0c0d.partial"):
        with open(os.path.join(site.storage.path, work.at.place + name), "w") as file:
            file.write("cut")
    with open(os.path.join(site.storage.path, "backups", ".storage"), "w") as file:
        file.write(str(site.storage.pk))
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))

    ended = site.run(job)

    backup = Backup.objects.get(pk=job.backup_id)
    assert (ended.state, ended.fence) == (JobState.OK, 2)
    assert backup.place != work.at.place and site.files() == [
        site.file_of(backup).name,
        site.file_of(backup).name + ".json",
    ]
    with pytest.raises(SessionEndedError):
        client.copied(program.protocol.CopyDone(sha256="0" * 64, file_bytes=1, size_bytes=1, read_bytes=1))
    backup.refresh_from_db()
    assert backup.status == BackupStatus.OK and backup.sha256 != "0" * 64


def test_a_cancel_ends_a_slow_copy_with_the_next_heartbeat_and_nothing_is_left(site: Site, monkeypatch) -> None:
    """Counted in beats: how long two of them take is up to the machine. The whole copy takes 48 seconds at least."""
    beats: list[bool] = []
    beat = SessionClient.heartbeat

    def heartbeat(self: SessionClient, progress: program.protocol.Progress) -> program.protocol.HeartbeatAnswer:
        place = len(beats)
        beats.append(False)
        answer = beat(self, progress)
        beats[place] = answer.cancel
        return answer

    monkeypatch.setattr(SessionClient, "heartbeat", heartbeat)
    site.write(site.disk, os.urandom(4 * MIB))
    job = request_backup(definition=site.definition(bandwidth_limit=64 * 1024), actor=site.admin, now=timezone.now())
    mover = threading.Thread(target=runner.run_job, kwargs={"job_id": str(job.pk)})
    begun = timezone.now()
    mover.start()
    while not Job.objects.filter(pk=job.pk, done_bytes__gt=0).exists():
        assert timezone.now() - begun < timedelta(seconds=120)
        time.sleep(0.05)
    asked = timezone.now()
    cancel_job(job=job, actor=site.admin, now=asked)
    before = len(beats)
    mover.join()

    job.refresh_from_db()
    assert job.state == JobState.CANCELED and job.finished_at - asked < timedelta(seconds=30)
    told = beats[before:]
    assert len(told) <= 2 and all(told), "a beat that begins after the request says so"
    assert site.files() == [] and not Backup.objects.filter(pk=job.backup_id).exists()


@pytest.mark.parametrize("fault", ["full", "changed", "away"])
def test_what_fails_says_why_and_leaves_nothing(site: Site, monkeypatch, fault: str) -> None:
    site.write(site.disk, CONTENT)
    definition = site.definition()
    if fault == "full":
        monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result((512, 512, 9, 1, 1, 1, 1, 1, 1, 1)))
    elif fault == "changed":
        real = program.write_copy

        def write(*args: object, **options: object) -> object:
            os.utime(site.path(site.disk))
            return real(*args, **options)

        monkeypatch.setattr(program, "write_copy", write)
    else:
        site.back_up(definition)
        os.rename(site.storage.path + "/backups", site.folder / "elsewhere")

    job = site.back_up(definition)

    code = {"full": "no_space", "changed": "disk_changed", "away": "storage_away"}[fault]
    assert (job.state, job.code) == (JobState.FAILED, code)
    assert site.files() == []


@pytest.mark.case("RS-01")
def test_a_restore_is_refused_before_anything_is_destroyed(site: Site) -> None:
    site.write(site.disk, CONTENT)
    backup = Backup.objects.get(pk=site.back_up(site.definition()).backup_id)
    small, elsewhere, target = (other_disk(site, size_bytes=size * MIB) for size in (3, 4, 4))
    elsewhere.server.node = Disk.objects.exclude(server__node=site.node).first() or _other_node(site)
    for disk, code in ((small, "target_too_small"), (elsewhere, "copy_elsewhere")):
        with pytest.raises((ConflictError, InvalidInputError)) as caught:
            site.restore(backup, disk)
        assert caught.value.code == code
    before = site.path(target).read_bytes()
    data = bytearray(site.file_of(backup).read_bytes())
    data[123] ^= 1
    site.file_of(backup).write_bytes(data)

    job = site.restore(backup, target)

    assert (job.state, job.code) == (JobState.FAILED, "copy_damaged")
    assert site.path(target).read_bytes() == before
    target.refresh_from_db()
    assert target.incomplete_since is None


def _other_node(site: Site) -> object:
    from tests.factories import make_node

    return make_node(site.disk.tenant)


def test_copies_are_read_again_on_schedule_and_on_demand(site: Site) -> None:
    site.write(site.disk, CONTENT)
    backup = Backup.objects.get(pk=site.back_up(site.definition(compression="zstd")).backup_id)
    assert verifier.request_due_verifications(now=timezone.now()) == 1

    job = site.run(Job.objects.get(backup=backup, kind="verify"))

    backup.refresh_from_db()
    assert (job.state, backup.health) == (JobState.OK, BackupHealth.VERIFIED), job.message
    assert verifier.request_due_verifications(now=timezone.now()) == 0
    data = site.file_of(backup).read_bytes()
    site.file_of(backup).write_bytes(data[:-1] + b"x")
    again = site.run(verifier.request_verification(backup=backup, actor=site.admin, now=timezone.now()))
    backup.refresh_from_db()
    assert (again.state, again.code) == (JobState.FAILED, "backup_damaged")
    assert (backup.health, backup.damaged_bytes) == (BackupHealth.DAMAGED, backup.size_bytes)
    site.file_of(backup).unlink()
    site.run(verifier.request_verification(backup=backup, actor=site.admin, now=timezone.now()))
    backup.refresh_from_db()
    assert (backup.health, backup.status) == (BackupHealth.MISSING, BackupStatus.LOST)


def test_a_definition_of_copies_is_refused_where_it_cannot_work(site: Site) -> None:
    other, unattached = make_other(site, attached=True), make_other(site, attached=False)
    bad = [
        ({"storage": None}, "storage"),
        ({"storage": site.disk.storage}, "storage"),
        ({"storage": other}, "backup_node"),
        ({"storage": unattached}, "backup_node"),
        ({"backup_node": other.node}, "storage"),
        ({"immutable_days": 20}, "immutable_days"),
        ({"type": "dataset"}, "type"),
        ({"type": "vault", "compression": "off"}, "backup_node"),
    ]
    for changes, field in bad:
        with pytest.raises(InvalidInputError) as caught:
            site.definition(**changes)
        assert caught.value.field == field, changes
    site.node.is_backup = False
    site.node.save()
    with pytest.raises(InvalidInputError, match="not a backup node"):
        site.definition()
    assert not Definition.objects.exists()


def make_other(site: Site, *, attached: bool) -> object:
    from tests.factories import make_node, make_storage

    return make_storage(make_node(*([site.disk.tenant] if attached else [])))
