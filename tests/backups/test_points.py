"""Points that a driver leaves on a node: what is read against them, what is kept of them, and what heals."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from agents.models import Disk
from agents.program.session import SessionClient
from backups import runner, sweeper
from backups.models import Backup, Job
from backups.reasons import in_words
from backups.services import request_backup
from definitions.models import Definition
from tests.backups.conftest import MIB, Site
from tests.backups.pointed import STEP, KilledError, PointedDriver, pointed, pointed_server, points_on_node

pytestmark = pytest.mark.stack
__all__ = ["pointed"]


@pytest.fixture
def definition(site: Site, pointed: type[PointedDriver]) -> Definition:
    server = pointed_server(site, "db01")
    return site.definition(server.disks.get(), freeze_filesystem=True)


def write(site: Site, disk: Disk, at: int) -> bytes:
    """Something new at that place; the whole content then."""
    with open(site.path(disk), "r+b") as file:
        file.seek(at)
        file.write(os.urandom(1000))
    return Path(site.path(disk)).read_bytes()


def backed_up(site: Site, definition: Definition) -> Backup:
    job = site.back_up(definition)
    assert job.state == "ok", job.message
    return Backup.objects.get(pk=job.backup_id)


def restored(site: Site, backup: Backup) -> bytes:
    target = site.server("copy", size_bytes=MIB) if not Disk.objects.filter(path="copy.img").exists() else None
    target = target or Disk.objects.get(path="copy.img")
    job = site.restore(backup, target)
    assert job.state == "ok", job.message
    return site.path(target).read_bytes()


def test_only_what_changed_is_read_and_a_point_goes_when_the_next_backup_is_ok(
    site: Site, definition: Definition
) -> None:
    disk = definition.disk
    first = backed_up(site, definition)
    content = write(site, disk, 3 * STEP)

    second = backed_up(site, definition)

    assert (first.full_reason, first.read_bytes) == ("first_backup", MIB)
    assert (first.full_because, second.full_because) == ("it is the first backup of this disk in its vault", "")
    assert in_words("of_a_plug_in") == "of a plug in"
    assert (second.full_reason, second.read_bytes, second.frozen) == ("", STEP, True)
    assert second.warnings == [{"code": "slow_node", "message": "The node is slow."}]
    assert points_on_node(disk) == {first.point, second.point}
    assert restored(site, second) == content
    third = backed_up(site, definition)
    assert third.read_bytes == 0
    assert points_on_node(disk) == {second.point, third.point}


def test_a_writer_that_is_killed_before_its_commit_costs_nothing(
    site: Site, definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = definition.disk
    first = backed_up(site, definition)
    content = write(site, disk, 0)
    job = request_backup(definition=definition, actor=site.admin, now=timezone.now())

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(SessionClient, "commit", killed)
        runner.run_job(job_id=str(job.pk))
    left = points_on_node(disk) - {first.point}
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    sweeper.sweep(now=timezone.now())
    runner.run_job(job_id=str(job.pk))
    site.commit(job)

    second = Backup.objects.get(pk=job.backup_id)
    assert (len(left), job.state, second.full_reason, second.read_bytes) == (1, "ok", "", STEP)
    assert points_on_node(disk) == {first.point, second.point}
    assert restored(site, second) == content


def test_what_the_node_forgot_makes_a_full_backup_that_says_why_and_heals(site: Site, definition: Definition) -> None:
    disk = definition.disk
    first = backed_up(site, definition)
    for point in site.path(disk).with_suffix(".points").iterdir():
        point.unlink()
    content = write(site, disk, MIB // 2)

    second = backed_up(site, definition)

    assert (second.full_reason, second.read_bytes) == ("point_unknown", MIB)
    # What is read is compared with the base all the same: no more than what changed is sent.
    assert second.stored_bytes < first.size_bytes // 4
    assert restored(site, second) == content
    assert backed_up(site, definition).full_reason == ""


@pytest.mark.case("RS-04")
def test_a_restore_onto_the_disk_ends_the_chain_and_keeps_what_was_there(site: Site, definition: Definition) -> None:
    disk = definition.disk
    first = backed_up(site, definition)
    content = write(site, disk, 0)

    job = site.restore(first, disk)
    second = backed_up(site, definition)

    kept = site.path(disk).with_suffix(".points") / job.safety_point
    assert job.state == "ok" and job.safety_point.startswith("backupsite-before-")
    assert "safety_point" in job.events.values_list("code", flat=True)
    assert kept.read_bytes() == content
    assert (second.full_reason, second.read_bytes) == ("restored_since", MIB)
