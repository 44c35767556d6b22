"""A vault is removed: refused with the reasons while it is used or locked, undone within seven days, and then it goes
by the removal that everything goes by."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from agents.models import Server
from backups.models import Backup
from backups.remains import remains_of_vault
from backups.services import refuse_unready
from backups.states import JobState
from backups.vault_removal import (
    advance_vault_removals,
    request_vault_removal,
    undo_vault_removal,
)
from common.errors import ApprovalNeededError, BackupsiteError, ConflictError, InvalidInputError, NotAllowedError
from definitions.models import Definition
from definitions.services import create_definition
from tenants import approvals
from tenants.models import ApprovalRule, AuditEvent, Person
from tests.factories import (
    disk_of,
    make_definition,
    make_job,
    make_manifest,
    make_person,
    make_server,
    make_tenant,
)
from tests.removal.world import advance, now, running
from vaults.models import Domain, StoredObject, TenantKey, Vault, VaultDeletion
from vaults.services import place_vault

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


def remove(vault: Vault, *, actor: Person | None = None, at: Any = None, **changes: str) -> VaultDeletion:
    order = {"confirmation": vault.name, "reason": "empty", **changes}
    return request_vault_removal(
        vault=vault,
        actor=actor or make_person(superadmin=True),
        now=at or now(),
        **order,
    )


def test_all_of_it_goes_after_locks_and_delay_and_nothing_before() -> None:
    with running() as (world, clock):
        vault = world.vault
        writer = world.start_session()
        assert writer is not None
        world.put_pack(writer)
        assert world.commit(writer).state == JobState.OK
        with pytest.raises(ConflictError) as used:
            remove(vault)
        Definition.objects.filter(vault=vault).delete()
        with pytest.raises(ConflictError) as locked:
            remove(vault)
        assert (used.value.code, locked.value.code) == ("vault_in_use", "vault_locked")

        last_lock = max(StoredObject.objects.values_list("retain_until", flat=True))
        advance(clock, world, last_lock - now() + DAY)
        remove(vault)
        keys = world.keys_in_store()
        for _ in range(6):
            advance(clock, world, DAY)
            assert advance_vault_removals(now=now()) == 0
        assert Backup.objects.in_catalogue().count() == 1
        assert world.keys_in_store() == keys

        for _ in range(30):
            advance(clock, world, DAY)
            if advance_vault_removals(now=now()):
                break
            world.reconcile()
            world.run_removal()
            world.reap()

        assert world.keys_in_store() == set()
        for model in (Vault, Domain, StoredObject, Backup):
            assert not model.objects.exists(), model
        # The tenant, its server and its keys stay, and a new vault gets another name.
        assert TenantKey.objects.filter(tenant=vault.tenant).exists()
        assert Server.objects.get(tenant=vault.tenant).domain is None
        gone = VaultDeletion.objects.get()
        assert (gone.vault, gone.name, gone.finished_at) == (None, vault.name, now())
        names = [event.action for event in AuditEvent.objects.filter(action__startswith="vault.remove").order_by("pk")]
        assert names == ["vault.remove.begin", "vault.remove.finish"]


def test_each_use_is_named_and_refuses() -> None:
    tenant, other = make_tenant(), make_tenant()
    server = make_server(tenant)
    definition, vault = make_definition(server, name="nightly"), Vault.objects.get(tenant=tenant)
    job = make_job(server, definition=definition)

    def refused(code: str = "vault_in_use") -> str:
        with pytest.raises(BackupsiteError) as caught:
            remove(vault)
        assert caught.value.code == code
        return caught.value.message

    assert f"nightly of {server.name}" in refused() and "1 job" in refused()
    job.delete()
    Definition.objects.all().delete()
    manifest = make_manifest(vault)
    StoredObject.objects.update(retain_until=now() - DAY)
    backup = Backup.objects.create(
        tenant=other,
        vault=vault,
        name="b",
        server_name="s",
        disk_number=1,
        size_bytes=1,
        status="ok",
        manifest=manifest,
    )
    assert "moved to other tenants" in refused()
    Backup.objects.update(tenant=tenant, immutable_until=now() + DAY)
    assert "nobody can shorten" in refused("vault_locked")
    Backup.objects.update(immutable_until=now() - DAY)
    type(tenant).objects.filter(pk=tenant.pk).update(status="deleting")
    assert "tenant is being deleted" in refused()
    type(tenant).objects.filter(pk=tenant.pk).update(status="active")

    with pytest.raises(InvalidInputError):
        remove(vault, confirmation="yes")
    with pytest.raises(NotAllowedError):
        remove(vault, actor=make_person(administers=[tenant]))
    remove(vault)
    assert "already" in refused("vault_leaving")
    assert Backup.objects.in_catalogue().get() == backup


def test_nothing_new_goes_in_until_it_is_undone_and_undoing_has_its_time() -> None:
    tenant, root = make_tenant(), make_person(superadmin=True)
    server = make_server(tenant)
    vault = Vault.objects.get(tenant=tenant)
    began = now()
    remove(vault, at=began)

    new = {"disk": disk_of(server), "name": "new", "cron": "0 1 * * *", "now": began}
    ways = (
        lambda: create_definition(**new),
        lambda: place_vault(tenant=tenant, region_code=server.region_id, actor=root),
        lambda: refuse_unready(Definition(vault=vault, disk=disk_of(server))),
    )
    for way in ways:
        with pytest.raises(ConflictError) as caught:
            way()
        assert caught.value.code == "vault_leaving"

    undo_vault_removal(vault=vault, actor=root, now=began + 6 * DAY)
    assert create_definition(**new).vault == vault
    with pytest.raises(ConflictError):
        undo_vault_removal(vault=vault, actor=root, now=began + 6 * DAY)
    Definition.objects.all().delete()
    remove(vault, at=began)
    with pytest.raises(ConflictError) as late:
        undo_vault_removal(vault=vault, actor=root, now=began + 7 * DAY)
    assert late.value.code == "undo_too_late"


def test_what_came_into_use_meanwhile_stops_it_and_a_new_vault_has_another_name() -> None:
    tenant, root = make_tenant(), make_person(superadmin=True)
    server = make_server(tenant)
    vault = Vault.objects.get(tenant=tenant)
    Vault.objects.filter(pk=vault.pk).update(name=f"backup-vault-{tenant.suffix}")
    vault.refresh_from_db()
    remove(vault)
    # As if it had been made at the very same moment.
    definition = Definition(tenant=tenant, disk=disk_of(server), vault=vault, name="late", cron="0 1 * * *")
    definition.save(force_insert=True)
    assert advance_vault_removals(now=now() + 8 * DAY) == 0
    definition.delete()

    assert advance_vault_removals(now=now() + 8 * DAY) == 1
    assert advance_vault_removals(now=now() + 9 * DAY) == 0
    new = place_vault(tenant=tenant, region_code=server.region_id, actor=root)
    assert new.name == f"backup-vault-{tenant.suffix}-2"


def test_where_a_rule_asks_a_second_super_admin_agrees_first() -> None:
    tenant = make_tenant()
    make_server(tenant)
    vault = Vault.objects.get(tenant=tenant)
    root, second, admin = make_person(superadmin=True), make_person(superadmin=True), make_person(administers=[tenant])
    ApprovalRule.objects.create(kind="vault.remove", tenant=tenant, required=True)

    with pytest.raises(ApprovalNeededError) as needed:
        remove(vault, actor=root)
    request = needed.value.request
    approvals.keep(request)
    assert not VaultDeletion.objects.exists()
    assert not approvals.may_approve(request, admin)
    approvals.approve(request=request, actor=second, now=request.created_at)

    remove(vault, actor=root, at=request.created_at + timedelta(hours=1))
    assert VaultDeletion.objects.get().requested_by == root
    assert remains_of_vault(vault).is_nothing
