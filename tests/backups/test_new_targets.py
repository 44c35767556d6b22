"""Restores to real servers: what refuses them, what a cut leaves, new disks, and new servers of what was kept."""

from __future__ import annotations

import fcntl
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from agents.models import Disk, Server, Storage
from agents.program import mover
from agents.program.session import SessionClient
from agents.protocol import HeartbeatAnswer, Progress, TargetOpened
from backups import new_targets, runner, sweeper
from backups.models import Backup, Job
from backups.new_targets import request_new_disk, request_new_server
from backups.services import cancel_job, request_restore, request_server_backup
from common.errors import BackupsiteError
from tests.backups.conftest import MIB, Site
from tests.backups.pointed import CONFIGURATION, KilledError, PointedDriver, pointed, pointed_server

pytestmark = pytest.mark.stack
__all__ = ["pointed"]


@pytest.fixture
def backups(site: Site, pointed: type[PointedDriver]) -> list[Backup]:
    """Of one run of a server with two disks, whose guest goes on writing."""
    server = pointed_server(site, "db01", disks=2)
    for disk in server.disks.all():
        site.definition(disk)
    jobs = request_server_backup(server=server, actor=site.admin, now=timezone.now())
    runner.run_job(job_id=str(jobs[0].pk))
    found = [site.commit(job).backup for job in jobs]
    for disk in server.disks.all():
        site.path(disk).write_bytes(b"new!" * (MIB // 4))
    return [Backup.objects.get(pk=backup.pk) for backup in found]


def run(job: Job) -> Job:
    runner.run_job(job_id=str(job.pk))
    job.refresh_from_db()
    return job


def taken_over(job: Job) -> Job:
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    sweeper.sweep(now=timezone.now())
    return run(job)


def storage_of(site: Site) -> Storage:
    return Storage.objects.get(node=site.node)


def to_new_disk(site: Site, backup: Backup) -> Job:
    place = {"server": backup.server, "storage": storage_of(site)}
    return request_new_disk(backup=backup, actor=site.admin, now=timezone.now(), **place)


def to_new_server(site: Site, backup: Backup, name: str = "db02") -> list[Job]:
    return request_new_server(backup=backup, name=name, storage=storage_of(site), actor=site.admin, now=timezone.now())


@pytest.mark.case("RS-02")
def test_what_the_driver_refuses_is_untouched_and_the_job_has_its_words(site: Site, backups: list[Backup]) -> None:
    disk, before = backups[0].disk, site.path(backups[0].disk).read_bytes()
    order = {"confirmation": "db01", "actor": site.admin, "now": timezone.now()}
    job = request_restore(backup=backups[0], target=disk, **order)

    with open(site.path(disk), "rb") as running:
        fcntl.flock(running, fcntl.LOCK_SH)
        run(job)

    disk.refresh_from_db()
    assert (job.state, job.code) == ("failed", "disk_busy") and "in use" in job.message
    assert (disk.incomplete_since, site.path(disk).read_bytes()) == (None, before)


@pytest.mark.case("RS-03")
def test_a_restore_that_is_killed_goes_on_and_its_snapshot_is_of_before(
    site: Site, backups: list[Backup], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, before = backups[0].disk, site.path(backups[0].disk).read_bytes()
    order = {"confirmation": "db01", "actor": site.admin, "now": timezone.now()}
    job = request_restore(backup=backups[0], target=disk, **order)

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(SessionClient, "restore_done", killed)
        runner.run_job(job_id=str(job.pk))
    disk.refresh_from_db()
    marked = disk.incomplete_since
    taken_over(job)

    disk.refresh_from_db()
    snapshot = site.path(disk).with_suffix(".points") / job.safety_point
    assert marked is not None and disk.incomplete_since is None
    assert job.state == "ok", job.message
    assert site.path(disk).read_bytes() == bytes([1]) * MIB
    assert snapshot.read_bytes() == before


@pytest.mark.case("RS-17")
def test_a_restore_that_is_canceled_marks_the_disk_until_the_next_one(
    site: Site, backups: list[Backup], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = backups[0].disk
    order = {"confirmation": "db01", "actor": site.admin, "now": timezone.now()}
    job = request_restore(backup=backups[0], target=disk, **order)
    told, beat, opened = threading.Event(), SessionClient.heartbeat, SessionClient.target_opened

    def heartbeat(self: SessionClient, progress: Progress) -> HeartbeatAnswer:
        answer = beat(self, progress)
        if answer.cancel:
            told.set()
        return answer

    def opened_and_canceled(self: SessionClient, target: TargetOpened) -> None:
        opened(self, target)
        cancel_job(job=job, actor=site.admin, now=timezone.now())
        assert told.wait(60)

    with monkeypatch.context() as patch:
        patch.setattr(mover, "HEARTBEAT_SECONDS", 0.1)
        patch.setattr(SessionClient, "heartbeat", heartbeat)
        patch.setattr(SessionClient, "target_opened", opened_and_canceled)
        run(job)

    disk.refresh_from_db()
    assert (job.state, disk.incomplete_since is not None) == ("canceled", True)
    assert site.restore(backups[0], disk).state == "ok"
    assert site.path(disk).read_bytes() == bytes([1]) * MIB


def test_a_new_disk_is_made_beside_the_old_one(site: Site, backups: list[Backup]) -> None:
    old = backups[0].disk
    before = site.path(old).read_bytes()

    job = to_new_disk(site, backups[0])
    assert Disk.objects.get(pk=job.disk_id).incomplete_since is not None
    run(job)

    disk = Disk.objects.get(pk=job.disk_id)
    assert job.state == "ok", job.message
    assert (disk.server, disk.number, disk.incomplete_since) == (old.server, 3, None)
    assert site.path(disk).read_bytes() == bytes([1]) * MIB
    assert site.path(old).read_bytes() == before


@pytest.mark.parametrize("call", ["target_opened", "restore_done"])
def test_a_new_disk_whose_writer_is_killed_is_gone_on_with(
    site: Site, backups: list[Backup], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    job, honest = to_new_disk(site, backups[0]), getattr(SessionClient, call)

    def killed_after(self: SessionClient, told: object) -> None:
        if call == "target_opened":
            honest(self, told)
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(SessionClient, call, killed_after)
        runner.run_job(job_id=str(job.pk))
    taken_over(job)

    assert job.state == "ok", job.message
    assert site.path(Disk.objects.get(pk=job.disk_id)).read_bytes() == bytes([1]) * MIB


def test_what_lies_under_the_new_name_already_is_not_written_to(
    site: Site, backups: list[Backup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_targets, "new_name_suffix", lambda length: "taken")
    there = Path(storage_of(site).path, "restored-taken.img")
    there.write_bytes(b"somebody's")

    job = run(to_new_disk(site, backups[0]))

    assert (job.state, job.code) == ("failed", "disk_busy") and "already" in job.message
    assert there.read_bytes() == b"somebody's"


def test_a_server_is_made_of_what_its_backups_kept(site: Site, backups: list[Backup]) -> None:
    # As with raw disks: they leave no points, and only the run says what belongs together.
    Backup.objects.filter(pk__in=[backup.pk for backup in backups]).update(point="")
    later = site.back_up(site.definition(backups[0].disk, name="alone")).backup
    assert later.run_id != backups[0].run_id
    backups[1].refresh_from_db()
    first, second = to_new_server(site, backups[1])

    run(first)
    assert PointedDriver.servers == {}
    run(second)

    server = Server.objects.get(name="db02")
    old = [str(site.path(backup.disk)) for backup in backups]
    new = [str(site.path(disk)) for disk in server.disks.order_by("number")]
    assert [job.state for job in (first, second)] == ["ok", "ok"], second.message
    assert PointedDriver.servers == {"db02": (CONFIGURATION, dict(zip(old, new, strict=True)))}
    assert server.source_name == "uuid-of-db02"
    assert [Path(path).read_bytes()[:1] for path in new] == [b"\x01", b"\x02"]
    assert "defined" in second.events.values_list("code", flat=True)


def test_a_server_that_cannot_be_defined_says_why_and_its_disks_are_there(site: Site, backups: list[Backup]) -> None:
    PointedDriver.servers["db02"] = ("", {})
    first, second = to_new_server(site, backups[0])
    run(first)

    run(second)

    assert (second.state, second.code) == ("failed", "node_fault")
    assert "already" in second.message
    assert PointedDriver.servers == {"db02": ("", {})}


@pytest.mark.parametrize(
    ("code", "before"),
    [
        ("no_configuration", lambda backups: Backup.objects.update(has_configuration=False)),
        ("run_incomplete", lambda backups: Backup.objects.filter(pk=backups[1].pk).update(removed_at=timezone.now())),
        ("no_space", lambda backups: Storage.objects.update(free_bytes=MIB)),
        ("not_attached", lambda backups: Storage.objects.get().tenants.clear()),
        ("node_in_maintenance", lambda backups: backups[0].server.node.__class__.objects.update(status="maintenance")),
        ("backup_not_ok", lambda backups: Backup.objects.update(status="lost")),
    ],
)
def test_a_new_server_is_refused_before_anything_is_made(site: Site, backups: list[Backup], code: str, before) -> None:
    before(backups)

    with pytest.raises(BackupsiteError) as refused:
        to_new_server(site, Backup.objects.get(pk=backups[0].pk))

    assert refused.value.code in {code, "run_incomplete" if code == "backup_not_ok" else code}
    assert not Server.objects.filter(name="db02").exists()
    assert not Job.objects.filter(kind="restore").exists()


@pytest.mark.parametrize(
    ("driver", "place", "expected"),
    [
        ("lvm", "/dev/vg0", ("lvm", "")),
        ("lvm", "/srv/images", ("image", ".img")),
        ("image", "/dev/vg0", ("lvm", "")),
        ("libvirt", "/srv/images", ("libvirt", ".qcow2")),
    ],
)
def test_a_new_disk_is_what_its_storage_can_hold(driver: str, place: str, expected: tuple[str, str]) -> None:
    backup = Backup(disk=Disk(driver=driver, path="web.qcow2"), content="disk", type="vault")

    assert new_targets._driver_and_ending(backup, Storage(path=place)) == expected
