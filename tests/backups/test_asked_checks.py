"""A check that a person asks for waits for other such checks only: it has a queue and a worker of its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from backups.models import Backup, Job
from backups.queue import ASKED_CHECKS_QUEUE, CHECKS_QUEUE
from backups.states import JobKind
from backups.sweeper import sweep
from backups.transitions import claim_job
from backups.verifier import request_due_verifications, request_verification, verify_backup
from backupsite.stack.programs import Programs
from backupsite.stack.secret_files import load_or_make
from backupsite.stack.settings import StackSettings
from tenants.models import Person
from tests.factories import make_backup, make_person, make_server

pytestmark = pytest.mark.django_db

Hints = list[tuple[str, str]]


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> Hints:
    """Queue and job of each hint."""
    found: Hints = []
    monkeypatch.setattr("backups.queue._send", lambda task, *, queue, job_id: found.append((queue, job_id)))
    return found


@pytest.fixture
def person() -> Person:
    return make_person("root")


def good() -> Backup:
    return make_backup(make_server(), status="ok", sequence=1)


def ask(backup: Backup, actor: Person | None, on_commit: Callable) -> Job:
    with on_commit(execute=True):
        return request_verification(backup=backup, actor=actor, now=timezone.now())


def test_a_check_is_told_to_the_queue_of_who_asked(
    hints: Hints, person: Person, django_capture_on_commit_callbacks: Callable
) -> None:
    nightly = ask(good(), None, django_capture_on_commit_callbacks)
    asked = ask(good(), person, django_capture_on_commit_callbacks)

    assert hints == [(CHECKS_QUEUE, str(nightly.pk)), (ASKED_CHECKS_QUEUE, str(asked.pk))]


def test_a_nightly_check_that_waits_moves_over_when_a_person_asks_for_it(
    hints: Hints, person: Person, django_capture_on_commit_callbacks: Callable
) -> None:
    backup = good()
    job = ask(backup, None, django_capture_on_commit_callbacks)

    for _ in range(2):
        assert ask(backup, person, django_capture_on_commit_callbacks) == job

    assert hints[1:] == [(ASKED_CHECKS_QUEUE, str(job.pk))], "told once"
    # The night's run finds it waiting and leaves it to the person.
    request_due_verifications(now=timezone.now())
    job.refresh_from_db()
    assert job.requested_by == person


def test_a_nightly_check_that_runs_stays_where_it_is(
    hints: Hints, person: Person, django_capture_on_commit_callbacks: Callable
) -> None:
    backup = good()
    job = ask(backup, None, django_capture_on_commit_callbacks)
    assert claim_job(job_id=job.pk, now=timezone.now(), kinds=[JobKind.VERIFY])

    assert ask(backup, person, django_capture_on_commit_callbacks) == job

    job.refresh_from_db()
    assert job.requested_by is None and len(hints) == 1


def test_neither_queue_waits_for_the_other(
    hints: Hints, person: Person, django_capture_on_commit_callbacks: Callable
) -> None:
    """A check of the night runs for hours; what was asked for, and whose hint was lost, is told again all the same."""
    now = timezone.now()
    nightly, _ = (ask(good(), None, django_capture_on_commit_callbacks) for _ in range(2))
    asked = [ask(good(), person, django_capture_on_commit_callbacks) for _ in range(2)]
    claim_job(job_id=nightly.pk, now=now, kinds=[JobKind.VERIFY])
    Job.objects.filter(pk=nightly.pk).update(lease_until=now + timedelta(hours=1))
    Job.objects.update(hinted_at=now - timedelta(minutes=2))
    hints.clear()

    for _ in range(2):
        sweep(now=now)

    assert hints == [(ASKED_CHECKS_QUEUE, str(asked[0].pk))], "told once a minute, and of the other queue nothing"
    # At its end the next one of its own queue is told.
    hints.clear()
    Backup.objects.filter(pk=asked[0].backup_id).update(removed_at=now)
    verify_backup(job_id=asked[0].pk, clock=timezone.now, beat_seconds=3600)
    assert hints == [(ASKED_CHECKS_QUEUE, str(asked[1].pk))]


def test_the_stack_has_a_worker_for_each_of_the_two_queues(tmp_path: Path) -> None:
    programs = Programs(
        settings=StackSettings(data=tmp_path, port=9000),
        secrets=load_or_make(tmp_path / "secrets"),
        broker_url="memory://",
        outside={},
    )

    taken = {spec.name: spec.argv[spec.argv.index("-Q") + 1] for spec in programs.long_running() if "-Q" in spec.argv}

    assert (taken["checks"], taken["asked"]) == (CHECKS_QUEUE, ASKED_CHECKS_QUEUE)
