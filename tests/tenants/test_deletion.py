"""A tenant is deleted: rights at once, bytes when their locks end, keys last; undone within seven days."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from agents.models import Server
from backups.models import Backup, Job
from backups.remains import remains_of
from backups.states import JobState
from backups.tenant_removal import (
    advance_deletions,
    request_tenant_deletion,
    undo_tenant_deletion,
)
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from definitions.models import Definition
from tenants.models import Company, Membership, Person, Tenant, TenantDeletion
from tests.factories import make_job, make_manifest, make_person, make_server, make_tenant
from tests.removal.world import World, advance, now, running
from vaults.models import CatalogueKey, Domain, StoredObject, TenantKey, Vault

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


def _delete(tenant: Tenant, actor: Person | None = None) -> TenantDeletion:
    return request_tenant_deletion(
        tenant=tenant,
        confirmation=tenant.name,
        reason="left",
        actor=actor or make_person(superadmin=True),
        now=now(),
    )


def _back_up(world: World) -> Backup:
    writer = world.start_session()
    assert writer is not None
    world.put_pack(writer)
    job = world.commit(writer)
    assert job.state == JobState.OK, job.message
    return job.backup


def _a_day(world: World, clock: Any) -> None:
    advance(clock, world, DAY)
    advance_deletions(now=now())
    if Vault.objects.filter(pk=world.vault.pk).exists():
        world.reconcile()
        world.run_removal()
        world.reap()


@pytest.mark.case("CP-19")
@pytest.mark.case("AZ-18")
def test_everything_goes_after_its_lock_and_nothing_before_it() -> None:
    with running() as (world, clock):
        tenant = world.vault.tenant
        backup = _back_up(world)
        locked_until = max(StoredObject.objects.values_list("retain_until", flat=True))
        _delete(tenant)

        for _ in range(90):
            _a_day(world, clock)
            tenant.refresh_from_db()
            if now() < backup.immutable_until:
                assert Backup.objects.in_catalogue().count() == 1
                world.check()
            if now() < locked_until:
                assert TenantKey.objects.filter(tenant=tenant).exists()
            if tenant.status == Tenant.Status.DELETED:
                break

        assert tenant.status == Tenant.Status.DELETED
        assert now() > locked_until
        assert world.keys_in_store() == set()
        for model in (Backup, Job, Definition, Server, Vault, Domain, StoredObject, TenantKey, CatalogueKey, Company):
            assert not model.objects.exists(), model
        assert (tenant.title, tenant.deletion.grants) == (tenant.name, [])


def test_keys_and_rows_stay_while_one_object_is_left() -> None:
    tenant = make_tenant()
    server = make_server(tenant)
    manifest = make_manifest(server.tenant.vaults.get())
    _delete(tenant)
    late = now() + 400 * DAY

    advance_deletions(now=late)

    assert remains_of(tenant).objects == 1
    assert Vault.objects.filter(tenant=tenant).exists()
    StoredObject.objects.filter(pk=manifest.pk).update(status="deleted")
    assert advance_deletions(now=late) == 1
    assert not Vault.objects.filter(tenant=tenant).exists()
    assert advance_deletions(now=late) == 0


@pytest.mark.case("AZ-18")
def test_nothing_happens_within_the_delay_but_rights_are_gone_at_once() -> None:
    tenant = make_tenant()
    server = make_server(tenant)
    admin, owner = make_person(administers=[tenant]), make_person(owns=[server])

    _delete(tenant)
    advance_deletions(now=now() + 6 * DAY)

    assert Server.objects.filter(pk=server.pk).exists()
    for person in (admin, owner):
        assert not Server.objects.for_user(person).exists()
        assert not Tenant.objects.for_user(person).exists()


def test_undoing_gives_the_rights_back_and_leaves_it_suspended() -> None:
    tenant = make_tenant()
    server = make_server(tenant)
    admin, owner, root = make_person(administers=[tenant]), make_person(owns=[server]), make_person(superadmin=True)
    _delete(tenant)

    undo_tenant_deletion(tenant=tenant, actor=root, now=now() + 6 * DAY)

    tenant.refresh_from_db()
    assert tenant.status == Tenant.Status.SUSPENDED
    assert list(Tenant.objects.for_user(admin)) == [tenant]
    assert list(Server.objects.for_user(owner)) == [server]
    assert advance_deletions(now=now() + 30 * DAY) == 0
    assert Membership.objects.filter(person=admin, company__tenant=tenant).count() == 1


def test_undoing_is_too_late_when_the_delay_is_over() -> None:
    tenant, root = make_tenant(), make_person(superadmin=True)
    _delete(tenant)

    with pytest.raises(ConflictError) as caught:
        undo_tenant_deletion(tenant=tenant, actor=root, now=now() + 7 * DAY)

    assert caught.value.code == "undo_too_late"


def test_it_needs_the_name_and_a_superadmin_and_is_asked_for_once() -> None:
    tenant = make_tenant()
    admin, root = make_person(administers=[tenant]), make_person(superadmin=True)

    with pytest.raises(NotAllowedError):
        _delete(tenant, admin)
    with pytest.raises(InvalidInputError):
        request_tenant_deletion(tenant=tenant, confirmation="yes", reason="", actor=root, now=now())
    tenant.refresh_from_db()
    assert tenant.status == Tenant.Status.ACTIVE
    _delete(tenant, root)
    with pytest.raises(ConflictError):
        _delete(tenant, root)


def test_what_waits_is_canceled_after_the_delay() -> None:
    tenant = make_tenant()
    job = make_job(make_server(tenant))
    _delete(tenant)

    advance_deletions(now=now() + 8 * DAY)

    assert not Job.objects.filter(pk=job.pk, state=JobState.PENDING).exists()
    assert not Definition.objects.filter(tenant=tenant).exists()


def test_what_moved_to_another_tenant_holds_keys_and_vault() -> None:
    former, new = make_tenant(), make_tenant()
    server = make_server(former)
    manifest = make_manifest(server.tenant.vaults.get())
    Domain.objects.filter(pk=manifest.domain_id).update(held_for=new)
    _delete(former)

    advance_deletions(now=now() + 400 * DAY)

    assert remains_of(former).lent_objects == 1
    assert Vault.objects.filter(tenant=former).exists()
    assert remains_of(new).objects == 1
