"""What waits, for what, and who goes first: budgets, priority, fairness between tenants, and another attempt."""

from __future__ import annotations

import threading
from datetime import time, timedelta

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.models import Node, Server
from backups import sweeper
from backups.admission import admit_job
from backups.budgets import SHARES, Use, admit, holds_at
from backups.choosing import claim_for_hint, claim_next
from backups.models import Backup, Budget, Job
from backups.states import JobState, Priority
from backups.telling import tell_of_job
from backups.transitions import claim_job, end_job
from tenants.models import AuditEvent, NoticeEvent, Tenant
from tests.factories import (
    a_moment,
    make_backup,
    make_definition,
    make_disk,
    make_node,
    make_region,
    make_server,
    make_tenant,
    make_vault,
    make_webhook,
)
from tests.worlds import World

NOW = timezone.now()


class Fleet:
    """Two tenants with servers on one node; each job is on a disk of its own."""

    def __init__(self, tenants: int = 2) -> None:
        self.tenants = [make_tenant() for _ in range(tenants)]
        self.node: Node = make_node(*self.tenants)
        self.servers = {tenant.pk: self._server(tenant) for tenant in self.tenants}

    def _server(self, tenant: Tenant) -> Server:
        make_vault(tenant)
        return Server.objects.create(name=f"s-{tenant.suffix}", tenant=tenant, region=make_region(), node=self.node)

    def job(self, tenant: int = 0, *, priority: Priority = Priority.SCHEDULED, **changes: object) -> Job:
        server = self.servers[self.tenants[tenant].pk]
        disk = make_disk(server)
        backup = Backup.objects.create(
            tenant=server.tenant,
            vault=make_vault(server.tenant),
            server=server,
            disk=disk,
            node=self.node,
            name=f"b-{disk.number}",
            server_name=server.name,
            disk_number=disk.number,
            size_bytes=disk.size_bytes,
        )
        kind = "restore" if priority == Priority.RESTORE else "backup"
        return Job.objects.create(
            kind=kind,
            tenant=server.tenant,
            disk=disk,
            node=self.node,
            backup=backup,
            backup_name=backup.name,
            priority=priority,
            **changes,
        )

    def claims(self, count: int) -> list[Job]:
        """What a worker gets that asks so often."""
        found = [claim_next(node_id=self.node.pk, now=timezone.now()) for _ in range(count)]
        return [claim.job for claim in found if claim is not None]


@pytest.fixture
def fleet(db: None) -> Fleet:
    return Fleet()


@pytest.mark.parametrize("kind", ["fleet", "node", "vault", "tenant", "link"])
@pytest.mark.parametrize("general", [True, False])
def test_a_budget_of_jobs_is_kept_and_the_rest_says_what_it_waits_for(fleet: Fleet, kind: str, general: bool) -> None:
    jobs = [fleet.job() for _ in range(3)]
    targets = {
        "node": {"node": fleet.node},
        "vault": {"vault": jobs[0].backup.vault},
        "tenant": {"tenant": fleet.tenants[0]},
        "link": {"region_id": "RBX", "vault_region_id": "GRA"},
        "fleet": {},
    }
    Budget.objects.create(kind=kind, most_jobs=2, **({} if general else targets[kind]))

    claimed = fleet.claims(3)

    waiting = Job.objects.get(state=JobState.PENDING)
    assert len(claimed) == 2
    assert waiting.waits.endswith("runs 2 of 2") and (kind in waiting.waits)
    Job.objects.filter(pk=claimed[0].pk).update(state=JobState.OK, lease_until=None)
    assert claim_job(job_id=waiting.pk, now=timezone.now()) is not None
    waiting.refresh_from_db()
    assert waiting.waits == ""


def test_a_row_of_its_own_stands_in_for_the_general_one_and_other_targets_are_not_counted(fleet: Fleet) -> None:
    Budget.objects.create(kind="node", most_jobs=1)
    Budget.objects.create(kind="node", node=fleet.node, most_jobs=4)
    Budget.objects.create(kind="tenant", tenant=fleet.tenants[1], most_jobs=1)
    for tenant in (0, 0, 1, 1):
        fleet.job(tenant)

    claimed = fleet.claims(4)

    assert sorted(job.tenant_id for job in claimed) == sorted([fleet.tenants[0].pk] * 2 + [fleet.tenants[1].pk])
    assert "runs 1 of 1" in Job.objects.get(state=JobState.PENDING).waits


