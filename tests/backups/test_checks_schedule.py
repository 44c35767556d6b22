"""The periodic entries and tasks of the checks: on their own queue, and each task does what its name says."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django_celery_beat.models import PeriodicTask

from backups import tasks
from backups.beat import write_periodic_tasks
from backups.models import Backup
from backups.scrubbing import scrub_everywhere
from backups.states import BackupHealth
from backups.verifier import request_verification
from common.errors import UnavailableError
from tests.backups.library import Library, library
from tests.engine.support import noise
from tests.factories import make_tenant, make_vault
from vaults.models import StoredObject, Vault
from vaults.scrubber import ScrubLimits

__all__ = ["library"]

CHECKS = {
    "backups.tasks.scrub",
    "backups.tasks.check_locks",
    "backups.tasks.review_damage",
    "backups.tasks.verify_due",
    "backups.tasks.recompute_usage",
}


def test_what_reads_for_long_has_a_queue_of_its_own(db: None) -> None:
    write_periodic_tasks()
    write_periodic_tasks()

    queues = dict(PeriodicTask.objects.filter(task__in=CHECKS).values_list("task", "queue"))

    assert queues == dict.fromkeys(CHECKS, "checks")
    assert PeriodicTask.objects.filter(task__in=CHECKS).count() == len(CHECKS)


def test_every_entry_names_a_task_that_exists(db: None) -> None:
    write_periodic_tasks()

    for name in PeriodicTask.objects.filter(task__in=CHECKS).values_list("task", flat=True):
        assert hasattr(tasks, name.rpartition(".")[2])


def test_a_scrub_of_all_vaults_ends_in_the_health_of_backups(library: Library) -> None:
    backup = library.write(noise(9000))
    library.spoil(library.needed(backup, "p")[0])

    scrub_everywhere(clock=library.clock, limits=ScrubLimits())

    assert library.fresh(backup).health == BackupHealth.DAMAGED


def test_trouble_with_one_vault_keeps_no_other_waiting(library: Library, monkeypatch: Any) -> None:
    make_vault(make_tenant())
    backup = library.write(noise(9000))
    scrubbed = []

    def scrub(*, vault_id: str, clock: Any, limits: ScrubLimits) -> None:
        scrubbed.append((vault_id, limits.longest))
        raise UnavailableError("away")

    monkeypatch.setattr("backups.scrubbing.scrub_vault", scrub)
    library.mark(library.needed(backup, "p")[0])

    scrub_everywhere(clock=library.clock, limits=ScrubLimits(longest=timedelta(minutes=8)))

    assert {vault_id for vault_id, _ in scrubbed} == {str(vault.pk) for vault in Vault.objects.all()}
    # What the first did not use is there for the second.
    assert [longest for _, longest in scrubbed] == [timedelta(minutes=4), timedelta(minutes=8)]
    assert library.fresh(backup).health == BackupHealth.DAMAGED


@pytest.mark.parametrize("task", ["review_damage", "verify_due", "check_locks", "recompute_usage"])
def test_a_task_runs(library: Library, task: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("backups.queue._send", lambda *arguments, **options: None)
    backup = library.write(noise(2000))
    library.now = datetime.now(tz=library.now.tzinfo)
    Backup.objects.filter(pk=backup.pk).update(unique_bytes=1)
    library.mark(library.needed(backup, "p")[0])

    getattr(tasks, task)()

    found = library.fresh(backup)
    assert (found.health == BackupHealth.DAMAGED) == (task == "review_damage")
    assert (found.unique_bytes != 1) == (task == "recompute_usage")


def test_the_task_of_a_check_verifies(library: Library) -> None:
    backup = library.write(noise(2000))
    job = request_verification(backup=backup, actor=None, now=library.now)

    tasks.verify_backup(job_id=str(job.pk), unknown="later version")

    assert library.fresh(backup).health == BackupHealth.VERIFIED
    assert not StoredObject.objects.exclude(damage="").exists()
