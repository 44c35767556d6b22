"""The few fixed periodic tasks, written to django-celery-beat's tables by one set-up step."""

from __future__ import annotations

import json
from datetime import timedelta

from django.conf import settings
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from backups.queue import CHECKS_QUEUE

VAULT_INTERVAL = timedelta(seconds=15)
# Vaults that were reconciled within the last day are passed over; what is asked often only finds those that are due.
RECONCILE_INTERVAL = timedelta(hours=1)
REMOVAL_INTERVAL = timedelta(hours=1)
# What is kept of requests with an Idempotency-Key lasts a day.
FORGET_INTERVAL = timedelta(hours=1)
TIDY_INTERVAL = timedelta(minutes=1)
# Only those of which something may have changed are looked at.
STANDING_INTERVAL = timedelta(minutes=1)
SWEEP_NODES_INTERVAL = timedelta(hours=1)
NODES_INTERVAL = timedelta(seconds=30)
SILENT_INTERVAL = timedelta(minutes=5)
NOTICES_INTERVAL = timedelta(seconds=10)
REAP_INTERVAL = timedelta(minutes=1)
REWRAP_INTERVAL = timedelta(hours=1)
# One vault at a time; each is due once a day.
PROBE_INTERVAL = timedelta(minutes=1)
DRIFT_INTERVAL = timedelta(minutes=15)
RIGHTS_INTERVAL = timedelta(hours=1)
# A run takes at most eight minutes of these ten.
SCRUB_INTERVAL = timedelta(minutes=10)
STORAGES_INTERVAL = timedelta(hours=1)
# Within the hour of drills; each tenant is due once a week.
DRILLS_INTERVAL = timedelta(minutes=30)
LOCKS_INTERVAL = timedelta(hours=1)
# A page of nodes with 25,000 definitions costs some seconds of CPU.
LOADS_INTERVAL = timedelta(minutes=15)


def write_periodic_tasks() -> None:
    """Create or correct the entries. Definitions have none of their own: their schedule is `next_run_at`."""
    _every("dispatch due definitions", "backups.tasks.dispatch_due", settings.BEAT_DISPATCH_INTERVAL)
    _every("look whether definitions protect", "backups.tasks.look_at_definitions", STANDING_INTERVAL)
    _every("sweep jobs", "backups.tasks.sweep", settings.BEAT_SWEEP_INTERVAL)
    _every("prepare pending vaults", "vaults.tasks.prepare_pending_vaults", VAULT_INTERVAL)
    nightly, _ = CrontabSchedule.objects.get_or_create(minute="17", hour="3", timezone="UTC")
    _entry("daily retention", "backups.tasks.apply_retention_everywhere", crontab=nightly)
    _entry("daily step of deletions", "backups.tasks.advance_deletions", crontab=nightly)
    _entry("daily removal of old requests to restore", "backups.tasks.forget_asked_restores", crontab=nightly)
    _entry("daily descriptions", "backups.tasks.describe_everywhere", crontab=nightly)
    _every("probe the vault that is due", "vaults.tasks.probe_next_due", PROBE_INTERVAL)
    _every("look for changed settings", "vaults.tasks.check_drift_everywhere", DRIFT_INTERVAL)
    _every("rights of the reaper", "vaults.tasks.check_rights", RIGHTS_INTERVAL, queue="reaper")
    _every("re-wrap keys", "vaults.tasks.rewrap_keys_everywhere", REWRAP_INTERVAL)
    _every("reconcile vaults", "backups.tasks.reconcile", RECONCILE_INTERVAL, queue=CHECKS_QUEUE)
    _every("remove what is unneeded", "backups.tasks.remove_unneeded", REMOVAL_INTERVAL, queue=CHECKS_QUEUE)
    _every("delete what is removed", "vaults.tasks.reap", REAP_INTERVAL, queue="reaper")
    _every("send notices", "tenants.tasks.send_notices", NOTICES_INTERVAL, queue="notices")
    _entry("daily removal of old notices", "tenants.tasks.forget_old_notices", crontab=nightly, queue="notices")
    _every("compare storages with the catalogue", "backups.tasks.tend_storages", STORAGES_INTERVAL)
    _every("restore drills", "backups.tasks.drill_due", DRILLS_INTERVAL)
    _every("forget old requests", "tenants.tasks.forget_old_requests", FORGET_INTERVAL)
    _every("forget tokens of agents", "agents.tasks.forget_tokens", FORGET_INTERVAL)
    _every("forget requests of agents", "agents.tasks.forget_nonces", TIDY_INTERVAL)
    _every("remove leftovers on nodes", "backups.tasks.sweep_nodes", SWEEP_NODES_INTERVAL)
    _every("notice silent nodes", "agents.tasks.notice_silent_nodes", NODES_INTERVAL)
    _every("notice silent agents", "agents.tasks.notice_silent_agents", SILENT_INTERVAL)
    _every("tidy the audit", "tenants.tasks.tidy_audit", TIDY_INTERVAL)
    _write_checks(nightly)


def _write_checks(nightly: CrontabSchedule) -> None:
    """What reads for long has a queue and a worker of its own: commits must not wait behind it."""
    _every("scrub", "backups.tasks.scrub", SCRUB_INTERVAL, queue=CHECKS_QUEUE)
    _every("locks beside promises", "backups.tasks.check_locks", LOCKS_INTERVAL, queue=CHECKS_QUEUE)
    _every("load of nodes", "backups.tasks.count_loads", LOADS_INTERVAL, queue=CHECKS_QUEUE)
    for name, task in (
        ("daily look over the audit", "tenants.tasks.check_audit"),
        ("daily review of damage", "backups.tasks.review_damage"),
        ("daily repack", "backups.tasks.repack"),
        ("daily checks with keys", "backups.tasks.verify_due"),
        ("daily accounting from scratch", "backups.tasks.recompute_usage"),
        ("daily look for extra versions", "vaults.tasks.look_for_extra_versions"),
    ):
        _entry(name, task, crontab=nightly, queue=CHECKS_QUEUE)


def _every(name: str, task: str, interval: timedelta, **options: object) -> None:
    seconds = int(interval.total_seconds())
    schedule, _ = IntervalSchedule.objects.get_or_create(every=seconds, period=IntervalSchedule.SECONDS)
    _entry(name, task, interval=schedule, expire_seconds=max(seconds * 5, 30), **options)


def _entry(name: str, task: str, **schedule: object) -> None:
    defaults = {"task": task, "queue": "system", "kwargs": json.dumps({}), "enabled": True, **schedule}
    PeriodicTask.objects.update_or_create(name=name, defaults=defaults)
