"""Work survives what happens to workers, broker, beat and database: each promise with the service's own processes."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tests.e2e.conftest import PATIENCE_SECONDS
from tests.fleet.conftest import DISK_MIB, MIB, QUEUE, Fleet
from tests.postgres.cluster import PROGRAMS

pytestmark = [pytest.mark.stack, pytest.mark.postgres, pytest.mark.long, pytest.mark.timeout(1500)]

COUNT = 40
# Servers without an image: a worker takes such a job, and it ends in a moment, with words. At any hour of the day those
# that are late have left out one time of their schedule, and no next time comes before the test is over.
FILL = """
from datetime import timedelta
from django.utils import timezone
from agents.models import Disk, Server, Storage
from definitions.models import Definition
from tenants.models import Subscription, Tenant
tenant = Tenant.objects.get()
template = Disk.objects.select_related("server__node").first()
Subscription.objects.create(tenant=tenant, address="team@example.com", severity=1)
now = timezone.now()
at = (now - timedelta(minutes=10)).replace(second=0, microsecond=0)
for number in range({count}):
    server = Server.objects.create(
        name=f"fleet-{{number}}", tenant=tenant, region=template.server.region, node=template.server.node
    )
    disk = Disk.objects.create(
        server=server, driver="image", storage=template.storage, path=f"fleet-{{number}}.img", size_bytes=1 << 20
    )
    late = number % 2 == 0
    Definition.objects.create(
        name="often", tenant=tenant, disk=disk, vault=tenant.vaults.get(), time_zone="UTC",
        cron=f"{{at.minute}} {{at.hour % 2}}-23/2 * * *",
        next_run_at=at - timedelta(hours=2) if late else now + timedelta(seconds=4),
    )
