"""One run of one server: disks that are claimed together are of one moment, and each job stands for itself."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from agents import protocol
from agents.models import Disk, Server
from agents.program import mover
from agents.program.session import SessionClient
from backups import runner, sweeper
from backups.dispatcher import dispatch_due
from backups.models import Backup, Budget, Job
from backups.services import request_server_backup
from common.errors import ConflictError
from definitions.models import Definition
from tests.backups import pointed as nodes
from tests.backups.conftest import Site
from tests.backups.pointed import KilledError, PointedDriver, pointed, pointed_server

pytestmark = pytest.mark.stack
__all__ = ["pointed"]


@pytest.fixture
def server(site: Site, pointed: type[PointedDriver]) -> Server:
    server = pointed_server(site, "db01", disks=2)
    for disk in server.disks.all():
        site.definition(disk)
    return server


def ordered(site: Site, server: Server) -> list[Job]:
    return request_server_backup(server=server, actor=site.admin, now=timezone.now())


def ended(site: Site, jobs: list[Job]) -> list[Backup | None]:
    """After one message to the node: the jobs as they ended, and their backups."""
    runner.run_job(job_id=str(jobs[0].pk))
    for job in jobs:
        site.commit(job)
    return [Backup.objects.filter(pk=job.backup_id).first() for job in jobs]


def test_disks_of_one_run_are_of_one_moment(site: Site, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = server.disks.order_by("number")
    other = pointed_server(site, "db02")
    site.definition(other.disks.get())
    # A budget for one job at a time lets the run in, and nobody beside it.
    Budget.objects.create(kind="node", node=site.node, most_jobs=1)
    at_first: list[str] = []
    read = nodes.PointedSource.read

    def read_and_write(self: nodes.PointedSource, offset: int, length: int) -> bytes:
        """While the first disk is read, the guest writes to the second; and another job asks to begin."""
        if not at_first:
            site.path(second).write_bytes(b"late" * (second.size_bytes // 4))
            [late] = request_server_backup(server=other, actor=site.admin, now=timezone.now())
            runner.run_job(job_id=str(late.pk))
            late.refresh_from_db()
            at_first.append(late.waits)
        return read(self, offset, length)

    monkeypatch.setattr(nodes.PointedSource, "read", read_and_write)
    jobs = ordered(site, server)

    backups = ended(site, jobs)

    assert [job.state for job in jobs] == ["ok", "ok"], [job.message for job in jobs]
    assert len({backup.run_id for backup in backups}) == len({backup.point for backup in backups}) == 1
    assert next(call for call in PointedDriver.calls if call[0] == "open") == ("open", [first.path, second.path])
    assert site.restore(backups[1], first).state == "ok"
    assert site.path(first).read_bytes() == bytes([2]) * second.size_bytes
    assert at_first[0]


def test_a_disk_that_cannot_be_opened_fails_alone(site: Site, server: Server) -> None:
    second = server.disks.get(number=2)
    site.path(second).unlink()
    jobs = ordered(site, server)

    backup, gone = ended(site, jobs)

    assert [(job.state, job.code) for job in jobs] == [("ok", ""), ("failed", "disk_missing")]
    assert gone is None
    assert [warning["code"] for warning in backup.warnings] == ["slow_node", "not_together"]
    assert backup.point


def test_a_canceled_job_leaves_the_others_alone(site: Site, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = ordered(site, server)
    told, beat = threading.Event(), SessionClient.heartbeat

    def heartbeat(self: SessionClient, progress: protocol.Progress) -> protocol.HeartbeatAnswer:
        answer = beat(self, progress)
        if answer.cancel:
            told.set()
        return answer

    def once_canceled(self: Any, wish: Any) -> Any:
        """The node takes its time to open the disks; meanwhile a person cancels the second."""
        Job.objects.filter(pk=jobs[1].pk).update(cancel_requested=True)
        assert told.wait(60)
        return opening(self, wish)

    opening = PointedDriver.open_sources
    monkeypatch.setattr(mover, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(SessionClient, "heartbeat", heartbeat)
    monkeypatch.setattr(PointedDriver, "open_sources", once_canceled)

    backup, gone = ended(site, jobs)

    assert [(job.state, job.code) for job in jobs] == [("ok", ""), ("canceled", "canceled")]
    assert backup is not None and gone is None


def test_a_run_whose_worker_is_killed_is_taken_over_as_one(site: Site, server: Server) -> None:
    jobs = ordered(site, server)
    PointedDriver.failing["close"] = KilledError()
    with pytest.raises(KilledError):
        runner.run_job(job_id=str(jobs[0].pk))
    Job.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    sweeper.sweep(now=timezone.now())

    backups = ended(site, jobs)

    assert [job.state for job in jobs] == ["ok", "ok"]
    assert len({backup.point for backup in backups}) == 1
    assert [nodes.points_on_node(disk) for disk in Disk.objects.filter(server=server)] == [{backups[0].point}] * 2


def test_what_is_due_at_one_time_is_one_run_of_each_server(site: Site, server: Server) -> None:
    other = pointed_server(site, "db02")
    site.definition(other.disks.get())
    due = timezone.now() - timedelta(seconds=1)
    Definition.objects.update(next_run_at=due)

    dispatch_due(now=timezone.now())

    runs = dict.fromkeys(Job.objects.filter(disk__server=server).values_list("run_id", flat=True))
    assert len(runs) == 1 and None not in runs
    assert Job.objects.get(disk__server=other).run_id not in runs
    assert list(Backup.objects.filter(server=server).values_list("run_id", flat=True)) == [*runs] * 2


def test_a_server_that_nothing_protects_is_not_backed_up(site: Site, server: Server) -> None:
    Definition.objects.update(active=False, next_run_at=None)

    with pytest.raises(ConflictError) as refused:
        ordered(site, server)

    assert refused.value.code == "nothing_to_back_up"
    assert not Job.objects.exists()
