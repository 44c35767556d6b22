"""Due definitions become jobs, once."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from backups import sweeper
from backups.dispatcher import dispatch_due
from backups.models import Backup, Job
from backups.queue import create_backup_job, hint_job
from backups.retainer import apply_retention
from backups.transitions import claim_job
from definitions.models import Definition
from definitions.services import update_definition
from tests.backups.conftest import MIB, Site

pytestmark = pytest.mark.stack


def test_a_due_definition_gets_one_job_however_often_it_is_dispatched(site: Site) -> None:
    definition = site.definition(site.server("web01"), run_at_once=True)
    now = timezone.now()

    counts = [dispatch_due(now=now) for _ in range(3)]

    assert counts == [1, 0, 0]
    job = Job.objects.get()
    assert job.slot_at == definition.next_run_at
    assert Definition.objects.get().next_run_at > now


def test_two_dispatchers_with_the_same_view_write_one_job(site: Site) -> None:
    definition = site.definition(site.server("web01"), run_at_once=True)
    now = timezone.now()
    create_backup_job(definition=definition, now=now, slot_at=definition.next_run_at, requested_by=None)

    with pytest.raises(IntegrityError), transaction.atomic():
        create_backup_job(definition=definition, now=now, slot_at=definition.next_run_at, requested_by=None)
    assert dispatch_due(now=now) == 0

    assert Job.objects.count() == Backup.objects.count() == 1
    assert Definition.objects.get().next_run_at > now


def test_after_an_outage_there_is_one_catch_up_run(site: Site) -> None:
    definition = site.definition(site.server("web01"), cron="0 * * * *")
    Definition.objects.update(next_run_at=timezone.now() - timedelta(hours=30))

    assert dispatch_due(now=timezone.now()) == 1
    assert dispatch_due(now=timezone.now()) == 0
    definition.refresh_from_db()
    assert definition.next_run_at > timezone.now()


def test_an_inactive_definition_and_a_suspended_tenant_are_left_alone(site: Site) -> None:
    definition = site.definition(site.server("web01"), run_at_once=True)
    site.tenant.status = "suspended"
    site.tenant.save()
    assert dispatch_due(now=timezone.now()) == 0
    site.tenant.status = "active"
    site.tenant.save()
    update_definition(definition=definition, changes={"active": False}, now=timezone.now())

    assert dispatch_due(now=timezone.now()) == 0


def test_a_job_whose_hint_was_lost_is_hinted_at_again(site: Site) -> None:
    definition = site.definition(site.server("web01"), run_at_once=True)
    dispatch_due(now=timezone.now())
    job = Job.objects.get(definition=definition)
    long_ago = timezone.now() - timedelta(minutes=5)
    Job.objects.update(hinted_at=long_ago)

    sweeper.sweep(now=timezone.now())

    job.refresh_from_db()
    assert job.hinted_at > long_ago


def test_a_broker_that_is_away_loses_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery import current_app
    from kombu.exceptions import OperationalError

    def away(*_: object, **__: object) -> None:
        raise OperationalError("no broker")

    monkeypatch.setattr(current_app, "send_task", away)
    definition = site.definition(site.server("web01"), run_at_once=True)

    assert dispatch_due(now=timezone.now()) == 1
    hint_job(Job.objects.get(definition=definition))

    assert Job.objects.get().state == "pending"


def test_ten_messages_for_one_job_claim_it_once(site: Site) -> None:
    site.definition(site.server("web01"), run_at_once=True)
    dispatch_due(now=timezone.now())
    job = Job.objects.get()

    claims = [claim_job(job_id=job.pk, now=timezone.now()) for _ in range(10)]

    assert [claim is not None for claim in claims] == [True] + [False] * 9


def test_retention_removes_the_oldest_and_keeps_their_bytes(site: Site) -> None:
    disk = site.server("web01", content=b"x" * MIB)
    definition = site.definition(disk, retention_count=2)
    backups = [site.back_up(definition).backup for _ in range(3)]

    removed = apply_retention(definition_id=str(definition.pk), now=timezone.now())

    assert removed == 1
    oldest = Backup.objects.get(pk=backups[0].pk)
    assert oldest.removed_at is not None and oldest.manifest is not None
    assert set(Backup.objects.in_catalogue()) == set(backups[1:])
