"""From a disk to a vault and back, through gate, S3 server and committer."""

from __future__ import annotations

import os
import threading
from datetime import timedelta

import pytest
from django.utils import timezone

from agents.drivers.image import ImageSource
from agents.program.session import SessionClient, SessionEndedError
from agents.protocol import CommitRequest, ObjectMessage, Progress, TargetOpened
from backups import committer, runner, sweeper
from backups.lost_claims import MOST_CLAIMS, MOST_IN_VAIN
from backups.models import Backup, Job, Session
from backups.services import cancel_job, request_backup, request_restore
from backups.states import BackupStatus, JobState
from backups.transitions import claim_job
from common.errors import ConflictError, InvalidInputError
from tests.backups.conftest import MIB, Site
from vaults.models import ObjectUse, StoredObject
from vaults.storage import see_object

pytestmark = pytest.mark.stack


def test_a_backup_is_ok_only_with_every_object_seen_and_locked(site: Site) -> None:
    disk = site.server("web01", content=os.urandom(3 * MIB))

    job = site.back_up(site.definition(disk))

    backup = job.backup
    assert (job.state, backup.status) == (JobState.OK, BackupStatus.OK), job.message
    rows = [backup.manifest, *StoredObject.objects.filter(used_by__manifest=backup.manifest)]
    assert {row.kind for row in rows} == {"p", "i", "k", "m"}
    for row in rows:
        seen = see_object(site.vault, key=row.key, version_id=row.version_id)
        assert seen.lock_mode == "COMPLIANCE"
        assert seen.retain_until == row.retain_until >= backup.immutable_until


@pytest.mark.case("RS-14")
def test_a_second_backup_stores_only_what_changed_and_both_restore_identically(site: Site) -> None:
    disk, target = site.server("web01", content=os.urandom(4 * MIB)), site.server("web02", content=b"old" * MIB)
    definition = site.definition(disk)
    first, first_content = site.back_up(definition).backup, site.path(disk).read_bytes()
    with open(site.path(disk), "r+b") as file:
        file.seek(MIB)
        file.write(os.urandom(100_000))

    second, second_content = site.back_up(definition).backup, site.path(disk).read_bytes()

    assert second.stored_bytes < first.stored_bytes / 5
    assert second.sequence > first.sequence
    for backup, content in ((second, second_content), (first, first_content)):
        job = site.restore(backup, target)
        assert job.state == JobState.OK, job.message
        assert site.path(target).read_bytes() == content
        target.refresh_from_db()
        assert target.incomplete_since is None


def test_reused_packs_are_locked_as_long_as_the_new_backup_promises(site: Site) -> None:
    disk = site.server("web01", content=os.urandom(2 * MIB))
    definition = site.definition(disk)
    first = site.back_up(definition).backup
    # As if the first backup had been made long ago: what the ledger says is too short for a new promise.
    short = timezone.now() + timedelta(days=1)
    StoredObject.objects.filter(used_by__manifest=first.manifest).update(retain_until=short)

    second = site.back_up(definition).backup

    reused = StoredObject.objects.filter(used_by__manifest=second.manifest, kind="p")
    assert reused and all(row.retain_until >= second.immutable_until for row in reused)


@pytest.mark.case("CP-02")
def test_a_lost_worker_is_replaced_and_can_do_nothing_more(site: Site, settings) -> None:
    disk = site.server("web01", content=os.urandom(MIB))
    job = request_backup(definition=site.definition(disk), actor=site.admin, now=timezone.now())
    lost = claim_job(job_id=job.pk, now=timezone.now())
    lost_client = SessionClient(gate_url=settings.CONFIG.gate_url, token=lost.token, retry_seconds=1)
    lost_client.open()
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))

    sweeper.sweep(now=timezone.now())
    runner.run_job(job_id=str(job.pk))
    ended = site.commit(job)

    assert ended.state == JobState.OK, ended.message
    assert Backup.objects.filter(disk=disk, status=BackupStatus.OK).count() == 1
    with pytest.raises(SessionEndedError):
        lost_client.heartbeat(Progress(phase="copying"))
    assert "taken_over" in ended.events.values_list("code", flat=True)


def test_a_worker_that_is_lost_again_and_again_ends_the_job(site: Site) -> None:
    disk = site.server("web01")
    job = request_backup(definition=site.definition(disk), actor=site.admin, now=timezone.now())
    for _ in range(MOST_IN_VAIN):
        assert claim_job(job_id=job.pk, now=timezone.now())
        Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))

    sweeper.sweep(now=timezone.now())

    job.refresh_from_db()
    assert (job.state, job.code) == (JobState.FAILED, "worker_lost")
    assert not Backup.objects.filter(disk=disk).exists()


