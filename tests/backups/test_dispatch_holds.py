"""What is paused or in a time without backups is not dispatched, does not begin, and runs once when that is over."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest
from django.utils import timezone

from backups.dispatcher import dispatch_due
from backups.models import Backup, Job
from backups.states import JobState
from backups.transitions import claim_job
from definitions.holds import add_blackout, end_pause, pause
from definitions.models import BlackoutWindow, Definition
from tenants.models import AuditEvent, NoticeEvent, Person
from tests.factories import make_definition, make_person, make_server, make_webhook

pytestmark = pytest.mark.django_db
DUE = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SCOPES = ["definition", "node", "tenant", "fleet"]


@pytest.fixture
def operator() -> Person:
    return make_person(superadmin=True)


def due_definition(**changes: object) -> Definition:
    return make_definition(make_server(), cron="0 * * * *", next_run_at=DUE, **changes)


def targets_of(definition: Definition, scope: str) -> dict[str, object]:
    everything = {
        "definition": definition,
        "node": definition.disk.server.node,
        "tenant": definition.tenant,
    }
    return {scope: everything[scope]} if scope in everything else {}


@pytest.mark.parametrize("scope", SCOPES)
def test_what_a_pause_holds_runs_once_when_it_is_over_and_is_not_called_late(operator: Person, scope: str) -> None:
    held, other = due_definition(), due_definition()
    make_webhook(held.tenant)
    paused = pause(reason="Repair", now=DUE - timedelta(hours=1), actor=operator, **targets_of(held, scope))

    dispatched = dispatch_due(now=DUE)
    assert dispatched == (0 if scope == "fleet" else 1)
    assert not Job.objects.filter(definition=held).exists()
    end_pause(pause=paused, now=DUE + timedelta(hours=5), actor=operator)
    dispatch_due(now=DUE + timedelta(hours=5))
    dispatch_due(now=DUE + timedelta(hours=5))

    assert Job.objects.filter(definition=held).count() == 1 and Job.objects.filter(definition=other).exists()
    held.refresh_from_db()
    assert held.next_run_at == DUE + timedelta(hours=6)
    assert not NoticeEvent.objects.filter(code__in=["backup.late", "backup.missed"]).exists()


def test_a_time_without_backups_puts_the_run_off_to_its_end(operator: Person) -> None:
    held = due_definition()
    make_webhook(held.tenant)
    add_blackout(reason="Trading hours", start=time(11, 30), end=time(14, 0), actor=operator, tenant=held.tenant)
    # It stood before the run was due.
    BlackoutWindow.objects.update(created_at=DUE - timedelta(hours=1))

    counts = [dispatch_due(now=DUE + timedelta(minutes=minutes)) for minutes in (0, 60, 119, 120, 121)]

    assert counts == [0, 0, 0, 1, 0]
    assert not NoticeEvent.objects.exists()


@pytest.mark.parametrize("scope", SCOPES)
def test_what_waits_when_a_pause_begins_does_not_start_and_says_why(operator: Person, scope: str) -> None:
    definition = due_definition()
    dispatch_due(now=DUE)
    job = Job.objects.get()
    now = timezone.now()
    paused = pause(reason="The node is repaired", now=now, actor=operator, **targets_of(definition, scope))

    assert claim_job(job_id=job.pk, now=now + timedelta(seconds=1)) is None
    job.refresh_from_db()
    assert job.state == JobState.PENDING and "The node is repaired" in job.waits
    end_pause(pause=paused, now=now + timedelta(seconds=2), actor=operator)
    assert claim_job(job_id=job.pk, now=now + timedelta(seconds=3)) is not None


def test_what_a_person_asks_for_is_not_held(operator: Person) -> None:
    definition = due_definition()
    dispatch_due(now=DUE)
    Job.objects.update(slot_at=None)
    pause(reason="Repair", now=timezone.now(), actor=operator, definition=definition)

    assert claim_job(job_id=Job.objects.get().pk, now=timezone.now()) is not None


def test_a_batch_writes_what_single_runs_write_and_names_stay_apart() -> None:
    definitions = [due_definition(name=f"d{number}") for number in range(6)]
    for definition in definitions[:2]:
        Backup.objects.create(
            tenant=definition.tenant,
            vault=definition.vault,
            disk=definition.disk,
            name=f"{definition.name}-20260302_120000",
            server_name="s",
            disk_number=1,
            size_bytes=1,
        )

    assert dispatch_due(now=DUE) == 6

    jobs = list(Job.objects.select_related("backup", "definition"))
    assert {job.definition_id for job in jobs} == {definition.pk for definition in definitions}
    for job in jobs:
        taken = job.definition in definitions[:2]
        assert job.backup_name == job.backup.name == f"{job.definition.name}-20260302_12000{1 if taken else 0}"
        assert (job.slot_at, job.backup.slot_at, job.backup.status, job.attempt) == (DUE, DUE, "pending", 0)
        assert (job.tenant_id, job.backup.server_id) == (job.definition.tenant_id, job.definition.disk.server_id)
        assert job.events.get().message == "Due at 2026-03-02 12:00:00 UTC by its schedule."
    told = AuditEvent.objects.filter(action="backup.requested")
    assert {event.subject_id for event in told} == {str(job.pk) for job in jobs}
    assert all(event.tenant_id and event.after for event in told)


@pytest.mark.parametrize("late_minutes", [5, 30, 90])
def test_a_late_and_a_missed_run_are_told_of_once(late_minutes: int) -> None:
    definition = due_definition()
    make_webhook(definition.tenant)

    for minutes in (late_minutes, late_minutes + 1):
        dispatch_due(now=DUE + timedelta(minutes=minutes))

    codes = list(NoticeEvent.objects.values_list("code", flat=True))
    assert codes == {5: [], 30: ["backup.late"], 90: ["backup.missed"]}[late_minutes]


def test_a_tick_asks_a_bounded_number_of_questions(django_assert_max_num_queries: object) -> None:
    for number in range(12):
        due_definition(name=f"d{number}")

    with django_assert_max_num_queries(6):
        dispatch_due(now=DUE - timedelta(minutes=1))
    with django_assert_max_num_queries(30 + 12 * 2):
        assert dispatch_due(now=DUE) == 12
