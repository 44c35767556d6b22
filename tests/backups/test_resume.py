"""A worker is lost in the middle: the next one goes on with what is in the vault already."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from django.utils import timezone

from agents.program.session import SessionClient
from backups import runner
from backups.models import Job, Session
from backups.resuming import resumable_objects
from backups.services import request_backup
from backups.states import JobState
from tests.backups.conftest import MIB, Site
from vaults.models import StoredObject

pytestmark = pytest.mark.stack


class PulledPlugError(BaseException):
    """Nothing of the worker runs on."""


def _lose_the_worker(site: Site, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker dies when all is stored and before it has asked for the commit."""

    def dies(*_: object) -> None:
        raise PulledPlugError

    with monkeypatch.context() as patch:
        patch.setattr(SessionClient, "commit", dies)
        with pytest.raises(PulledPlugError):
            runner.run_job(job_id=str(job.pk))
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))


def _packs(session: Session) -> list[StoredObject]:
    return list(StoredObject.objects.filter(session_id=session.pk, kind="p"))


def test_what_a_lost_worker_stored_is_not_sent_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, target = site.server("web01", content=os.urandom(6 * MIB)), site.server("web02")
    job = request_backup(definition=site.definition(disk), actor=site.admin, now=timezone.now())
    _lose_the_worker(site, job, monkeypatch)
    with open(site.path(disk), "r+b") as file:
        file.write(os.urandom(1000))  # And the disk went on changing.
    content = site.path(disk).read_bytes()

    runner.run_job(job_id=str(job.pk))
    job = site.commit(job)

    assert job.state == JobState.OK, job.message
    lost, taken_over = job.sessions.order_by("fence")
    stored = StoredObject.objects.filter(used_by__manifest=job.backup.manifest)
    assert {row.pk for row in _packs(lost)} <= {row.pk for row in stored}
    assert sum(row.size_bytes for row in _packs(taken_over)) < MIB
    assert {row.session_id for row in stored.filter(kind="k")} == {lost.pk, taken_over.pk}
    assert all(row.status == "stored" and row.version_id for row in stored)
    restored = site.restore(job.backup, target)
    assert restored.state == JobState.OK, restored.message
    assert site.path(target).read_bytes() == content


def test_a_second_loss_goes_on_with_both(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = site.server("web01", content=os.urandom(3 * MIB))
    job = request_backup(definition=site.definition(disk), actor=site.admin, now=timezone.now())
    _lose_the_worker(site, job, monkeypatch)
    with open(site.path(disk), "r+b") as file:
        file.write(os.urandom(MIB))
    _lose_the_worker(site, job, monkeypatch)

    runner.run_job(job_id=str(job.pk))
    job = site.commit(job)

    assert job.state == JobState.OK, job.message
    third = job.sessions.order_by("-fence").first()
    assert not _packs(third)


def test_a_session_reads_nothing_of_another_disk(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only attempts at the same disk may be read: neither another server's nor another disk's."""
    other = site.server("web02", content=os.urandom(MIB))
    lost = request_backup(definition=site.definition(other), actor=site.admin, now=timezone.now())
    _lose_the_worker(site, lost, monkeypatch)
    disk = site.server("web01", content=os.urandom(MIB))

    job = site.back_up(site.definition(disk))

    assert job.state == JobState.OK
    assert not resumable_objects(job.sessions.get(), timezone.now()).exists()