@pytest.mark.case("AZ-15")
def test_a_commit_that_names_an_object_that_is_not_there_is_refused(site: Site, settings) -> None:
    disk = site.server("web01", content=os.urandom(MIB))
    job = request_backup(definition=site.definition(disk), actor=site.admin, now=timezone.now())
    claim = claim_job(job_id=job.pk, now=timezone.now())
    client = SessionClient(gate_url=settings.CONFIG.gate_url, token=claim.token, retry_seconds=1)
    work = client.open()
    name = "ab" * 32
    key = f"t/{work.tenant}/d/{work.domain}/m/{work.source_id}/{work.sequence:020d}-{name}"
    spec = StoredObject(key=key, sha256=name, md5_base64="AAAAAAAAAAAAAAAAAAAAAA==", size_bytes=10)
    client.grant_puts([spec])
    message = ObjectMessage(key=key, sha256=name, size_bytes=10, version_id="0123456789")

    client.commit(CommitRequest(message, [message], [], read_bytes=1, changed_bytes=1, stored_bytes=1))
    ended = site.commit(job)

    assert (ended.state, ended.code) == (JobState.FAILED, "verification_failed")
    assert "not in the vault" in ended.message
    assert not Backup.objects.filter(disk=disk, status=BackupStatus.OK).exists()
    assert not ObjectUse.objects.exists()


@pytest.mark.case("AZ-15")
def test_a_commit_with_objects_of_another_domain_is_refused(site: Site, settings) -> None:
    other = site.back_up(site.definition(site.server("other", content=os.urandom(MIB)))).backup
    disk = site.server("web01")
    site.back_up(site.definition(disk))
    job = request_backup(definition=Job.objects.get(disk=disk).definition, actor=site.admin, now=timezone.now())
    claim = claim_job(job_id=job.pk, now=timezone.now())
    client = SessionClient(gate_url=settings.CONFIG.gate_url, token=claim.token, retry_seconds=1)
    client.open()
    row = other.manifest
    message = ObjectMessage(row.key, row.sha256, row.size_bytes, row.version_id)

    client.commit(CommitRequest(message, [message], [], read_bytes=1, changed_bytes=1, stored_bytes=1))
    ended = site.commit(job)

    assert (ended.state, ended.code) == (JobState.FAILED, "verification_failed")


def test_committing_twice_commits_once(site: Site) -> None:
    job = site.back_up(site.definition(site.server("web01", content=b"x" * MIB)))
    uses = ObjectUse.objects.count()

    site.commit(job)
    committer.commit_session(session_id=str(job.sessions.get().pk))

    assert ObjectUse.objects.count() == uses
    assert job.events.filter(code="ok").count() == 1


def test_a_missing_image_fails_the_job_with_words(site: Site) -> None:
    disk = site.server("web01")
    site.path(disk).unlink()

    job = site.back_up(site.definition(disk))

    assert (job.state, job.code) == (JobState.FAILED, "disk_missing")
    assert "is not there" in job.message
    assert not Backup.objects.filter(disk=disk).exists()