"""
FLEET_JOBS = "FROM backups_job j JOIN definitions_definition d ON d.id = j.definition_id WHERE d.name = 'often'"


class Evil:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def message(*, task: str, body: bytes, content_type: str, headers: dict[str, object]) -> str:
    """As kombu writes it to Redis."""
    number = str(uuid4())
    properties = {
        "correlation_id": number,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": number,
    }
    told = {"lang": "py", "task": task, "id": number, "root_id": number, "argsrepr": "()", "kwargsrepr": "{}"}
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "binary" if "python" in content_type else "utf-8",
            "content-type": content_type,
            "headers": {**told, **headers},
            "properties": properties,
        }
    )


@pytest.mark.case("CP-07", "CP-08", "CP-03")
def test_two_beats_an_outage_and_a_flushed_broker_lose_nothing_and_double_nothing(fleet: Fleet) -> None:
    fleet.stack.child("node").stop()
    fleet.in_service(FILL.format(count=COUNT))

    counted = f"SELECT count(*), count(DISTINCT j.definition_id) {FLEET_JOBS}"
    fleet.wait(lambda: fleet.sql(counted)[0][0] >= COUNT, seconds=PATIENCE_SECONDS, what="not all were dispatched")
    with fleet.broker() as broker:
        broker.flushall()
        # Whatever was queued is gone; the rows are not.
        fleet.wait(lambda: broker.llen(QUEUE) > 0, seconds=PATIENCE_SECONDS, what="nobody was told again")
    fleet.stack.child("node").start()
    ended = f"SELECT count(*) {FLEET_JOBS} AND j.state NOT IN ('pending', 'running')"
    fleet.wait(lambda: fleet.sql(ended)[0][0] == COUNT, seconds=PATIENCE_SECONDS, what="not all were run")

    assert fleet.sql(counted) == [(COUNT, COUNT)]
    assert fleet.sql(f"SELECT DISTINCT j.state, j.code, j.fence {FLEET_JOBS}") == [("failed", "disk_missing", 1)]
    started = f"SELECT count(*) FROM backups_jobevent WHERE code = 'started' AND job_id IN (SELECT j.id {FLEET_JOBS})"
    assert fleet.sql(started) == [(COUNT,)]
    # What was due two hours ago runs once, and its people are told that it was missed.
    missed = fleet.sql(
        "SELECT count(*), count(DISTINCT subject_id) FROM tenants_noticeevent WHERE code = 'backup.missed'"
    )
    assert missed == [(COUNT // 2, COUNT // 2)]


@pytest.mark.case("CP-05", "CP-06", "CP-24")
def test_ten_messages_make_one_run_and_a_poisoned_one_makes_none(fleet: Fleet, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    fleet.stack.child("node").stop()
    job_id = fleet.back_up_now()
    plain = json.dumps([[], {"job_id": job_id}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    with fleet.broker() as broker:
        poisoned = pickle.dumps(((), {"job_id": Evil(trace)}, {}))
        task = "backups.tasks.run_job"
        pushed = [message(task=task, body=poisoned, content_type="application/x-python-serialize", headers={})]
        pushed += [message(task="os.system", body=plain.encode(), content_type="application/json", headers={})]
        pushed += [message(task=task, body=plain.encode(), content_type="application/json", headers={})] * 10
        broker.lpush(QUEUE, *pushed)
    fleet.stack.child("node").start()

    job = fleet.wait_until_ended(job_id, timeout_seconds=PATIENCE_SECONDS)
    with fleet.broker() as broker:
        fleet.wait(lambda: broker.llen(QUEUE) == 0, seconds=PATIENCE_SECONDS, what="messages were left")

    assert (job["state"], fleet.events(job_id).count("started")) == ("ok", 1), job["message"]
    assert fleet.sql("SELECT fence FROM backups_job WHERE id = %s", job_id) == [(1,)]
    log = fleet.stack.child("node").log_text()
    assert not trace.exists()
    assert "ContentDisallowed" in log or "Refusing to deserialize" in log
    assert "os.system" in log


@pytest.mark.case("CP-04")
def test_while_the_broker_is_away_the_portal_answers_and_what_is_due_runs_late_once(fleet: Fleet) -> None:
    fleet.stack.child("broker").stop()
    try:
        due = datetime.now(UTC) - timedelta(seconds=5)
        fleet.sql("UPDATE definitions_definition SET next_run_at = %s WHERE id = %s", due, fleet.definition_id)
        assert fleet.api.get("definitions/?limit=1")["results"]
        said = fleet.in_service(
            "from django.utils import timezone as t; from backupsite.service_health import look_at_service as look\n"
            "print([part.name for part in look(now=t.now()) if not part.working])"
        )
        assert "['broker'" in said
    finally:
        fleet.stack.child("broker").start()

    scheduled = "SELECT id::text, state FROM backups_job WHERE definition_id = %s AND slot_at IS NOT NULL"
    jobs = fleet.wait(
        lambda: [row for row in fleet.sql(scheduled, fleet.definition_id) if row[1] == "ok"],
        seconds=PATIENCE_SECONDS,
        what="it did not run after the broker was back",
    )
    assert len(jobs) == len(fleet.sql(scheduled, fleet.definition_id)) == 1


@pytest.mark.case("CP-02")
def test_a_worker_that_slept_over_its_lease_changes_nothing_any_more(fleet: Fleet) -> None:
    fleet.fill_disk("web01")
    job_id = fleet.back_up_to_be_disturbed()
    sleeper = fleet.stack.child("node")
    os.killpg(sleeper.pid, signal.SIGSTOP)
    other = fleet.beside("node")
    try:
        job = fleet.wait_until_ended(job_id, timeout_seconds=PATIENCE_SECONDS)
        os.killpg(sleeper.pid, signal.SIGCONT)
        fleet.wait(
            lambda: "session ended by the control plane" in sleeper.log_text(),
            seconds=PATIENCE_SECONDS,
            what="the sleeper was not refused",
        )
    finally:
        os.killpg(sleeper.pid, signal.SIGCONT)
        other.stop()

    codes = fleet.events(job_id)
    assert (job["state"], codes.count("taken_over"), codes.count("ok")) == ("ok", 1, 1), (job["message"], codes)
    assert fleet.sql("SELECT count(*) FROM backups_backup WHERE name = %s", job["backup_name"]) == [(1,)]


@pytest.mark.case("CP-13")
def test_a_database_that_restarts_in_the_middle_costs_time_and_nothing_else(fleet: Fleet) -> None:
    fleet.fill_disk("web01")
    before = fleet.sql("SELECT count(*) FROM backups_backup WHERE status = 'ok'")[0][0]
    job_id = fleet.back_up_to_be_disturbed()

    restart_database(fleet)
    ended = "SELECT state, message FROM backups_job WHERE id = %s AND state NOT IN ('pending', 'running')"
    [(state, words)] = fleet.wait(
        lambda: fleet.sql(ended, job_id), seconds=PATIENCE_SECONDS, what="the job did not end"
    )

    assert (state, fleet.events(job_id).count("ok")) == ("ok", 1), words
    assert fleet.sql("SELECT count(*) FROM backups_backup WHERE status = 'ok'") == [(before + 1,)]


def restart_database(fleet: Fleet) -> None:
    """Without warning: every session is cut and what was not committed is gone."""
    [(data,)] = fleet.sql("SHOW data_directory")
    [owner] = {Path(data).owner()}
    subprocess.run(
        [str(PROGRAMS[-1] / "pg_ctl"), "-D", data, "-m", "immediate", "-w", "-l", f"{data}/../log", "restart"],
        check=True,
        cwd="/",
        user=owner if os.getuid() == 0 else None,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.case("CP-21")
def test_a_restore_goes_on_after_its_worker_was_stopped_for_a_new_version(fleet: Fleet) -> None:
    target = fleet.rows["disks"]["web02"]["id"]
    with fleet.disk_path("web02").open("wb") as file:
        file.truncate(DISK_MIB * MIB)
    backup = fleet.good_backup()
    job_id = fleet.api.post(f"backups/{backup['id']}/restore/", {"target": target, "confirmation": "web02"})["id"]
    fleet.wait(
        lambda: (job := fleet.job(job_id))["state"] != "pending" and job["done_bytes"] > 0,
        seconds=PATIENCE_SECONDS,
        what="the restore did not begin",
    )

    # One of them has it.
    fleet.stack.child("restores").restart()
    fleet.stack.child("node").restart()
    job = fleet.wait_until_ended(job_id, timeout_seconds=PATIENCE_SECONDS)

    assert job["state"] == "ok", job["message"]
    assert fleet.disk_path("web02").read_bytes() == fleet.disk_path("web01").read_bytes()


# A second server on the node, with a disk as full as the first one's and room for a restore on a third.
SLOW = """
from agents.models import Disk, Server
from definitions.models import Definition
first = Definition.objects.get(name="daily")
made = {}
for name in ("slow", "spare"):
    server = Server.objects.create(name=name, tenant=first.tenant, region=first.disk.server.region,
                                   node=first.disk.server.node)
    made[name] = Disk.objects.create(server=server, driver="image", storage=first.disk.storage, path=f"{name}.img",
                                     size_bytes=first.disk.size_bytes)
