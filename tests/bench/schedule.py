"""`python -m tests.bench.schedule`: 100,000 definitions, 10,000 of them due in one minute.

Starts a PostgreSQL, a Redis, a control worker and a beat of its own, fills the tables, and measures how long it takes
until every due definition has its job, and what a tick costs when nothing is due (CPU of worker, beat and database).
Beside it the usual way: django-celery-beat's DatabaseScheduler with one entry per definition. Prints both with a
verdict and writes var/bench/schedule.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zoneinfo
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.postgres.cluster import PROGRAMS

if TYPE_CHECKING:
    from tests.fleet.parts import Parts

REPORT = Path(__file__).resolve().parents[2] / "var" / "bench" / "schedule.json"
AIM_ALL_SECONDS, AIM_FIRST_SECONDS, AIM_TICK_CPU_SECONDS = 60.0, 5.0, 1.0
CLUSTER = {"shared_buffers": "512MB", "max_wal_size": "4GB", "random_page_cost": "1.1", "max_connections": "60"}
ZONES = ("UTC", "Europe/Paris", "America/Toronto", "Asia/Singapore", "Australia/Sydney")
IDLE_SECONDS = 40.0
GIVE_UP_SECONDS = 240.0
BATCH = 5000


@dataclass(frozen=True, slots=True)
class Ours:
    """Seconds after the minute at which the definitions were due; CPU of one tick in which nothing is due."""

    definitions: int
    due: int
    first_seconds: float
    half_seconds: float
    all_seconds: float
    jobs: int
    double: int
    missed: int
    idle_cpu_seconds_per_tick: float
    dispatch_cpu_seconds: float

    @property
    def is_kept(self) -> bool:
        fast = self.all_seconds <= AIM_ALL_SECONDS and self.first_seconds <= AIM_FIRST_SECONDS
        return fast and not self.double and not self.missed and self.idle_cpu_seconds_per_tick <= AIM_TICK_CPU_SECONDS


@dataclass(frozen=True, slots=True)
class Baseline:
    """One entry of django-celery-beat per definition: what was sent after so many seconds, and the CPU it took."""

    entries: int
    due: int
    sent: int
    seconds: float
    cpu_seconds: float


def main() -> int:
    options = _options()
    if not PROGRAMS:
        print("not measured: no PostgreSQL server: apt-get install postgresql", file=sys.stderr)
        return 1
    from tests.fleet.parts import running_parts

    with running_parts(cluster=CLUSTER) as parts:
        os.environ.update(parts.environment())
        os.environ["DJANGO_SETTINGS_MODULE"] = "backupsite.settings"
        import django

        django.setup()
        ours = _ours(parts, options) if options.part != "baseline" else None
        for child in parts.started:
            child.stop()
        parts.started.clear()
        baseline = [_baseline(parts, count, options) for count in options.entries] if options.part != "ours" else []
    _report(ours, baseline)
    return 0 if ours is None or ours.is_kept else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--definitions", type=int, default=100_000)
    parser.add_argument("--due", type=int, default=10_000)
    parser.add_argument("--part", choices=["ours", "baseline", "both"], default="both")
    parser.add_argument("--entries", type=int, nargs="*", default=[1_000, 5_000, 100_000])
    parser.add_argument("--baseline-seconds", type=float, default=150.0)
    return parser.parse_args()


def _ours(parts: Parts, options: argparse.Namespace) -> Ours:
    from django.utils import timezone

    from backups.models import Job
    from definitions.models import Definition

    begun = time.monotonic()
    _fill(options.definitions)
    print(f"  {options.definitions} definitions written in {time.monotonic() - begun:.0f} s", flush=True)
    parts.start("control")
    parts.start("beat")
    time.sleep(5)
    interval = _dispatch_interval()
    before = parts.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    idle = (parts.cpu_seconds() - before) / (IDLE_SECONDS / interval)
    due_at = timezone.now().replace(microsecond=0) + timedelta(seconds=3)
    chosen = list(Definition.objects.order_by("id").values_list("pk", flat=True)[: options.due])
    Definition.objects.filter(pk__in=chosen).update(next_run_at=due_at)
    before = parts.cpu_seconds()
    _wait_for(lambda: Job.objects.count() >= options.due, what="the jobs")
    cpu = parts.cpu_seconds() - before
    # Longer than a tick: what is written twice would be there now.
    time.sleep(2 * interval)
    created = sorted(Job.objects.values_list("created_at", flat=True))
    of = set(Job.objects.values_list("definition_id", flat=True))
    after = [(at - due_at).total_seconds() for at in created]
    return Ours(
        definitions=options.definitions,
        due=options.due,
        first_seconds=after[0],
        half_seconds=after[len(after) // 2],
        all_seconds=after[-1],
        jobs=len(created),
        double=len(created) - len(of),
        missed=len(set(chosen) - of),
        idle_cpu_seconds_per_tick=idle,
        dispatch_cpu_seconds=cpu,
    )


def _dispatch_interval() -> float:
    from django.conf import settings

    return float(settings.BEAT_DISPATCH_INTERVAL.total_seconds())


def _fill(count: int) -> None:
    """Tenants with vaults, nodes, and servers with one disk and one definition each; none is due today."""
    from django.utils import timezone

    from agents.models import Disk, Node, Server, Storage
    from definitions.models import Definition
    from tests.factories import make_region, make_storage, make_tenant, make_vault

    region = make_region()
    tenants = [make_tenant() for _ in range(100)]
    vaults = {tenant.pk: make_vault(tenant) for tenant in tenants}
    nodes = [Node.objects.create(name=f"bench-{n}", region=region, status="online") for n in range(200)]
    storages: dict[Any, Storage] = {node.pk: make_storage(node) for node in nodes}
    next_run = timezone.now() + timedelta(days=2)
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        servers = [
            Server(name=f"server-{n}", tenant=tenants[n % 100], region=region, node=nodes[n % 200]) for n in numbers
        ]
        Server.objects.bulk_create(servers)
        disks = [
            Disk(
                server=server,
                tenant_id=server.tenant_id,
                number=1,
                driver="image",
                storage=storages[server.node_id],
                path=f"{server.name}.img",
                size_bytes=1 << 30,
            )
            for server in servers
        ]
        Disk.objects.bulk_create(disks)
        Definition.objects.bulk_create(
            Definition(
                name="daily",
                tenant_id=disk.tenant_id,
                disk=disk,
                vault=vaults[disk.tenant_id],
                cron=f"{n % 60} {_hour(n)} * * *",
                time_zone=ZONES[n % len(ZONES)],
                next_run_at=next_run,
            )
            for n, disk in zip(numbers, disks, strict=True)
        )


def _hour(number: int) -> int:
    """Of the definition's zone, and at least two hours away: nothing becomes due a second time while it is measured."""
    local = datetime.now(zoneinfo.ZoneInfo(ZONES[number % len(ZONES)]))
    return (local.hour + 3 + number // 60 % 19) % 24


def _baseline(parts: Parts, entries: int, options: argparse.Namespace) -> Baseline:
    """Beat with the given number of entries, a tenth of them due in one minute; no worker takes anything."""
    from django.utils import timezone
    from django_celery_beat.models import CrontabSchedule, PeriodicTask, PeriodicTasks

    PeriodicTask.objects.all().delete()
    CrontabSchedule.objects.all().delete()
    due_at = (timezone.now() + timedelta(seconds=90)).replace(second=0, microsecond=0)
    due = entries // 10
    _fill_entries(entries, due, due_at)
    PeriodicTasks.update_changed()
    queue = f"baseline-{entries}"
    PeriodicTask.objects.update(queue=queue)
    beat = parts.start("beat")
    before = parts.cpu_seconds()
    give_up = due_at.timestamp() + options.baseline_seconds
    while time.time() < give_up and parts.waiting_messages(queue) < due:
        time.sleep(0.5)
    sent, cpu = parts.waiting_messages(queue), parts.cpu_seconds() - before
    beat.stop()
    parts.started.remove(beat)
    return Baseline(entries, due, min(sent, due), time.time() - due_at.timestamp(), cpu)


def _fill_entries(entries: int, due: int, due_at: datetime) -> None:
    from django_celery_beat.models import CrontabSchedule, PeriodicTask

    crontabs = [
        CrontabSchedule(minute=str(n % 60), hour=str((due_at.hour + 2 + n // 60 % 20) % 24), timezone="UTC")
        for n in range(entries - due)
    ]
    # The usual way shares no rows: an entry is made and edited together with its schedule.
    crontabs += [CrontabSchedule(minute=str(due_at.minute), hour=str(due_at.hour), timezone="UTC") for _ in range(due)]
    CrontabSchedule.objects.bulk_create(crontabs, batch_size=BATCH)
    PeriodicTask.objects.bulk_create(
        [
            PeriodicTask(name=f"definition {n}", task="backups.tasks.nothing", crontab=crontab)
            for n, crontab in enumerate(crontabs)
        ],
        batch_size=BATCH,
    )


def _wait_for(condition: Any, *, what: str) -> None:
    give_up_at = time.monotonic() + GIVE_UP_SECONDS
    while not condition():
        if time.monotonic() > give_up_at:
            print(f"  gave up waiting for {what}", flush=True)
            return
        time.sleep(0.25)


def _report(ours: Ours | None, baseline: list[Baseline]) -> None:
    if ours is not None:
        print(f"\n  {ours.definitions} definitions, {ours.due} due at once, on PostgreSQL and Redis")
        rows = [
            ("first dispatched after", ours.first_seconds, f"<= {AIM_FIRST_SECONDS:.0f} s"),
            ("half of them after", ours.half_seconds, ""),
            ("all after", ours.all_seconds, f"<= {AIM_ALL_SECONDS:.0f} s"),
            ("CPU for all of it", ours.dispatch_cpu_seconds, ""),
            ("CPU of a tick with nothing due", ours.idle_cpu_seconds_per_tick, f"<= {AIM_TICK_CPU_SECONDS:.0f} s"),
        ]
        for name, seconds, aim in rows:
            print(f"  {name:34} {seconds:8.2f} s   {aim}")
        print(f"  double {ours.double}, missed {ours.missed}: {'kept' if ours.is_kept else 'NOT KEPT'}")
    for row in baseline:
        told = f"{row.sent} of {row.due} due entries sent within {row.seconds:.0f} s, {row.cpu_seconds:.0f} s CPU"
        print(f"  DatabaseScheduler with {row.entries} entries: {told}")
    known = json.loads(REPORT.read_text()) if REPORT.is_file() else {}
    known["load"] = os.getloadavg()
    if ours is not None:
        known["ours"] = {**asdict(ours), "kept": ours.is_kept}
    if baseline:
        known["baseline"] = [asdict(row) for row in baseline]
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