def test_an_image_that_changes_while_it_is_read_makes_no_backup(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = site.server("web01", content=os.urandom(MIB))
    read = ImageSource.read

    def read_and_disturb(source: ImageSource, offset: int, length: int) -> bytes:
        with open(site.path(disk), "r+b") as file:
            file.write(os.urandom(10))
        return read(source, offset, length)

    monkeypatch.setattr(ImageSource, "read", read_and_disturb)
    job = site.back_up(site.definition(disk))

    assert (job.state, job.code) == (JobState.FAILED, "disk_changed"), job.message
    assert not StoredObject.objects.filter(kind="m").exists()


def test_a_storage_that_is_away_fails_the_job_with_words(site: Site, weed) -> None:
    disk = site.server("web01", content=os.urandom(MIB))
    definition = site.definition(disk)
    job = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    claim = claim_job(job_id=job.pk, now=timezone.now())
    assert claim is not None
    weed.stop()
    try:
        Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
        runner.run_job(job_id=str(job.pk))
    finally:
        weed.start()

    job.refresh_from_db()
    assert job.state == JobState.FAILED
    assert job.code.startswith("store_"), (job.code, job.message)
    assert site.back_up(definition).state == JobState.OK


def test_a_target_that_is_smaller_is_refused_before_the_first_write(site: Site) -> None:
    backup = site.back_up(site.definition(site.server("web01", content=b"x" * MIB))).backup
    small, shrunk = site.server("small", size_bytes=4 * MIB), site.server("shrunk")
    os.truncate(site.path(shrunk), 4 * MIB)
    before = site.path(shrunk).read_bytes()

    with pytest.raises(InvalidInputError) as refused:
        request_restore(backup=backup, target=small, confirmation="small", actor=site.admin, now=timezone.now())
    job = site.restore(backup, shrunk)

    assert refused.value.code == "target_too_small"
    assert (job.state, job.code) == (JobState.FAILED, "target_too_small")
    assert site.path(shrunk).read_bytes() == before


def test_a_running_backup_is_canceled_by_a_person(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = site.server("web01", size_bytes=64 * MIB, content=os.urandom(48 * MIB))
    job = request_backup(definition=site.definition(disk), actor=site.admin, now=timezone.now())
    reading, stopped, read = threading.Event(), threading.Event(), ImageSource.read

    def read_until_canceled(source: ImageSource, offset: int, length: int) -> bytes:
        reading.set()
        stopped.wait(timeout=0.2)
        return read(source, offset, length)

    monkeypatch.setattr(ImageSource, "read", read_until_canceled)
    thread = threading.Thread(target=runner.run_job, kwargs={"job_id": str(job.pk)})
    thread.start()
    assert reading.wait(timeout=30)

    cancel_job(job=job, actor=site.admin, now=timezone.now())
    thread.join(timeout=60)
    stopped.set()

    job.refresh_from_db()
    assert (job.state, job.code) == (JobState.CANCELED, "canceled"), job.message
    assert not Backup.objects.filter(disk=disk).exists()
    assert not StoredObject.objects.filter(kind="m").exists()


def test_a_waiting_job_is_canceled_at_once_and_its_backup_goes(site: Site) -> None:
    disk = site.server("web01")
    job = request_backup(definition=site.definition(disk), actor=site.admin, now=timezone.now())

    cancel_job(job=job, actor=site.admin, now=timezone.now())

    job.refresh_from_db()
    assert job.state == JobState.CANCELED
    assert not Backup.objects.filter(disk=disk).exists()
    with pytest.raises(ConflictError):
        cancel_job(job=job, actor=site.admin, now=timezone.now())


@pytest.mark.case("RS-11")
def test_a_second_job_on_a_disk_waits_its_turn(site: Site) -> None:
    disk = site.server("web01", content=b"x" * MIB)
    definition = site.definition(disk)
    first = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    second = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    assert claim_job(job_id=first.pk, now=timezone.now())

    refused = claim_job(job_id=second.pk, now=timezone.now())

    second.refresh_from_db()
    assert refused is None
    assert (second.state, second.phase) == (JobState.PENDING, "waiting")


def test_an_unfinished_restore_marks_the_disk_and_stops_its_backups(site: Site, settings) -> None:
    backup = site.back_up(site.definition(site.server("web01", content=b"x" * MIB))).backup
    target = site.server("web02")
    definition = site.definition(target)
    job = request_restore(backup=backup, target=target, confirmation="web02", actor=site.admin, now=timezone.now())
    claim = claim_job(job_id=job.pk, now=timezone.now())
    client = SessionClient(gate_url=settings.CONFIG.gate_url, token=claim.token)
    client.open()
    target.refresh_from_db()
    # The driver may still refuse: nothing was written yet.
    assert target.incomplete_since is None
    client.target_opened(TargetOpened())
    backup.refresh_from_db()
    assert backup.status == BackupStatus.RESTORE
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1), fence=MOST_CLAIMS)

    sweeper.sweep(now=timezone.now())

    target.refresh_from_db()
    backup.refresh_from_db()
    assert target.incomplete_since is not None
    assert backup.status == BackupStatus.OK
    with pytest.raises(ConflictError) as refused:
        request_backup(definition=definition, actor=site.admin, now=timezone.now())
    assert refused.value.code == "disk_incomplete"
    assert Session.objects.filter(job=job).count() == 1


def test_a_restore_needs_the_name_of_the_target(site: Site) -> None:
    backup = site.back_up(site.definition(site.server("web01", content=b"x" * MIB))).backup
    target = site.server("web02")

    with pytest.raises(InvalidInputError) as refused:
        request_restore(backup=backup, target=target, confirmation="web01", actor=site.admin, now=timezone.now())

    assert refused.value.field == "confirmation"
    assert not Job.objects.filter(kind="restore").exists()