Definition.objects.create(name="slow", tenant=first.tenant, disk=made["slow"], vault=first.vault, cron=first.cron,
                          bandwidth_limit=65536)
Definition.objects.filter(pk=first.pk).update(bandwidth_limit=65536)
print("spare", made["spare"].pk)
"""


@pytest.mark.case("CP-20")
def test_a_restore_begins_at_once_while_backups_fill_the_node(fleet: Fleet) -> None:
    backup = fleet.good_backup()
    fleet.fill_disk("web01")
    folder = fleet.disk_path("web01").parent
    (folder / "slow.img").write_bytes(os.urandom(DISK_MIB * MIB))
    (folder / "spare.img").write_bytes(bytes(DISK_MIB * MIB))
    spare = fleet.in_service(SLOW).split()[-1]
    other = fleet.sql("SELECT id::text FROM definitions_definition WHERE name = 'slow'")[0][0]
    filling = [fleet.back_up_now(), str(fleet.api.post(f"definitions/{other}/backup-now/", {})["id"])]
    try:
        for job_id in filling:
            fleet.wait_until_copying(job_id)
        job_id = fleet.api.post(f"backups/{backup['id']}/restore/", {"target": spare, "confirmation": "spare"})["id"]
        # At their limit both backups last over half an hour: a restore that waits for one of them is not done here.
        begun = "the restore waited for backups"
        fleet.wait(lambda: fleet.job(job_id)["state"] != "pending", seconds=60, what=begun)
        job = fleet.wait_until_ended(job_id, timeout_seconds=PATIENCE_SECONDS)
        assert [fleet.job(other)["state"] for other in filling] == ["running"] * 2
    finally:
        for other in filling:
            fleet.api.post(f"jobs/{other}/cancel/", {})
        fleet.sql("UPDATE definitions_definition SET bandwidth_limit = NULL")

    assert job["state"] == "ok", job["message"]
    for other in filling:
        fleet.wait_until_ended(other, timeout_seconds=PATIENCE_SECONDS)


@pytest.mark.case("CP-12")
def test_a_worker_whose_clock_is_wrong_takes_its_lease_by_the_database(fleet: Fleet) -> None:
    code = """
import time_machine
from datetime import timedelta
from django.conf import settings
from django.utils import timezone
from backups.choosing import claim_for_hint
from backups.models import Job
from backups.services import request_backup
from common.database_time import database_now
from definitions.models import Definition
from tenants.models import Person
settings.CELERY_BROKER_URL = "memory://"
definition, actor = Definition.objects.get(name="daily"), Person.objects.first()
for hours in (2, -2):
    job = request_backup(definition=definition, actor=actor, now=timezone.now())
    right = database_now()
    with time_machine.travel(timezone.now() + timedelta(hours=hours)):
        claim = claim_for_hint(job_id=job.pk, now=database_now())
    job.refresh_from_db()
    lease = timedelta(seconds=settings.CONFIG.lease_seconds)
    print(right <= job.lease_until - lease <= database_now() if claim else "taken")
    Job.objects.filter(pk=job.pk).update(state="canceled", lease_until=None)
"""
    fleet.stack.child("node").stop()
    try:
        printed = fleet.in_service(code)
    finally:
        fleet.stack.child("node").start()

    assert printed.split()[-2:] == ["True"] * 2, printed
