"""Sweeps of nodes: a fault or a kill at any call, and the sweep leaves what is needed and nothing else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import timezone

from agents.drivers.base import DiskAddress
from agents.models import Disk, Node
from agents.program.holding import LOCKS, moving, sweeping
from agents.program.session import SessionClient
from backups import queue, runner, sweeper
from backups.leftovers import request_sweep, request_sweeps_everywhere, sweep_node
from backups.lost_claims import MOST_CLAIMS
from backups.models import Backup, Job
from backups.services import request_backup
from definitions.models import Definition
from tenants.models import AuditEvent
from tests.backups.conftest import Site
from tests.backups.pointed import (
    KilledError,
    NodeFaultError,
    PointedDriver,
    pointed,
    pointed_server,
    points_of,
    points_on_node,
)

pytestmark = pytest.mark.stack
__all__ = ["pointed"]
CALLS = ("open", "point", "read", "close", "commit")


@pytest.fixture
def definition(site: Site, pointed: type[PointedDriver]) -> Definition:
    return site.definition(pointed_server(site, "db01").disks.get())


def points_of_disk(disk: Disk) -> Path:
    return points_of(DiskAddress(disk.storage.path, disk.path, 0))


def swept() -> list[str]:
    return sweep_node(name="local", clock=timezone.now)


def run_until(job: Job, call: str, error: BaseException) -> None:
    """Run the job with the error at that call of the driver, or of the mover when it asks for its commit."""
    PointedDriver.failing[call] = error
    with pytest.MonkeyPatch.context() as patch:
        if call == "commit":
            patch.setattr(SessionClient, "commit", lambda *_: PointedDriver()._step("commit"))
        try:
            runner.run_job(job_id=str(job.pk))
        except KilledError:
            Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))


def test_after_a_fault_or_a_kill_at_any_call_a_sweep_leaves_the_base_and_nothing_else(
    site: Site, definition: Definition
) -> None:
    disk = definition.disk
    base = Backup.objects.get(pk=site.back_up(definition).backup_id)
    # What is somebody else's stays, whatever happens.
    (points_of_disk(disk) / "daily-snapshot").write_bytes(b"theirs")

    for call in CALLS:
        for error in (NodeFaultError("It broke."), KilledError()):
            job = request_backup(definition=definition, actor=site.admin, now=timezone.now())
            run_until(job, call, error)
            swept()
            assert points_on_node(disk) == {base.point, "daily-snapshot"}, (call, error)
            Job.objects.filter(pk=job.pk, state="running").update(fence=MOST_CLAIMS)
            sweeper.sweep(now=timezone.now())

    assert Job.objects.filter(state="failed").count() == 2 * len(CALLS)
    assert swept() == []
    told = AuditEvent.objects.filter(action="server.sweep").order_by("pk").first()
    assert told.after["count"] >= 1 and "backupsite-" in told.after["removed"]
    second = Backup.objects.get(pk=site.back_up(definition).backup_id)
    assert (second.full_reason, second.read_bytes) == ("", 0)


def test_what_a_commit_waits_for_and_what_was_before_a_restore_stay(site: Site, definition: Definition) -> None:
    disk = definition.disk
    job = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    runner.run_job(job_id=str(job.pk))
    waiting = points_on_node(disk)

    assert swept() == [] and points_on_node(disk) == waiting
    backup = Backup.objects.get(pk=site.commit(job).backup_id)
    assert {backup.point} == waiting
    restore = site.restore(backup, disk)
    assert swept() == [] and restore.safety_point in points_on_node(disk)
    Job.objects.filter(pk=restore.pk).update(created_at=timezone.now() - timedelta(days=8))
    assert swept() == [restore.safety_point]


def test_a_server_whose_disks_are_moved_is_passed_over(site: Site, definition: Definition) -> None:
    disk = definition.disk
    (points_of_disk(disk) / "backupsite-left").write_bytes(b"")
    folder, server = settings.CONFIG.node_directory / LOCKS, str(disk.server_id)

    with moving(folder, server), moving(folder, server):
        assert swept() == []
    with sweeping(folder, server) as is_alone, sweeping(folder, server) as is_alone_too:
        assert (is_alone, is_alone_too) == (True, False)
    PointedDriver.failing["forget"] = NodeFaultError("Not now.")
    assert swept() == []
    assert swept() == ["backupsite-left"]


def test_a_sweep_is_asked_of_nodes_that_are_there(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, str, dict[str, str]]] = []
    monkeypatch.setattr(queue, "_send", lambda task, *, queue, **values: sent.append((task, queue, values)))
    Node.objects.create(name="gone", region_id="RBX", status=Node.Status.OFFLINE)

    request_sweep(node=site.node, actor=site.admin)

    assert sent == [("backups.tasks.sweep_node", "node.local", {"node": "local"})]
    assert request_sweeps_everywhere() == 1
    assert AuditEvent.objects.filter(action="node.sweep").count() == 1
