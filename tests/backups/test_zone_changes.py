"""A new time zone database: the run of each local time happens once, by the old rules or by the new ones."""

from __future__ import annotations

import io
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backups.dispatcher import dispatch_due
from backups.models import Job
from definitions import zone_changes
from definitions.models import Definition, ZoneRules
from definitions.schedule import next_run
from definitions.services import create_definition
from definitions.zone_changes import follow_zone_changes, same_run, zone_file
from tests.factories import disk_of, make_definition, make_server

# A country that has the clock of the second one from now on had that of the first: no day of changes in between.
CHANGES = [
    ("Europe/Paris", "Europe/Athens"),
    ("Europe/Athens", "Europe/Paris"),
    ("America/Toronto", "America/Halifax"),
    ("Asia/Singapore", "Asia/Kolkata"),
    ("Asia/Kolkata", "Asia/Singapore"),
    ("Europe/Paris", "Asia/Tehran"),
]
CRONS = ["0 22 * * *", "30 2 * * *", "0 3,12,21 * * *", "15 23 * * mon-fri", "0 0 1,15 * *", "45 5 */2 * *"]
BEGIN = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A time zone database of its own with one zone, `Test/Zone`, whose file a test writes."""
    folder = tmp_path_factory.mktemp("zoneinfo")
    (folder / "Test").mkdir()
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=[str(folder), *before])
    yield folder / "Test" / "Zone"
    zoneinfo.reset_tzpath(to=before)
    zoneinfo.ZoneInfo.clear_cache(only_keys=["Test/Zone"])


def install(database: Path, zone: str) -> zoneinfo.ZoneInfo:
    """The rules of that zone are those of `Test/Zone` now."""
    database.write_bytes(zone_file(zone))
    zoneinfo.ZoneInfo.clear_cache(only_keys=["Test/Zone"])
    return zoneinfo.ZoneInfo.from_file(io.BytesIO(database.read_bytes()), key="Test/Zone")


@pytest.mark.case("CP-11")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(CHANGES), st.sampled_from(CRONS), st.integers(0, 6 * 24 * 60))
def test_each_local_time_runs_once_whenever_the_rules_change(
    database: Path, change: tuple[str, str], cron: str, minutes: int
) -> None:
    """Against a list of local times that knows nothing of zones."""
    old = install(database, change[0])
    changed_at, ran = BEGIN + timedelta(minutes=minutes), []
    at = next_run(cron=cron, time_zone="Test/Zone", after=BEGIN)
    while at is not None and at <= changed_at:
        ran.append(at.astimezone(old).replace(tzinfo=None))
        at = next_run(cron=cron, time_zone="Test/Zone", after=at)
    assert at is not None

    new = install(database, change[1])
    at = same_run(cron=cron, time_zone="Test/Zone", before=old, at=at)
    while at is not None and at < BEGIN + 40 * DAY:
        ran.append(at.astimezone(new).replace(tzinfo=None))
        at = next_run(cron=cron, time_zone="Test/Zone", after=max(at, changed_at))

    # Of those that the clock has passed over meanwhile, one run catches up.
    passed = [local for local in ran if changed_at.astimezone(old).replace(tzinfo=None) < local]
    passed = [local for local in passed if local <= changed_at.astimezone(new).replace(tzinfo=None)]
    assert ran == sorted(set(ran)), "a local time came twice"
    lost = set(_wanted(cron, ran[0], ran[-1])) - set(ran)
    assert not lost or passed, lost
    assert all(local <= changed_at.astimezone(new).replace(tzinfo=None) for local in lost)


def _wanted(cron: str, first: datetime, last: datetime) -> Iterator[datetime]:
    minute, hours, days, _, weekdays = cron.split()
    on = {"*": range(1, 32), "1,15": (1, 15), "*/2": range(1, 32, 2)}[days]
    for number in range((last.date() - first.date()).days + 1):
        day = first.date() + number * DAY
        if day.day not in on or (weekdays != "*" and day.weekday() > 4):
            continue
        for hour in hours.split(","):
            local = datetime.combine(day, time(int(hour), int(minute)))
            if first <= local <= last:
                yield local


def test_runs_of_every_hour_follow_elapsed_time(database: Path) -> None:
    old = install(database, "Asia/Singapore")
    at = datetime(2026, 6, 1, 10, 0, tzinfo=UTC)
    install(database, "Europe/Paris")
    assert same_run(cron="0 * * * *", time_zone="Test/Zone", before=old, at=at) == at
    # Half an hour off: the next moment that shows a full hour.
    install(database, "Asia/Kolkata")
    assert same_run(cron="0 * * * *", time_zone="Test/Zone", before=old, at=at) == at + timedelta(minutes=30)


def test_a_run_that_was_moved_by_a_gap_is_at_its_own_time_when_there_is_none(database: Path) -> None:
    """02:30 of 29 March 2026 does not exist in Paris, and does where the clock is not changed any more."""
    old = install(database, "Europe/Paris")
    at = next_run(cron="30 2 * * *", time_zone="Test/Zone", after=datetime(2026, 3, 28, 12, tzinfo=UTC))
    assert at == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    install(database, "Africa/Tunis")

    assert same_run(cron="30 2 * * *", time_zone="Test/Zone", before=old, at=at) == at + timedelta(minutes=30)


def test_what_was_no_time_of_the_schedule_stays(database: Path) -> None:
    old = install(database, "Europe/Paris")
    install(database, "Europe/Athens")
    at = datetime(2026, 6, 1, 10, 7, 3, tzinfo=UTC)

    assert same_run(cron="0 22 * * *", time_zone="Test/Zone", before=old, at=at) == at


def follow(now: datetime) -> int:
    zone_changes._looked_at = None
    return follow_zone_changes(now=now)


@pytest.mark.django_db
@pytest.mark.case("CP-11")
def test_rows_are_moved_once_and_what_is_due_is_not_run_twice(database: Path) -> None:
    install(database, "Europe/Paris")
    server, now = make_server(), BEGIN
    zone = {"time_zone": "Test/Zone", "now": now}
    evening = create_definition(disk=disk_of(server), name="evening", cron="0 22 * * *", **zone)
    other = make_definition(server, cron="0 22 * * *", time_zone="Europe/Paris", next_run_at=evening.next_run_at)
    manual = create_definition(disk=disk_of(make_server()), name="manual", cron="0 22 * * *", **zone)
    assert follow(now) == 0 and set(ZoneRules.objects.values_list("pk", flat=True)) == {"Test/Zone", "Europe/Paris"}
    assert follow(now) == 0
    ran_at = evening.next_run_at
    Definition.objects.filter(pk=manual.pk).update(next_run_at=now, name="run-at-once")

    # The clock is put an hour back for good, two minutes before the run; this process still has the old rules.
    database.write_bytes(zone_file("Europe/London"))
    assert follow(ran_at - timedelta(minutes=2)) == 1

    assert Definition.objects.get(pk=evening.pk).next_run_at == ran_at + timedelta(hours=1)
    assert Definition.objects.get(pk=other.pk).next_run_at == ran_at
    assert Definition.objects.get(pk=manual.pk).next_run_at == now
    assert follow(ran_at - timedelta(minutes=1)) == 0
    for minutes in (0, 30, 60, 61, 90):
        dispatch_due(now=ran_at + timedelta(minutes=minutes))
    assert list(Job.objects.filter(definition=evening).values_list("slot_at", flat=True)) == [
        ran_at + timedelta(hours=1)
    ]
    assert Definition.objects.get(pk=evening.pk).next_run_at == ran_at + timedelta(hours=25)


@pytest.mark.django_db
@pytest.mark.case("CP-11")
@pytest.mark.parametrize(("minutes", "jobs"), [(30, 0), (90, 1)])
def test_a_run_that_was_missed_before_the_update_is_made_up_for_once(database: Path, minutes: int, jobs: int) -> None:
    """Due by the old rules while nobody dispatched: by the new ones it is not due yet, or late."""
    install(database, "Europe/Paris")
    definition = create_definition(
        disk=disk_of(make_server()), name="evening", cron="0 22 * * *", time_zone="Test/Zone", now=BEGIN
    )
    follow(BEGIN)
    due = definition.next_run_at
    database.write_bytes(zone_file("Europe/London"))
    now = due + timedelta(minutes=minutes)

    follow(now)
    dispatch_due(now=now)
    assert Job.objects.count() == jobs
    for hours in range(1, 30):
        dispatch_due(now=now + timedelta(hours=hours))

    assert Job.objects.count() == 2


def test_a_process_looks_when_it_begins_and_once_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(zone_changes, "_zones_in_use", lambda: looked.append(1) or [])
    monkeypatch.setattr(zone_changes, "_looked_at", None)

    for seconds in (0.0, 2.0, 3599.0, 3600.0, 3602.0):
        follow_zone_changes(now=BEGIN, clock=lambda seconds=seconds: seconds)

    assert len(looked) == 2


def test_every_zone_has_its_file() -> None:
    assert all(zone_file(name).startswith(b"TZif") for name in zoneinfo.available_timezones() - {"localtime"})
