"""A commit that fails again and again ends; what was uploaded for it is not lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest import mock

import msgspec
import pytest
from botocore.exceptions import EndpointConnectionError
from django.conf import settings

from agents.protocol import CommitRequest
from backups import committer
from backups.models import Backup, Job
from backups.resuming import resumable_sessions
from backups.states import JobState
from backupsite.config import Config
from tests.model_s3 import ModelClient
from tests.removal.world import OpenSession, World, now, running
from vaults.models import StoredObject

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@contextmanager
def flapping() -> Iterator[None]:
    """The store shows every object, and is away when the commit asks for its time: each attempt gets on and fails."""

    def away(self: ModelClient, **options: Any) -> Any:
        raise EndpointConnectionError(endpoint_url="the model store")

    with mock.patch.object(ModelClient, "head_bucket", away):
        yield


@pytest.fixture
def uploaded() -> Iterator[tuple[World, Any, OpenSession, Job]]:
    """A session whose commit was asked for at a bad moment."""
    with running() as (world, clock):
        writer = world.start_session()
        assert writer is not None
        world.put_pack(writer)
        with flapping():
            job = world.commit(writer)
        assert job.state == JobState.RUNNING
        yield world, clock, writer, job


def attempt(writer: OpenSession, job: Job) -> Job:
    committer.commit_session(session_id=str(writer.session.pk))
    job.refresh_from_db()
    return job


def test_the_time_for_attempts_leaves_time_for_the_next_backup() -> None:
    """What was granted a day ago is not gone on with: the limit ends long before that."""
    assert Config.model_fields["commit_retry_seconds"].default == 6 * 3600
    for wrong in (899, 12 * 3600 + 1):
        with pytest.raises(ValueError, match="between 900 and 43200"):
            Config(commit_retry_seconds=wrong)


def test_store_trouble_within_the_time_changes_nothing(uploaded: tuple[World, Any, OpenSession, Job]) -> None:
    _, clock, writer, job = uploaded
    clock.shift(6 * HOUR - timedelta(seconds=1))
    with flapping():
        assert attempt(writer, job).state == JobState.RUNNING

    assert attempt(writer, job).state == JobState.OK


def test_after_it_the_job_fails_with_words_a_person_understands(uploaded: tuple[World, Any, OpenSession, Job]) -> None:
    _, clock, writer, job = uploaded
    for _ in range(5):
        clock.shift(HOUR)
        with flapping():
            assert attempt(writer, job).state == JobState.RUNNING
    clock.shift(HOUR)

    attempt(writer, job)

    assert (job.state, job.code) == (JobState.FAILED, "commit_expired")
    assert "for 6 hours" in job.message and "goes on with what is stored" in job.message
    assert not Backup.objects.filter(pk=job.backup_id).exists()
    assert job.events.filter(code="commit_expired").count() == 1
    attempt(writer, job)
    assert job.events.filter(code="commit_expired").count() == 1


def test_an_attempt_that_ends_badly_after_it_is_the_last(uploaded: tuple[World, Any, OpenSession, Job]) -> None:
    """It began in time and got on for long: it was not cut off, and is not begun anew."""
    _, clock, writer, job = uploaded
    clock.shift(6 * HOUR - timedelta(seconds=1))

    def slow(self: ModelClient, **options: Any) -> Any:
        clock.shift(HOUR)
        raise EndpointConnectionError(endpoint_url="the model store")

    with mock.patch.object(ModelClient, "head_bucket", slow):
        attempt(writer, job)

    assert (job.state, job.code) == (JobState.FAILED, "commit_expired")
    assert "does not answer" in job.message


def test_an_attempt_that_ends_well_after_it_counts(uploaded: tuple[World, Any, OpenSession, Job]) -> None:
    _, clock, writer, job = uploaded
    clock.shift(6 * HOUR - timedelta(seconds=1))
    real = ModelClient.head_bucket

    def slow(self: ModelClient, **options: Any) -> Any:
        clock.shift(HOUR)
        return real(self, **options)

    with mock.patch.object(ModelClient, "head_bucket", slow):
        assert attempt(writer, job).state == JobState.OK


def test_the_setting_decides(uploaded: tuple[World, Any, OpenSession, Job]) -> None:
    _, clock, writer, job = uploaded
    shorter = settings.CONFIG.model_copy(update={"commit_retry_seconds": 1800})
    clock.shift(HOUR / 2)

    with mock.patch.object(settings, "CONFIG", shorter):
        attempt(writer, job)

    assert (job.code, "for 0.5 hours" in job.message) == ("commit_expired", True)


def test_the_next_backup_goes_on_with_what_is_stored(uploaded: tuple[World, Any, OpenSession, Job]) -> None:
    world, clock, first, job = uploaded
    clock.shift(6 * HOUR)
    attempt(first, job)
    before = version_count(world)
    clock.shift(HOUR)

    again = world.start_session()
    assert again is not None
    [offered] = resumable_sessions(again.session, now())
    assert first.envelope is not None
    assert offered.envelope.key == first.envelope.key
    assert [message.key for message in offered.packs] == [row.key for row in first.packs]

    again.keys, again.envelope, again.packs = first.keys, first.envelope, first.packs
    job = world.commit(again, change=resumed)

    assert job.state == JobState.OK, job.message
    assert version_count(world) == before + 1  # the manifest
    assert set(StoredObject.objects.filter(kind__in="pk").values_list("status", flat=True)) == {"stored"}
    world.check()


def version_count(world: World) -> int:
    return sum(len(versions) for versions in world.store._versions.values())


def resumed(request: CommitRequest) -> CommitRequest:
    """All but the manifest was stored by the attempt before."""
    manifest = [message for message in request.new_objects if message.key == request.manifest.key]
    others = [message for message in request.new_objects if message.key != request.manifest.key]
    return msgspec.structs.replace(request, new_objects=manifest, resumed_objects=others)
