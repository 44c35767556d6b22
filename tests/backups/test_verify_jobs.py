"""A check with keys is a job: asked for once, claimed once, canceled within seconds, taken over when it is cut."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from agents.protocol import Progress
from backups import verifier
from backups.checking import Outcome, Watch
from backups.heartbeat import Heartbeat
from backups.models import Backup, Job, Session
from backups.services import cancel_job
from backups.states import BackupHealth, JobKind, JobState
from backups.sweeper import sweep
from backups.transitions import claim_job, lease_length
from common.errors import ConflictError
from tests.backups.library import Library, library
from tests.engine.support import BLOCK_SIZE, noise
from tests.factories import make_backup, make_job, make_person, make_server

__all__ = ["library"]

IMAGE = noise(60 * BLOCK_SIZE)
CHECKS = [JobKind.VERIFY]


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that workers were hinted at, in order."""
    found: list[str] = []

    def send(task: str, *, queue: str, job_id: str = "", **_: str) -> None:
        asked = Job.objects.get(pk=job_id).requested_by_id is not None
        assert (task, queue) == ("backups.tasks.verify_backup", "checks.asked" if asked else "checks")
        found.append(job_id)

    monkeypatch.setattr("backups.queue._send", send)
    return found


def ask(library: Library, backup: Backup) -> Job:
    return verifier.request_verification(backup=library.fresh(backup), actor=None, now=library.now)


def run(library: Library, job: Job, **options: Any) -> verifier.Verdict | None:
    """No beat comes by itself: within a test's transaction no other thread sees rows."""
    return verifier.verify_backup(job_id=job.pk, clock=library.clock, beat_seconds=3600, **options)


def state(job: Job) -> tuple[str, str]:
    job.refresh_from_db()
    return job.state, job.code


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Any) -> None:
    """Call `happens` once, in the middle of the reading; a beat comes right after it."""
    tell, calls = Watch.tell, []

    def telling(watch: Watch, phase: str, done_bytes: int, total_bytes: int) -> None:
        tell(watch, phase, done_bytes, total_bytes)
        calls.append(phase)
        if len(calls) == 2:
            happens()
            watch.heartbeat.beat()

    monkeypatch.setattr(Watch, "tell", telling)


# --- asking -----------------------------------------------------------------------------------------------------------


def test_a_check_that_waits_or_runs_answers_every_other_click(library: Library) -> None:
    backup = library.write(IMAGE)
    job = ask(library, backup)

    assert ask(library, backup) == job
    claim_job(job_id=job.pk, now=library.now, kinds=CHECKS)
    assert ask(library, backup) == job
    assert Job.objects.filter(kind="verify").count() == 1
    assert job.disk == library.disk and job.node is None


