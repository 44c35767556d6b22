"""A commit may take as long as it gets on; one that stands still is asked for again, and given up in the end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from backups import sweeper
from backups.models import Job, Session
from backups.states import JobState
from backups.transitions import commit_progress, lease_length, renew_commit
from tests.backups.library import START
from tests.factories import make_job, make_server

MINUTE = timedelta(minutes=1)


class Waiting:
    """A session that has asked for its commit at START, and the hints that the sweep gives."""

    def __init__(self) -> None:
        self.now = START
        job = make_job(make_server(), state=JobState.RUNNING, lease_until=START + timedelta(seconds=20))
        self.session = Session.objects.create(
            job=job, fence=job.fence, token_hash="t", commit_request={}, commit_requested_at=START
        )
        self.hints: list[Any] = []

    def clock(self) -> datetime:
        return self.now

    @property
    def job(self) -> Job:
        return Job.objects.get(pk=self.session.job_id)

    def pass_time(self, by: timedelta) -> None:
        self.now += by

    def sweep(self) -> int:
        """How many hints this sweep gave."""
        before = len(self.hints)
        sweeper.sweep(now=self.now)
        return len(self.hints) - before


@pytest.fixture
def waiting(db: None, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    found = Waiting()
    monkeypatch.setattr(sweeper, "hint_commit", found.hints.append)
    return found


def test_a_commit_that_gets_on_is_never_given_up(waiting: Waiting) -> None:
    progress = commit_progress(waiting.session, clock=waiting.clock)

    for _ in range(12 * 60):
        waiting.pass_time(timedelta(seconds=5))
        progress()
        if waiting.now.minute % 7 == 0:
            assert waiting.sweep() == 0

    assert waiting.job.state == JobState.RUNNING


def test_one_that_gets_on_slowly_is_hinted_at_and_goes_on(waiting: Waiting) -> None:
    for _ in range(20):
        waiting.pass_time(14 * MINUTE)
        assert waiting.sweep() == 1
        assert renew_commit(waiting.session, now=waiting.now)

    assert waiting.job.state == JobState.RUNNING


def test_one_that_stands_still_is_given_up_after_15_minutes(waiting: Waiting) -> None:
    waiting.pass_time(60 * MINUTE)
    renew_commit(waiting.session, now=waiting.now)
    waiting.pass_time(14 * MINUTE)
    assert waiting.sweep() == 1

    waiting.pass_time(MINUTE + lease_length())
    assert waiting.sweep() == 0

    assert (waiting.job.state, waiting.job.code) == (JobState.FAILED, "commit_timeout")
    assert not renew_commit(waiting.session, now=waiting.now)
    assert waiting.job.lease_until is None


def test_one_that_nobody_began_is_given_up_as_well(waiting: Waiting) -> None:
    waiting.pass_time(sweeper.COMMIT_GIVE_UP_AFTER + lease_length())

    waiting.sweep()

    assert waiting.job.state == JobState.FAILED


def test_progress_at_the_very_moment_of_giving_up_counts(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting.pass_time(30 * MINUTE)
    end_job = sweeper.end_job

    def late(*arguments: Any, **options: Any) -> bool:
        renew_commit(waiting.session, now=waiting.now)
        return end_job(*arguments, **options)

    monkeypatch.setattr(sweeper, "end_job", late)

    waiting.sweep()

    assert waiting.job.state == JobState.RUNNING


def test_a_lost_hint_is_given_again_when_the_lease_is_over(waiting: Waiting) -> None:
    waiting.pass_time(timedelta(seconds=16))
    assert waiting.sweep() == 0
    waiting.pass_time(timedelta(seconds=5))

    assert (waiting.sweep(), waiting.sweep()) == (1, 1)


def test_another_claim_takes_the_session_its_word(waiting: Waiting) -> None:
    Job.objects.filter(pk=waiting.job.pk).update(fence=2)

    assert not renew_commit(waiting.session, now=waiting.now + MINUTE)

    assert waiting.job.lease_until == START + timedelta(seconds=20)


def test_progress_costs_a_few_statements_per_lease(waiting: Waiting, django_assert_max_num_queries: Any) -> None:
    progress = commit_progress(waiting.session, clock=waiting.clock)

    with django_assert_max_num_queries(5):
        for _ in range(1000):
            progress()
            waiting.pass_time(lease_length() / 1000)

    assert waiting.job.lease_until >= START + 1.7 * lease_length()
