"""Removals take weeks: their pages say the phase, what is gone and left, and since when nobody may hope for an end."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from backups import leaving
from backups.models import Backup, Job
from backups.tenant_removal import advance_deletions
from backups.vault_removal import advance_vault_removals
from definitions.models import Definition
from tenants.models import Tenant, TenantDeletion
from tests.factories import make_backup, make_job, make_manifest
from tests.worlds import World
from vaults.models import Removal, RemovalRun, StoredObject, VaultDeletion

DAY = timedelta(days=1)
KIB = 1024


@pytest.fixture
def now() -> datetime:
    return timezone.now()


def ask(world: World, *, kind: str, now: datetime) -> str:
    """Somebody asked for it eight days ago; the address of its page."""
    asked = {"requested_by_name": "super", "requested_at": now - 8 * DAY, "undo_until": now - DAY}
    if kind == "tenant":
        TenantDeletion.objects.create(tenant=world.ours.tenant, **asked)
        return f"/tenants/{world.ours.tenant.pk}/"
    vault = world.ours.vault
    VaultDeletion.objects.create(vault=vault, tenant=vault.tenant, name=vault.name, **asked)
    return f"/vaults/{vault.pk}/remove/"


def empty(world: World) -> None:
    """Nothing of the tenant is left, and nothing uses its vault."""
    Definition.objects.filter(tenant=world.ours.tenant).delete()
    Job.objects.filter(tenant=world.ours.tenant).delete()
    Backup.objects.filter(tenant=world.ours.tenant).update(removed_at=timezone.now())
    StoredObject.objects.filter(vault=world.ours.vault).update(status="deleted")


def leave_objects(world: World, *, gone: int, left: int, locked_until: datetime) -> None:
    """Objects of a KiB each."""
    vault = world.ours.vault
    run = RemovalRun.objects.create(vault=vault, epoch=1, started_at=timezone.now())
    for number in range(gone + left):
        row = make_manifest(vault)
        status = "deleted" if number < gone else row.status
        StoredObject.objects.filter(pk=row.pk).update(size_bytes=KIB, status=status, retain_until=locked_until)
        if number < gone:
            Removal.objects.create(stored_object=row, run=run, ordered_at=timezone.now(), done_at=timezone.now())


def text_of(world: World, address: str, at: datetime | None = None) -> str:
    """Without markup."""
    with time_machine.travel(at or timezone.now(), tick=False):
        answer = world.client("super").get(address)
    assert answer.status_code == 200
    return " ".join(re.sub(r"<[^>]*>", " ", answer.content.decode()).split())


@pytest.mark.parametrize("kind", ["tenant", "vault"])
def test_how_far_it_is(world: World, kind: str, now: datetime) -> None:
    empty(world)
    leave_objects(world, gone=1, left=3, locked_until=now - DAY)
    address = ask(world, kind=kind, now=now)

    text = text_of(world, address)

    assert "Deleting. The reaper deletes object by object" in text
    assert "25 % · Gone: 1 object of 1.0 KiB . Left: 0 backups, 3 objects of 3.0 KiB ." in text


def test_the_phases(world: World, now: datetime) -> None:
    address = ask(world, kind="vault", now=now)
    delay = text_of(world, address, now - 2 * DAY)
    used = text_of(world, address)
    Definition.objects.filter(tenant=world.ours.tenant).delete()
    Job.objects.filter(tenant=world.ours.tenant).delete()
    backups = text_of(world, address)
    empty(world)
    leave_objects(world, gone=0, left=1, locked_until=now + 30 * DAY)
    locked = text_of(world, address)
    StoredObject.objects.update(status="deleted")
    last = text_of(world, address)

    assert "Waiting. Until the delay is over" in delay and "Undo the removal" in delay
    assert "%" not in delay
    # It stood still, and nobody was told why.
    assert "Stopped. Nothing goes while this stands: 1 definition write" in used
    assert "Backups leave. Each backup leaves the catalogue when its promise is over." in backups
    assert "Waiting for locks." in locked and "not before that can all be gone" in locked
    assert "Last step. The bytes are gone" in last


def test_a_tenant_loses_backups_while_its_jobs_end(world: World, now: datetime) -> None:
    """They are asked to, and nothing waits for them but the last step."""
    tenant, server = world.ours.tenant, world.ours.server
    empty(world)
    Tenant.objects.filter(pk=tenant.pk).update(status="deleting")
    unlocked = make_backup(server, immutable_until=now - DAY)
    make_backup(server, immutable_until=now + 30 * DAY)
    make_job(server, state="running")
    address = ask(world, kind="tenant", now=now)
    delay, due = text_of(world, address, now - 2 * DAY), text_of(world, address)

    advance_deletions(now=now)

    one = text_of(world, address)
    make_job(world.ours.other_server, state="running", cancel_requested=True)
    two = text_of(world, address)
    assert "job" not in delay.split("What happened")[0].split("Waiting.")[1].split("Gone:")[0]
    assert "Backups leave." in due and "The next step asks 1 job to end." in due
    assert Backup.objects.get(pk=unlocked.pk).removed_at is not None
    assert "Backups leave." in one and "1 job is asked to end." in one and "Left: 1 backup," in one
    assert "2 jobs are asked to end." in two
    assert not any("Stopped" in text for text in (due, one, two))


def test_what_retention_removed_before_is_not_counted(world: World, now: datetime) -> None:
    empty(world)
    leave_objects(world, gone=2, left=1, locked_until=now - DAY)
    Removal.objects.update(done_at=now - 30 * DAY)
    RemovalRun.objects.update(started_at=now - 30 * DAY)

    assert "Gone: 0 objects" in text_of(world, ask(world, kind="vault", now=now))


@pytest.mark.skipif(connection.vendor != "sqlite", reason="of so few rows PostgreSQL reads all, as it should")
@pytest.mark.parametrize("kind", ["tenant", "vault"])
def test_only_what_was_ordered_since_is_read(world: World, kind: str, now: datetime) -> None:
    """Not the reaper's journal of all vaults, nor all that ever was in this one."""
    empty(world)
    leave_objects(world, gone=1, left=1, locked_until=now - DAY)
    address = ask(world, kind=kind, now=now)
    with CaptureQueriesContext(connection) as queries:
        world.client("super").get(address)

    (journal,) = [query["sql"] for query in queries if '"vaults_removal"' in query["sql"]]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {journal}")
        plan = str(cursor.fetchall())

    assert "vaults_removalrun_vault_id_" in plan, plan
    # Of a tenant's few objects in a test, SQLite goes by these.
    by_objects = "SEARCH vaults_removal USING INDEX sqlite_autoindex_vaults_removal_1" in plan
    assert "vaults_removal_run_id_" in plan or (kind == "tenant" and by_objects), plan


