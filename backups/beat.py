"""The few fixed periodic tasks, written to django-celery-beat's tables by one set-up step."""

from __future__ import annotations

import json
from datetime import timedelta

from django.conf import settings
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

VAULT_INTERVAL = timedelta(seconds=15)


def write_periodic_tasks() -> None:
    """Create or correct the entries. Definitions have none of their own: their schedule is `next_run_at`."""
    _every("dispatch due definitions", "backups.tasks.dispatch_due", settings.BEAT_DISPATCH_INTERVAL)
    _every("sweep jobs", "backups.tasks.sweep", settings.BEAT_SWEEP_INTERVAL)
    _every("prepare pending vaults", "vaults.tasks.prepare_pending_vaults", VAULT_INTERVAL)
    nightly, _ = CrontabSchedule.objects.get_or_create(minute="17", hour="3", timezone="UTC")
    _entry("daily retention", "backups.tasks.apply_retention_everywhere", crontab=nightly)


def _every(name: str, task: str, interval: timedelta) -> None:
    seconds = int(interval.total_seconds())
    schedule, _ = IntervalSchedule.objects.get_or_create(every=seconds, period=IntervalSchedule.SECONDS)
    _entry(name, task, interval=schedule, expire_seconds=max(seconds * 5, 30))


def _entry(name: str, task: str, **schedule: object) -> None:
    defaults = {"task": task, "queue": "system", "kwargs": json.dumps({}), "enabled": True, **schedule}
    PeriodicTask.objects.update_or_create(name=name, defaults=defaults)
