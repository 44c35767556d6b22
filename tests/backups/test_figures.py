"""Kept figures: equal to what is counted, shown with their time, and used only where counting would take too long."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from backups import figures, remains
from backups.accounting import stored_bytes, usage_of
from backups.figures import Totals, count_everywhere, known_uses, overview_of, totals_of
from backups.lock_coverage import check_locks, coverage_of, known_coverage_of
from backups.models import Backup, DefinitionStanding, TenantFigures, VaultFigures
from tenants import quotas
from tests.factories import make_backup, make_definition, make_job, make_server
from tests.worlds import World
from vaults.models import StoredObject, Vault

NOW = timezone.now()


@pytest.fixture
def large(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Everything there is counts as too much to be counted while somebody waits."""
    monkeypatch.setattr(figures, "LIVE_BACKUPS", 0)
    monkeypatch.setattr(figures, "MOST_EXACT", 0)
    monkeypatch.setattr("backups.lock_coverage._keeper_trouble", lambda vault: "")
    return world


def vaults() -> list[Vault]:
    return list(Vault.objects.select_related("tenant", "endpoint").order_by("name"))


def count_all() -> None:
    count_everywhere(now=NOW)
    for vault in vaults():
        check_locks(vault, now=NOW)


def test_what_is_kept_is_what_is_counted(large: World) -> None:
    make_definition(large.ours.other_server)
    make_backup(make_server(large.ours.tenant), status="lost")
    count_all()

    for vault in vaults():
        kept = TenantFigures.objects.get(tenant=vault.tenant_id)
        usage = usage_of(vault.tenant, now=NOW)
        assert (kept.used_bytes, kept.unique_bytes) == (usage.used_bytes, usage.unique_bytes)
        assert (kept.locked_bytes, kept.pending_delete_bytes) == (usage.locked_bytes, usage.pending_delete_bytes)
        report, coverage = VaultFigures.objects.get(vault=vault), coverage_of(vault, now=NOW)
        for name in ("backup_count", "violation_count", "soonest_end", "ending_count", "is_kept"):
            assert getattr(report, name) == getattr(coverage, name), name