def test_bytes_per_second_are_cut_into_shares_that_never_add_up_to_more(fleet: Fleet) -> None:
    limit = SHARES * 65536 + 3
    Budget.objects.create(kind="tenant", tenant=fleet.tenants[0], bytes_per_second=limit)
    for _ in range(SHARES + 1):
        fleet.job()

    claimed = fleet.claims(SHARES + 1)

    granted = [Job.objects.get(pk=job.pk).granted_bandwidth for job in claimed]
    assert granted == [limit // SHARES] * SHARES and sum(granted) <= limit
    assert "bytes per second" in Job.objects.get(state=JobState.PENDING).waits


@pytest.mark.parametrize(
    ("begin", "end", "at", "open_then"),
    [
        (time(8), time(18), "2026-01-15 07:30", True),  # 08:30 in Paris
        (time(8), time(18), "2026-01-15 17:00", False),  # 18:00 is over
        (time(22), time(6), "2026-01-15 22:30", True),  # 23:30
        (time(22), time(6), "2026-01-15 04:59", True),  # 05:59
        (time(22), time(6), "2026-01-15 12:00", False),
        (time(8), time(18), "2026-07-15 06:30", True),  # 08:30 in summer
        (None, None, "2026-01-15 12:00", True),
    ],
)
def test_a_window_is_of_local_time(begin: time | None, end: time | None, at: str, open_then: bool) -> None:
    assert holds_at(a_moment(at), from_time=begin, until_time=end, time_zone="Europe/Paris") is open_then


def test_outside_of_its_window_a_budget_holds_nobody(fleet: Fleet) -> None:
    Budget.objects.create(kind="fleet", most_jobs=0, from_time=time(8), until_time=time(18))
    job = fleet.job()

    assert admit_job(job, now=a_moment("2026-01-15 17:59")).waits
    assert not admit_job(job, now=a_moment("2026-01-15 18:00")).waits


USES = st.builds(
    Use,
    target=st.just("node n"),
    most_jobs=st.none() | st.integers(0, 5),
    bytes_per_second=st.none() | st.integers(65536, 10**7),
    running=st.just(0),
    granted=st.just(0),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(USES, max_size=4), st.integers(1, 12))
def test_however_many_ask_no_budget_is_passed(budgets: list[Use], asking: int) -> None:
    running, granted = 0, 0
    for _ in range(asking):
        now = [Use(use.target, use.most_jobs, use.bytes_per_second, running, granted) for use in budgets]
        admission = admit(now)
        if not admission.waits:
            running, granted = running + 1, granted + (admission.bandwidth or 0)

    for use in budgets:
        assert use.most_jobs is None or running <= use.most_jobs
        assert use.bytes_per_second is None or granted <= use.bytes_per_second


@pytest.mark.django_db(transaction=True)
def test_eight_workers_at_once_do_not_pass_a_budget_of_three() -> None:
    fleet = Fleet()
    jobs = [fleet.job(number % 2) for number in range(8)]
    Budget.objects.create(kind="node", most_jobs=3)
    start, got = threading.Barrier(8), []

    def work(job: Job) -> None:
        try:
            start.wait(timeout=20)
            got.append(claim_job(job_id=job.pk, now=timezone.now()))
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert (len(got), sum(claim is not None for claim in got)) == (8, 3)
    assert Job.objects.filter(state=JobState.RUNNING).count() == 3


def test_restores_go_before_backups_and_what_a_person_asked_for_before_the_schedule(fleet: Fleet) -> None:
    order = [Priority.SCHEDULED, Priority.RESTORE, Priority.MANUAL, Priority.SCHEDULED, Priority.RESTORE]
    for priority in order:
        fleet.job(priority=priority)

    assert [job.priority for job in fleet.claims(5)] == sorted(order, reverse=True)


def test_a_tenant_with_many_jobs_delays_another_by_one(fleet: Fleet) -> None:
    for _ in range(20):
        fleet.job(0)
    late = [fleet.job(1) for _ in range(2)]

    turns = [job.tenant_id for job in fleet.claims(6)]

    assert [turns.index(late[0].tenant_id) < 2, turns[:4].count(late[0].tenant_id)] == [True, 2]


def test_a_worker_takes_the_best_whatever_it_was_hinted_at(fleet: Fleet) -> None:
    hinted, best = fleet.job(), fleet.job(priority=Priority.RESTORE)

    first = claim_for_hint(job_id=hinted.pk, now=timezone.now())
    second = claim_for_hint(job_id=best.pk, now=timezone.now())

    assert first is not None and first.job.pk == best.pk
    assert second is not None and second.job.pk == hinted.pk
    assert claim_for_hint(job_id=best.pk, now=timezone.now()) is None


# --- another attempt --------------------------------------------------------------------------------------------------


def fail(job: Job, code: str) -> None:
    end_job(
        Job.objects.all(), job=job, state=JobState.FAILED, code=code, message="The store is away.", now=timezone.now()
    )


def scheduled_job() -> Job:
    server = make_server()
    definition = make_definition(server)
    backup = make_backup(server, definition=definition, status="pending")
    return Job.objects.create(
        kind="backup",
        tenant=server.tenant,
        disk=backup.disk,
        node=server.node,
        definition=definition,
        backup=backup,
        backup_name=backup.name,
        slot_at=NOW.replace(microsecond=0),
    )


@pytest.mark.django_db
def test_what_may_go_away_is_tried_again_twice_and_told_of_at_the_end() -> None:
    job = scheduled_job()
    make_webhook(job.tenant)
    pauses = []
    for _ in range(3):
        fail(job, "store_unreachable")
        for _ in range(2):
            sweeper.sweep(now=timezone.now())
        retry = Job.objects.filter(retry_of=job).first()
        if retry is None:
            break
        assert (retry.slot_at, retry.attempt, retry.state) == (job.slot_at, job.attempt + 1, JobState.PENDING)
        assert "The store is away." in retry.events.get().message
        assert claim_job(job_id=retry.pk, now=timezone.now()) is None
        assert claim_job(job_id=retry.pk, now=retry.not_before) is not None
        pauses.append(retry.not_before - timezone.now())
        job = retry

    assert Job.objects.count() == 3 and len(pauses) == 2
    assert timedelta(minutes=1) < pauses[0] < timedelta(minutes=4) < pauses[1] < timedelta(minutes=13)
    assert list(NoticeEvent.objects.values_list("code", flat=True)) == ["backup.failed"]
    assert Backup.objects.count() == 0


@pytest.mark.django_db
@pytest.mark.parametrize("why", ["code", "manual", "later run", "inactive", "suspended"])
def test_what_is_not_tried_again(why: str) -> None:
    job = scheduled_job()
    fail(job, "disk_missing" if why == "code" else "store_unreachable")
    if why == "manual":
        Job.objects.update(slot_at=None)
    if why == "later run":
        Job.objects.create(
            kind="backup", tenant=job.tenant, disk=job.disk, node=job.node, definition=job.definition, backup_name="x"
        )
    if why == "inactive":
        job.definition.active = False
        job.definition.save()
    if why == "suspended":
        Tenant.objects.update(status="suspended")

    sweeper.sweep(now=timezone.now())

    assert not Job.objects.exclude(retry_of=None).exists()


@pytest.mark.django_db
def test_a_failure_of_a_paused_definition_is_told_at_once() -> None:
    job = scheduled_job()
    make_webhook(job.tenant)
    job.definition.active = False

    tell_of_job(job, state=JobState.FAILED, now=timezone.now(), code="store_unreachable")

    assert NoticeEvent.objects.get().code == "backup.failed"


# --- hints ------------------------------------------------------------------------------------------------------------


def test_hints_do_not_pile_up_with_the_jobs(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr("backups.queue._send_run", lambda job, node: sent.append(node.queue) or True)
    for _ in range(30):
        fleet.job()
    now = timezone.now()

    counts = []
    for seconds in (0, 5, 25):
        sweeper.sweep(now=now + timedelta(seconds=seconds))
        counts.append(len(sent))
    fleet.claims(1)
    Job.objects.filter(state=JobState.RUNNING).update(lease_until=now + timedelta(hours=1))
    sweeper.sweep(now=now + timedelta(seconds=50))
    counts.append(len(sent))
    Node.objects.update(last_seen_at=now - timedelta(hours=1))
    for seconds in (75, 100, 125):
        sweeper.sweep(now=now + timedelta(seconds=seconds))

    # Eight at first, eight again when they were lost, then one beside the job that runs; a silent node is left alone.
    assert counts == [8, 8, 16, 17]
    assert len(sent) == 17


# --- the operator's rows ----------------------------------------------------------------------------------------------


BAD_BUDGETS: list[tuple[dict[str, object], str]] = [
    ({"kind": "node"}, "how many jobs"),
    ({"kind": "node", "most_jobs": 1, "tenant": "tenant"}, "names a tenant"),
    ({"kind": "link", "most_jobs": 1, "region": "RBX"}, "two regions"),
    ({"kind": "fleet", "most_jobs": 1, "from_time": "08:00"}, "beginning and another end"),
    ({"kind": "fleet", "most_jobs": 1, "from_time": "08:00", "until_time": "08:00"}, "another end"),
    ({"kind": "fleet", "most_jobs": 1, "time_zone": "Mars"}, "not a time zone"),
    ({"kind": "fleet", "bytes_per_second": 1}, "65536"),
]


@pytest.mark.parametrize(("body", "words"), BAD_BUDGETS)
def test_a_budget_that_makes_no_sense_is_refused_in_words(world: World, body: dict[str, object], words: str) -> None:
    sent = {name: str(world.ours.tenant.pk) if value == "tenant" else value for name, value in body.items()}

    answer = world.client("super").post("/api/v1/budgets/", sent)

    assert answer.status_code == 400 and words in answer.content.decode(), answer.content


def test_a_budget_is_made_changed_and_removed_and_each_is_in_the_audit(world: World) -> None:
    client = world.client("super")
    body = {"kind": "link", "region": "RBX", "vault_region": "GRA", "bytes_per_second": 10**8, "most_jobs": 4}
    made = client.post("/api/v1/budgets/", {**body, "from_time": "08:00", "until_time": "18:00"}).json()

    address = f"/api/v1/budgets/{made['id']}/"
    changed = client.patch(address, {"most_jobs": 2, "from_time": None, "until_time": None}).json()

    assert (made["target"], made["from_time"], changed["most_jobs"]) == ("link RBX-GRA", "08:00", 2)
    assert client.delete(address).status_code == 204
    actions = AuditEvent.objects.filter(subject_id=made["id"]).order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["budget.create", "budget.edit", "budget.delete"]