def test_two_clicks_at_the_same_moment_make_one_job(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = library.write(IMAGE)
    first = ask(library, backup)
    # The second click has looked before the first one wrote.
    monkeypatch.setattr(verifier, "active_check", lambda backup: None)

    assert ask(library, backup) == first
    assert Job.objects.filter(kind="verify").count() == 1


def test_the_database_itself_refuses_a_second_active_check(library: Library) -> None:
    backup = library.write(IMAGE)
    ask(library, backup)

    with pytest.raises(IntegrityError, match=r"job_one_check_per_backup|backup_id"), transaction.atomic():
        make_job(library.server, kind="verify", backup=backup)


def test_only_good_backups_are_checked(library: Library) -> None:
    backup = library.write(IMAGE)
    Backup.objects.filter(pk=backup.pk).update(removed_at=library.now)

    for refused in (backup, make_backup(library.server, status="pending")):
        with pytest.raises(ConflictError):
            ask(library, refused)
    assert not Job.objects.exists()


def test_the_backup_of_a_disk_that_is_gone_can_be_checked(library: Library) -> None:
    backup = library.write(IMAGE)
    Backup.objects.filter(pk=backup.pk).update(disk=None, server=None)

    job = ask(library, backup)

    assert job.disk is None
    assert run(library, job) == verifier.Verdict(Outcome.VERIFIED)


def test_the_daily_run_writes_a_job_for_what_is_due_once(library: Library) -> None:
    backup = library.write(IMAGE)

    assert verifier.request_due_verifications(now=library.now) == 1
    assert verifier.request_due_verifications(now=library.now) == 1

    [job] = Job.objects.filter(kind="verify")
    assert (job.backup, job.requested_by, job.total_bytes) == (backup, None, len(IMAGE))
    assert run(library, job) == verifier.Verdict(Outcome.VERIFIED)
    assert verifier.request_due_verifications(now=library.now) == 0


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_check_leaves_job_backup_and_events_in_order(library: Library) -> None:
    backup = library.write(IMAGE)
    job = ask(library, backup)
    library.now += timedelta(minutes=1)

    assert run(library, job) == verifier.Verdict(Outcome.VERIFIED)

    assert state(job) == ("ok", "")
    assert (job.done_bytes, job.total_bytes, job.lease_until) == (len(IMAGE), len(IMAGE), None)
    assert [event.code for event in job.events.order_by("pk")] == ["requested", "started", "ok"]
    found = library.fresh(backup)
    assert (found.health, found.verified_at) == (BackupHealth.VERIFIED, library.now)
    assert run(library, job) is None


def test_damage_ends_the_job_and_shows_on_the_backup(library: Library) -> None:
    backup = library.write(IMAGE)
    library.spoil(library.needed(backup, "p")[0], at=1000)
    job = ask(library, backup)

    run(library, job)

    assert state(job) == ("failed", "backup_damaged")
    assert library.fresh(backup).health == BackupHealth.DAMAGED


def test_no_token_lets_anybody_speak_for_a_check(library: Library) -> None:
    job = ask(library, library.write(IMAGE))

    assert run(library, job) is not None
    assert not Session.objects.exists()


def test_a_node_cannot_take_a_check_nor_the_checks_worker_a_backup(library: Library) -> None:
    check, moving = ask(library, library.write(IMAGE)), make_job(library.server)

    assert claim_job(job_id=check.pk, now=library.now) is None
    assert run(library, moving) is None
    assert {job.state for job in Job.objects.all()} == {"pending"}


def test_a_check_runs_beside_a_backup_of_the_same_disk(library: Library) -> None:
    check = ask(library, library.write(IMAGE))
    make_job(library.server, state="running")

    assert run(library, check) == verifier.Verdict(Outcome.VERIFIED)


def test_progress_is_told_and_the_lease_kept(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ask(library, library.write(IMAGE))
    seen: list[Any] = []

    def look() -> None:
        library.now += lease_length() / 2
        seen.append(library.now + lease_length())

    meanwhile(monkeypatch, look)
    beat = Heartbeat.beat

    def beating(heartbeat: Heartbeat) -> None:
        beat(heartbeat)
        job.refresh_from_db()
        seen.append((job.lease_until, job.phase, 0 < job.done_bytes < job.total_bytes == len(IMAGE)))

    monkeypatch.setattr(Heartbeat, "beat", beating)
    run(library, job)

    [lease_until, beaten] = seen
    assert beaten == (lease_until, "reading", True)


def test_a_cancel_ends_it_in_the_middle(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = library.write(IMAGE)
    job = ask(library, backup)
    meanwhile(monkeypatch, lambda: cancel_job(job=job, actor=make_person("somebody"), now=library.now))

    verdict = run(library, job)

    assert verdict is not None and verdict.outcome == Outcome.CANCELED
    assert state(job) == ("canceled", "canceled")
    assert library.fresh(backup).verified_at is None


def test_a_check_that_waits_is_canceled_at_once(library: Library) -> None:
    job = ask(library, library.write(IMAGE))

    cancel_job(job=job, actor=make_person("somebody"), now=library.now)

    assert state(job) == ("canceled", "canceled")
    assert run(library, job) is None


def test_a_backup_that_is_removed_meanwhile_ends_it(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = library.write(IMAGE)
    job = ask(library, backup)
    removed = Backup.objects.filter(pk=backup.pk)
    meanwhile(monkeypatch, lambda: removed.update(removed_at=library.now))

    run(library, job)

    assert state(job) == ("canceled", "backup_not_ok")
    assert library.fresh(backup).verified_at is None


def test_a_backup_that_was_removed_before_is_not_read(library: Library) -> None:
    backup = library.write(IMAGE)
    job = ask(library, backup)
    Backup.objects.filter(pk=backup.pk).update(removed_at=library.now)
    reads = len(library.client.calls) if hasattr(library.client, "calls") else None

    run(library, job)

    assert state(job) == ("canceled", "backup_not_ok")
    assert reads is None or len(library.client.calls) == reads


def test_a_check_ends_when_its_time_is_over(library: Library) -> None:
    backup = library.write(IMAGE)
    job = ask(library, backup)

    run(library, job, longest=timedelta(0))

    assert state(job) == ("failed", "check_timeout")
    assert library.fresh(backup).verified_at is None


def test_what_nobody_expected_ends_the_job_too(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ask(library, library.write(IMAGE))

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(verifier, "check_backup", broken)

    with pytest.raises(ZeroDivisionError):
        run(library, job)
    assert state(job) == ("failed", "unexpected_error")


def test_a_worker_that_is_stopped_leaves_the_check_to_the_next_one(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ask(library, library.write(IMAGE))

    def stopped(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(verifier, "check_backup", stopped)
        with pytest.raises(SystemExit):
            run(library, job)
    assert state(job) == ("running", "")

    library.now += lease_length() + timedelta(seconds=1)
    assert run(library, job) == verifier.Verdict(Outcome.VERIFIED)


# --- lease and fence --------------------------------------------------------------------------------------------------


def take_over(library: Library, job: Job) -> Any:
    library.now += lease_length() + timedelta(seconds=1)
    claim = claim_job(job_id=job.pk, now=library.now, kinds=CHECKS)
    assert claim is not None
    return claim


def test_a_worker_that_lost_its_lease_writes_nothing(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = library.write(IMAGE)
    job = ask(library, backup)
    meanwhile(monkeypatch, lambda: take_over(library, job))

    verdict = run(library, job)

    assert verdict is not None and verdict.outcome == Outcome.LOST
    assert state(job) == ("running", "")
    assert (job.fence, library.fresh(backup).verified_at) == (2, None)


def test_the_last_moment_is_fenced_too(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker hung after its last block: it has found the backup whole, and another one has the job."""
    backup = library.write(IMAGE)
    job = ask(library, backup)
    check = verifier.check_backup

    def hanging(*arguments: Any) -> verifier.Verdict:
        verdict = check(*arguments)
        take_over(library, job)
        return verdict

    monkeypatch.setattr(verifier, "check_backup", hanging)

    assert run(library, job) == verifier.Verdict(Outcome.VERIFIED)
    assert state(job) == ("running", "")
    assert library.fresh(backup).verified_at is None


def test_a_check_whose_worker_was_killed_is_started_anew(library: Library, hints: list[str]) -> None:
    backup = library.write(IMAGE)
    job = ask(library, backup)
    claim_job(job_id=job.pk, now=library.now, kinds=CHECKS)
    library.now += lease_length() + timedelta(seconds=1)

    sweep(now=library.now)

    assert hints == [str(job.pk)]
    assert run(library, job) == verifier.Verdict(Outcome.VERIFIED)
    assert [event.code for event in job.events.order_by("pk")] == ["requested", "started", "taken_over", "ok"]


def test_a_check_is_not_taken_over_while_its_worker_beats(library: Library, hints: list[str]) -> None:
    job = ask(library, library.write(IMAGE))
    claim_job(job_id=job.pk, now=library.now, kinds=CHECKS)

    sweep(now=library.now)

    assert hints == []
    assert run(library, job) is None


def test_the_thread_beats_by_itself_and_hears_of_a_cancel(transactional_db: None) -> None:
    server = make_server()
    job = make_job(server, kind="verify", backup=make_backup(server))
    claim = claim_job(job_id=job.pk, now=timezone.now(), kinds=CHECKS)
    assert claim is not None
    patience = threading.Event()

    with Heartbeat(claim=claim, clock=timezone.now, progress=Progress("reading", 7, 9), beat_seconds=0.01) as heart:
        Job.objects.filter(pk=job.pk).update(cancel_requested=True)
        for _ in range(2000):
            if heart.stopped() or patience.wait(0.01):
                break

    assert (heart.canceled, heart.lost, heart.removed) == (True, False, False)
    job.refresh_from_db()
    assert (job.phase, job.done_bytes, job.total_bytes) == ("reading", 7, 9)


# --- hints ------------------------------------------------------------------------------------------------------------


def old(*jobs: Job) -> None:
    Job.objects.filter(pk__in=[job.pk for job in jobs]).update(hinted_at=timezone.now() - timedelta(hours=1))


def test_a_lost_hint_is_given_again_for_the_oldest_only(library: Library, hints: list[str]) -> None:
    """Checks take hours: hints at all of them, every few seconds, would fill the broker."""
    first, second = ask(library, library.write(IMAGE)), ask(library, library.write(IMAGE))
    old(first, second)

    sweep(now=timezone.now())
    sweep(now=timezone.now())

    assert hints == [str(first.pk)]


def test_no_hint_is_given_while_a_check_runs_and_its_end_hints_at_the_next(library: Library, hints: list[str]) -> None:
    first, second = ask(library, library.write(IMAGE)), ask(library, library.write(IMAGE))
    old(first, second)
    Job.objects.filter(pk=first.pk).update(
        state=JobState.RUNNING, fence=1, lease_until=timezone.now() + timedelta(minutes=1)
    )
    sweep(now=timezone.now())
    assert hints == []

    Job.objects.filter(pk=first.pk).update(lease_until=library.now)
    library.now += timedelta(seconds=1)
    run(library, first)

    assert hints == [str(second.pk)]


def test_the_end_of_a_job_on_the_disk_hints_at_no_check(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    from backups.queue import hint_next

    ask(library, library.write(IMAGE))
    moving = make_job(library.server)
    hinted: list[Job] = []
    monkeypatch.setattr("backups.queue.hint_job", hinted.append)

    hint_next(library.disk.pk)

    assert hinted == [moving]
