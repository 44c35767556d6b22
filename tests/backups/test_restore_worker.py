"""The worker of a node that is there for restores alone."""

from __future__ import annotations

from typing import Any

import pytest

from backups import queue, runner
from backups.models import Job
from backups.states import JobKind
from tests.factories import make_backup, make_job, make_server

pytestmark = [pytest.mark.django_db, pytest.mark.case("CP-20")]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def send(task: str, *, queue: str, **_: Any) -> bool:
        found.append((task.rpartition(".")[2], queue))
        return True

    monkeypatch.setattr(queue, "_send", send)
    return found


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was claimed and would be moved now."""
    found: list[str] = []
    monkeypatch.setattr(runner, "_move", lambda claims, server_id: found.extend(str(one.job_id) for one in claims))
    # It is the test's own.
    monkeypatch.setattr(runner, "connections", type("Kept", (), {"close_all": staticmethod(lambda: None)}))
    monkeypatch.setattr(runner, "close_old_connections", lambda: None)
    return found


def restore_of(kind: str = JobKind.RESTORE) -> Job:
    server = make_server()
    return make_job(server, kind=kind, backup=make_backup(server))


def test_a_restore_is_told_to_both_and_a_backup_to_one(sent: list[tuple[str, str]]) -> None:
    restore, backup = restore_of(), restore_of(JobKind.BACKUP)

    queue.hint_job(restore)
    queue.hint_jobs([backup])

    own = f"node.{restore.node.name}"
    assert sent == [
        ("run_job", own),
        ("run_restore", f"{own}.restores"),
        ("run_job", f"node.{backup.node.name}"),
    ]


def test_it_takes_the_restore_that_it_was_told_of_and_nothing_else(
    sent: list[tuple[str, str]], moved: list[str]
) -> None:
    restore, backup = restore_of(), restore_of(JobKind.BACKUP)

    runner.run_restore(job_id=str(backup.pk))
    assert moved == []
    runner.run_restore(job_id=str(restore.pk))
    runner.run_restore(job_id=str(restore.pk))

    assert moved == [str(restore.pk)]
    assert Job.objects.get(pk=restore.pk).state == "running"
    assert Job.objects.get(pk=backup.pk).state == "pending"