@pytest.mark.parametrize("name", ["super", "admin_a", "admin_b"])
def test_totals_are_the_same_counted_and_kept(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make_definition(world.ours.other_server, active=False)
    for definition, state in ((world.ours.definition, "late"), (world.theirs.definition, "protected")):
        DefinitionStanding.objects.create(definition=definition, state=state, looked_at=NOW, look_again_at=NOW)
    Backup.objects.update(stored_bytes=1000)
    person, counted = world.people[name], totals_of(world.people[name])
    count_everywhere(now=NOW)
    monkeypatch.setattr(figures, "MOST_EXACT", 0)

    kept = totals_of(person)

    assert counted.counted_at is None and kept.counted_at == NOW
    assert kept == Totals(
        counted.server_count,
        counted.states,
        counted.definition_count,
        counted.good_count,
        counted.stored_bytes,
        NOW,
    )
    assert kept.good_count == Backup.objects.for_user(person).filter(status="ok").count() > 0


def test_figures_of_a_whole_tenant_are_not_for_an_owner_in_it(large: World) -> None:
    count_all()

    for name in ("owner_a1", "owner_a2"):
        found = totals_of(large.people[name])
        assert (found.good_count, found.stored_bytes, found.definition_count) == (None, None, None)


def test_what_was_never_counted_is_said_and_not_shown_as_nothing(large: World) -> None:
    text = large.client("admin_a").get("/").content.decode()
    overview = large.client("admin_a").get("/vaults/overview/").content.decode()

    assert "within the hour it is counted" in text
    assert "Not counted yet" in overview and "Not looked over yet" in overview
    assert totals_of(large.people["admin_a"]).good_count is None


def test_pages_say_when_it_was_counted(large: World) -> None:
    count_all()

    text = large.client("admin_a").get("/").content.decode()
    overview = large.client("admin_a").get("/vaults/overview/").content.decode()

    assert "too much to count it for each look" in text
    assert "as promised" in overview and large.ours.vault.name in overview
    assert large.theirs.vault.name not in overview
    assert ">now<" not in overview


def test_a_small_place_is_counted_when_somebody_looks(world: World) -> None:
    count_everywhere(now=NOW - timedelta(hours=1))
    make_backup(world.ours.server, definition=world.ours.definition)

    assert all(each.counted_at is None for each in overview_of(vaults(), now=NOW))
    assert totals_of(world.people["admin_a"]).good_count == 2
    assert known_uses(world.ours.tenant) == {}


def test_an_overview_of_many_vaults_is_a_few_statements(large: World) -> None:
    for _ in range(10):
        make_server()
    count_all()
    shown = vaults()
    assert len(shown) > figures.LIVE_VAULTS

    with CaptureQueriesContext(connection) as queries:
        found = overview_of(shown, now=NOW)

    assert [each.vault for each in found] == shown
    assert all(each.usage and each.coverage and each.counted_at == NOW for each in found)
    assert len(queries) == 2


def test_the_tenant_page_of_a_large_tenant_shows_the_bytes_that_were_counted(
    large: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_all()
    expected = stored_bytes(large.ours.tenant)
    assert expected > 0
    assert known_uses(large.ours.tenant) == {"bytes": expected, "definitions_per_server": 1}

    def refuse(*_: Any) -> int:
        raise AssertionError("counted all the same")

    for kind in known_uses(large.ours.tenant):
        monkeypatch.setitem(quotas._counters, kind, refuse)
    page = large.client("admin_a").get(f"/tenants/{large.ours.tenant.pk}/")

    assert page.status_code == 200
    assert expected in [use.used for use in page.context["quotas"]]


def test_the_hourly_task_counts_everything(large: World) -> None:
    from backups.tasks import check_locks as task

    task()

    assert {row.tenant_id for row in TenantFigures.objects.all()} == {vault.tenant_id for vault in vaults()}
    assert {row.vault_id for row in VaultFigures.objects.all()} == {vault.pk for vault in vaults()}


def test_what_would_go_is_kept_and_shown_with_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backups.lock_coverage._keeper_trouble", lambda vault: "")
    ours, boss = world.ours, world.client("super")
    make_backup(ours.server)
    count_all()
    counted, of_vault = remains.remains_of(ours.tenant), remains.remains_of_vault(ours.vault)
    assert remains.known_remains_of(ours.tenant) == counted
    assert remains.known_remains_of_vault(ours.vault) == of_vault

    # From here on what there was is much; and then there is more, which nobody counted yet.
    monkeypatch.setattr(remains, "MOST_EXACT", 0)
    make_backup(ours.server)
    make_job(ours.server)
    known = remains.known_remains_of(ours.tenant)

    assert known == replace(counted, jobs=counted.jobs + 1, counted_at=NOW)
    assert remains.known_remains_of_vault(ours.vault) == replace(of_vault, counted_at=NOW)
    assert remains.remains_of(ours.tenant).backups == counted.backups + 1
    for address in (f"/tenants/{ours.tenant.pk}/delete/", f"/vaults/{ours.vault.pk}/remove/"):
        assert "before anything goes it is counted again" in boss.get(address).content.decode()
    assert boss.get(f"/api/v1/tenants/{ours.tenant.pk}/deletion/").json()["remains"]["counted_at"]


def test_a_large_vault_and_a_large_tenant_are_reported_as_they_were_counted(
    large: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backups.lock_coverage.LIVE_REPORT", 0)
    backup = make_backup(large.ours.server)
    assert backup.manifest is not None
    Backup.objects.filter(pk=backup.pk).update(immutable_until=backup.manifest.retain_until + timedelta(days=9))
    count_all()

    found, report = known_coverage_of(large.ours.vault, now=NOW), coverage_of(large.ours.vault, now=NOW)
    StoredObject.objects.update(retain_until=NOW + timedelta(days=99))
    later = known_coverage_of(large.ours.vault, now=NOW + timedelta(minutes=5))

    assert report.violations and found == later == report
    usage = large.client("super").get(f"/api/v1/tenants/{large.ours.tenant.pk}/usage/").json()
    assert usage["counted_at"] and usage["used_bytes"] == usage_of(large.ours.tenant, now=NOW).used_bytes
