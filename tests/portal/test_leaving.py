"""Removals take weeks: their pages say the phase, what is gone and left, and since when nobody may hope for an end."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from backups.models import Backup, Job
from definitions.models import Definition
from tenants.models import TenantDeletion
from tests.factories import make_job, make_manifest
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


def test_a_tenant_whose_jobs_run_says_so(world: World, now: datetime) -> None:
    make_job(world.ours.server, state="running")

    assert "jobs of it wait or run; the next step ends them" in text_of(world, ask(world, kind="tenant", now=now))


def test_what_retention_removed_before_is_not_counted(world: World, now: datetime) -> None:
    empty(world)
    leave_objects(world, gone=2, left=1, locked_until=now - DAY)
    Removal.objects.update(done_at=now - 30 * DAY)

    assert "Gone: 0 objects" in text_of(world, ask(world, kind="vault", now=now))


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
    theirs = world.client("admin_a").get(page).content.decode()
    assert "It is being removed" in theirs and address not in theirs
