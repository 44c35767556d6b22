"""A backup served over NBD by a process of its own: what it gives, how it ends, what it holds, who is refused."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import transaction
from django.utils import timezone

from agents.drivers.nbd import NbdClient
from agents.models import Node
from agents.program import serving_process
from agents.program.serving_process import Order
from backups import runner, serving, sweeper
from backups.models import Backup, Job
from backups.removal.roots import find_roots
from backups.services import cancel_job, remove_backups
from backups.serving import request_serving
from common.errors import BackupsiteError, ConflictError
from tests.backups.conftest import MIB, Site

pytestmark = pytest.mark.stack


@pytest.fixture
def backup(site: Site) -> Backup:
    content = os.urandom(MIB) + bytes(MIB) + os.urandom(MIB)
    job = site.back_up(site.definition(site.server("web01", content=content)))
    return Backup.objects.select_related("disk").get(jobs=job)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Ids of the processes that serve; none of them is left."""
    started: list[int] = []

    def start(order: Order) -> int:
        started.append(serving_process.start_serving(order))
        return started[-1]

    monkeypatch.setattr(runner, "start_serving", start)
    yield started
    for pid in started:
        try:
            wait_until(lambda pid=pid: not is_there(pid))
        except AssertionError:
            os.kill(pid, 9)
            raise


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(done: Callable[[], bool], *, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def begun(job: Job) -> str:
    """Run the job; the socket at which it serves."""
    runner.run_job(job_id=str(job.pk))
    wait_until(lambda: "Served" in Job.objects.get(pk=job.pk).message or Job.objects.get(pk=job.pk).finished_at)
    found = re.search(r"at (\S+) of", Job.objects.get(pk=job.pk).message)
    assert found, Job.objects.get(pk=job.pk).message
    return found.group(1)


def ended(job: Job) -> Job:
    wait_until(lambda: Job.objects.get(pk=job.pk).finished_at is not None)
    return Job.objects.get(pk=job.pk)


def content_at(socket: str) -> bytes:
    client = NbdClient.connect(socket, export="")
    try:
        return client.read(0, client.size_bytes)
    finally:
        client.close()


def test_it_is_read_without_a_restore_and_held_until_it_is_canceled(
    site: Site, backup: Backup, processes: list[int]
) -> None:
    job = request_serving(backup=backup, hours=4, actor=site.admin, now=timezone.now())
    socket = begun(job)

    assert content_at(socket) == site.path(backup.disk).read_bytes()
    assert Path(socket).parent.stat().st_mode & 0o077 == 0
    backup.refresh_from_db()
    assert backup.status == "restore" and backup.manifest_id in find_roots(site.vault).restored
    with pytest.raises(ConflictError, match="in use"):
        remove_backups(backups=[backup], actor=site.admin, now=timezone.now())
    # Its disk is free for others meanwhile.
    assert site.back_up(site.definition(backup.disk, name="other")).state == "ok"

    # Its worker's process is gone: another one serves at the same place.
    os.kill(processes[0], 9)
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1), message="")
    sweeper.sweep(now=timezone.now())
    assert begun(job) == socket
    assert content_at(socket) == site.path(backup.disk).read_bytes()
    assert len(processes) == 2

    cancel_job(job=job, actor=site.admin, now=timezone.now())
    assert ended(job).state == "canceled"
    backup.refresh_from_db()
    wait_until(lambda: not Path(socket).parent.exists())
    assert (backup.status, job.events.filter(code="served").count()) == ("ok", 2)


def test_it_ends_by_itself(site: Site, backup: Backup, processes: list[int]) -> None:
    job = request_serving(backup=backup, hours=1, actor=site.admin, now=timezone.now())
    Job.objects.filter(pk=job.pk).update(serve_seconds=1)

    runner.run_job(job_id=str(job.pk))

    assert ended(job).state == "ok" and "The time is over" in ended(job).message


def test_what_cannot_be_served_is_refused_before(site: Site, backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: dict[str, Callable[[], object]] = {
        "backup_not_ok": lambda: Backup.objects.update(status="lost"),
        "node_in_maintenance": lambda: Node.objects.update(status="maintenance"),
        "other_content": lambda: Backup.objects.update(content="tree"),
        "no_node": lambda: Backup.objects.update(server=None, node=None),
        "too_many_served": lambda: monkeypatch.setattr(serving, "MOST_ON_A_NODE", 0),
        "invalid_input": lambda: None,
    }
    for code, before in cases.items():
        with transaction.atomic():
            before()
            with pytest.raises(BackupsiteError) as refused:
                hours = 25 if code == "invalid_input" else 4
                request_serving(backup=backup, hours=hours, actor=site.admin, now=timezone.now())
            transaction.set_rollback(True)
        assert refused.value.code == code

    assert not Job.objects.filter(kind="serve").exists()
