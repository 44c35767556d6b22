"""Locks beside promises: none shorter, who tells when one is, and what three days without the lock-keeper do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import StringIO
from typing import Any

import pytest
import time_machine
from botocore.exceptions import ClientError, EndpointConnectionError
from django.core.management import CommandError, call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backups.lock_coverage import KEEPER_ALARM, MARGIN_ALARM, SHORT_ALARM, check_locks, coverage_of
from backups.models import Backup, Job
from backups.states import JobState
from backups.transitions import end_job
from tests.backups.library import Library, library
from tests.engine.support import noise
from tests.model_s3 import ModelClient
from tests.removal.world import World, advance, running
from vaults.coverage import WARN_BELOW
from vaults.locks import MARGIN
from vaults.models import Alarm, ObjectUse, StoredObject, Vault

__all__ = ["library"]

IMAGE = noise(20_000)


def standing(vault: Vault) -> dict[str, str]:
    return dict(Alarm.objects.standing().filter(vault=vault).values_list("code", "message"))


def promise(library: Library, backup: Backup, until: datetime) -> None:
    Backup.objects.filter(pk=backup.pk).update(immutable_until=until)


def test_a_kept_promise_has_no_violation(library: Library) -> None:
    backup = library.write(IMAGE)

    coverage = coverage_of(library.vault, now=library.now)

    assert (coverage.backup_count, coverage.violation_count, coverage.violations) == (1, 0, ())
    assert coverage.is_kept and coverage.alarm == ""
    assert coverage.least_slack == timedelta(days=30) - timedelta(days=14)
    assert coverage.soonest_end == backup.manifest.retain_until
    assert coverage.ending_count == 0


@pytest.mark.parametrize("kind", ["p", "i", "k", "m"])
def test_one_object_that_is_locked_a_second_too_short_is_named(library: Library, kind: str) -> None:
    backup = library.write(IMAGE)
    row = backup.manifest if kind == "m" else library.needed(backup, kind)[0]
    short = backup.immutable_until - timedelta(seconds=1)
    StoredObject.objects.filter(pk=row.pk).update(retain_until=short)

    coverage = check_locks(library.vault, now=library.now)

    [violation] = coverage.violations
    assert (coverage.violation_count, violation.key, violation.backup_id) == (1, row.key, backup.pk)
    assert (violation.locked_until, violation.promised_until) == (short, backup.immutable_until)
    assert coverage.least_slack == timedelta(seconds=-1)
    assert standing(library.vault)[SHORT_ALARM].startswith("1 objects are not locked")
    assert row.key in standing(library.vault)[SHORT_ALARM]


def test_an_object_that_is_needed_and_gone_is_a_violation(library: Library) -> None:
    backup = library.write(IMAGE)
    row = library.needed(backup, "p")[0]
    StoredObject.objects.filter(pk=row.pk).update(status="deleted")

    [violation] = coverage_of(library.vault, now=library.now).violations

    assert (violation.key, violation.reason) == (row.key, "it is deleted")


def test_an_object_that_two_backups_need_counts_for_each(library: Library) -> None:
    first = library.write(IMAGE)
    second = library.write(IMAGE, base=first)
    common = library.needed(first, "p")[0]
    promise(library, second, common.retain_until + timedelta(days=1))

    coverage = coverage_of(library.vault, now=library.now)

    assert {violation.backup_id for violation in coverage.violations} == {second.pk}


def test_a_removed_backup_asks_for_no_lock(library: Library) -> None:
    backup = library.write(IMAGE)
    StoredObject.objects.update(retain_until=library.now)
    Backup.objects.filter(pk=backup.pk).update(removed_at=library.now)

    coverage = coverage_of(library.vault, now=library.now)

    assert (coverage.violation_count, coverage.ending_count, coverage.soonest_end) == (0, 0, None)


def test_a_quarter_of_the_margin_left_raises_the_alarm_and_more_clears_it(library: Library) -> None:
    backup = library.write(IMAGE)
    end = backup.manifest.retain_until
    for slack, is_told in ((WARN_BELOW, False), (WARN_BELOW - timedelta(seconds=1), True), (MARGIN / 2, False)):
        promise(library, backup, end - slack)

        check_locks(library.vault, now=library.now)

        assert (MARGIN_ALARM in standing(library.vault)) == is_told
        assert SHORT_ALARM not in standing(library.vault)


def test_a_promise_that_is_over_raises_no_alarm(library: Library) -> None:
    backup = library.write(IMAGE)
    promise(library, backup, backup.manifest.retain_until)

    coverage = coverage_of(library.vault, now=backup.manifest.retain_until + timedelta(days=1))

    assert (coverage.least_slack, coverage.alarm) == (None, "")
    assert coverage.ending_count == ObjectUse.objects.filter(manifest=backup.manifest).count() + 1


def test_violations_are_counted_all_and_listed_a_hundred(library: Library) -> None:
    backup = library.write(IMAGE)
    rows = StoredObject.objects.bulk_create(
        StoredObject(
            vault=library.vault,
            domain=library.domain,
            session_id=library.domain.pk,
            kind="p",
            key=f"many/{number}",
            size_bytes=1,
            sha256="0" * 64,
            md5_base64="",
            status="stored",
            version_id="1",
            retain_until=library.now,
            granted_at=library.now,
        )
        for number in range(150)
    )
    ObjectUse.objects.bulk_create([ObjectUse(manifest=backup.manifest, needed=row) for row in rows])

    coverage = coverage_of(library.vault, now=library.now)

    assert (coverage.violation_count, len(coverage.violations)) == (150, 100)


DAYS = st.integers(1, 40)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    locks=st.lists(DAYS, min_size=8, max_size=8),
    promises=st.lists(st.tuples(DAYS, st.booleans()), min_size=3, max_size=3),
)
def test_the_report_is_what_plain_counting_finds(
    library: Library, locks: list[int], promises: list[tuple[int, bool]]
) -> None:
    if not Backup.objects.filter(vault=library.vault).exists():
        base = library.write(IMAGE)
        for _ in range(2):
            base = library.write(noise(2000, str(library.sequence)) + IMAGE[2000:], base=base)
    for number, row in enumerate(StoredObject.objects.order_by("pk")):
        until = library.now + timedelta(days=locks[number % len(locks)])
        StoredObject.objects.filter(pk=row.pk).update(retain_until=until)
    for backup, (days, is_removed) in zip(Backup.objects.order_by("sequence"), promises, strict=True):
        removed_at = library.now if is_removed else None
        Backup.objects.filter(pk=backup.pk).update(
            immutable_until=library.now + timedelta(days=days), removed_at=removed_at
        )
    now = library.now + timedelta(days=15)
    pairs = [
        (backup, row)
        for backup in Backup.objects.filter(removed_at=None).select_related("manifest")
        for row in [backup.manifest, *StoredObject.objects.filter(used_by__manifest=backup.manifest)]
    ]
    promised = [(backup, row) for backup, row in pairs if backup.immutable_until > now]
    needed = {row for _, row in pairs}

    coverage = coverage_of(library.vault, now=now)

    assert coverage.violation_count == sum(row.retain_until < backup.immutable_until for backup, row in pairs)
    slacks = [row.retain_until - backup.immutable_until for backup, row in promised]
    assert coverage.least_slack == min(slacks, default=None)
    assert coverage.soonest_end == min((row.retain_until for row in needed if row.retain_until > now), default=None)
    assert coverage.ending_count == sum(row.retain_until <= now + MARGIN for row in needed)


# --- the command ------------------------------------------------------------------------------------------------------


def report(*arguments: str) -> tuple[int, str]:
    out = StringIO()
    try:
        call_command("lock_report", *arguments, stdout=out)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    return 0, out.getvalue()


def test_the_command_says_what_is_kept_and_ends_with_an_error_when_not(library: Library) -> None:
    with time_machine.travel(library.now, tick=False):
        backup = library.write(IMAGE)
        code, text = report()
        assert (code, "1 backups, 0 violations" in text) == (0, True)

        promise(library, backup, library.now + timedelta(days=31))
        code, text = report(library.vault.name)
        assert (code, text.count("SHORT")) == (1, ObjectUse.objects.filter(manifest=backup.manifest).count() + 1)

        code, text = report("--json")
    facts = json.loads(text)
    assert (code, facts["kept"], facts["vault"]) == (1, False, library.vault.name)
    assert facts["least_slack"] == -86400


def test_an_unknown_vault_is_an_error(db: None) -> None:
    with pytest.raises(CommandError, match="no vault"):
        call_command("lock_report", "nowhere")


# --- the lock-keeper is away (ST-14) ----------------------------------------------------------------------------------


def _denied(**options: Any) -> Any:
    told = {"HTTPStatusCode": 403, "HTTPHeaders": {"date": format_datetime(clock_now(), usegmt=True)}}
    raise ClientError({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": told}, "HeadObject")


def _away(**options: Any) -> Any:
    raise EndpointConnectionError(endpoint_url="x")


@pytest.mark.parametrize("trouble", [_denied, _away], ids=["denied", "away"])
def test_a_keeper_that_cannot_work_is_told_and_cleared(library: Library, monkeypatch: Any, trouble: Any) -> None:
    library.write(IMAGE)
    with time_machine.travel(library.now, tick=False):
        with monkeypatch.context() as broken:
            broken.setattr(library.client, "head_object", trouble)
            check_locks(library.vault, now=library.now)
            assert "lock-keeper" in standing(library.vault)[KEEPER_ALARM]

        check_locks(library.vault, now=library.now)
    assert standing(library.vault) == {}


@pytest.mark.parametrize("trouble", [_denied, _away], ids=["denied", "away"])
def test_three_days_without_the_keeper(db: None, monkeypatch: Any, trouble: Any) -> None:
    """Reuse is refused, nothing is removed, no promise is broken and a person is told; afterwards all goes on."""
    with running() as (world, clock):
        assert one_backup(world).state == JobState.OK
        world.reconcile()
        world.remove_backup(0)
        assert one_backup(world).state == JobState.OK
        writer = world.start_session()
        assert writer is not None
        world.put_pack(writer)
        with monkeypatch.context() as broken:
            for call in ("head_object", "head_bucket", "get_object", "list_object_versions", "put_object_retention"):
                broken.setattr(ModelClient, call, lambda self, **options: trouble())
            late = world.commit(writer)
            for _ in range(3):
                advance(clock, world, timedelta(days=1))
                world.reconcile()
                world.run_removal()
                coverage = check_locks(Vault.objects.get(pk=world.vault.pk), now=clock_now())
                assert coverage.is_kept and coverage.backup_count == 1
                assert KEEPER_ALARM in standing(world.vault)
                world.check()
            late.refresh_from_db()
            assert late.state == JobState.RUNNING
            assert Backup.objects.filter(status="ok", removed_at=None).count() == 1
            assert not StoredObject.objects.filter(status__in=["condemned", "deleting", "deleted"]).exists()

        check_locks(world.vault, now=clock_now())

        assert KEEPER_ALARM not in standing(world.vault)
        end_job(Job.objects.all(), job=late, state=JobState.FAILED, code="commit_timeout", message="", now=clock_now())
        assert one_backup(world).state == JobState.OK
        world.check()


def clock_now() -> datetime:
    return datetime.now(UTC)


def one_backup(world: World) -> Job:
    writer = world.start_session()
    assert writer is not None
    world.put_pack(writer)
    return world.commit(writer)