def test_more_than_is_counted_is_called_so(world: World, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "MOST_COUNTED", 2)
    empty(world)
    leave_objects(world, gone=4, left=1, locked_until=now - DAY)

    text = text_of(world, ask(world, kind="vault", now=now))

    assert "Gone: more than 2 objects, at least 3.0 KiB . Left:" in text
    assert "%" not in text


def test_it_stays_true_while_it_is_open(world: World, now: datetime) -> None:
    empty(world)
    leave_objects(world, gone=0, left=2, locked_until=now - DAY)
    client: Any = world.client("super")
    for kind in ("tenant", "vault"):
        address = ask(world, kind=kind, now=now)
        seen = re.search(r'id="renewed" data-seen="([0-9a-f]+)"', client.get(address).content.decode())
        assert seen
        headers = {"HX-Request": "true", "HX-Target": "renewed", "X-Seen": seen[1]}
        assert client.get(address, headers=headers).status_code == 204


def test_the_page_of_the_vault_says_that_it_goes(world: World, now: datetime) -> None:
    address = ask(world, kind="vault", now=now)
    page = f"/vaults/{world.ours.vault.pk}/"

    assert f'href="{address}">How far it is' in world.client("super").get(page).content.decode()
    client = world.client("admin_a")
    with time_machine.travel(now - 2 * DAY, tick=False):
        within = client.get(page).content.decode()
    over = client.get(page).content.decode()
    assert "It is being removed" in within and address not in within
    assert "A SuperAdmin can undo it until" in within
    assert "It is being removed" in over and "undo it" not in over


def part_of(client: Any, address: str) -> Any:
    """As a page asks that was opened before."""
    return client.get(address, headers={"HX-Request": "true", "HX-Target": "renewed", "X-Seen": "earlier"})


def assert_gone(client: Any, address: str) -> None:
    """Its part says only that the page is to be loaded, and the page is not there."""
    part = part_of(client, address)
    assert (part.status_code, part.headers["HX-Refresh"], part.content) == (200, "true", b"")
    assert client.get(address).status_code == 404


def test_the_open_page_of_a_removal_tells_its_end(world: World, now: datetime) -> None:
    empty(world)
    address, name = ask(world, kind="vault", now=now), world.ours.vault.name
    client = world.client("super")
    assert part_of(client, address).status_code == 200

    assert advance_vault_removals(now=now) == 1

    answer, text = part_of(client, address), text_of(world, address)
    part = answer.content.decode()
    assert answer.status_code == 200 and part.startswith('<div id="renewed"') and "<html" not in part
    assert f"The vault {name} is removed" in part and 'href="/vaults/">Vaults' in part
    assert f"The vault {name} is removed" in text
    # Who could not have removed it is told nothing (the page is loaded anew), and nothing is done to what is gone.
    for person in ("admin_a", "admin_b", "owner_a1"):
        assert_gone(world.client(person), address)
    assert client.post(address, {}, format="multipart").status_code == 404
    assert_gone(client, f"/vaults/{world.ours.tenant.pk}/remove/")


def test_the_open_page_of_a_tenant_tells_its_end(world: World, now: datetime) -> None:
    empty(world)
    Tenant.objects.filter(pk=world.ours.tenant.pk).update(status="deleting")
    address = ask(world, kind="tenant", now=now)

    assert advance_deletions(now=now) == 1

    answer = part_of(world.client("super"), address)
    assert answer.status_code == 200 and "It was finished" in answer.content.decode()
