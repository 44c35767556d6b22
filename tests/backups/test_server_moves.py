"""A server moves to another tenant: whose its backups are then, where they lie, and that they restore."""

from __future__ import annotations

import os
from datetime import time
from typing import Any
from unittest import mock

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from agents.models import Server
from backups.accounting import stored_bytes, usage_of
from backups.models import Backup, DefinitionStanding, Job
from backups.server_moves import move_server
from backups.states import JobState
from common.errors import ApprovalNeededError, ConflictError, InvalidInputError, NotAllowedError, QuotaError
from definitions.models import Definition, Policy
from definitions.policies import assign, create_policy
from tenants.approval_states import ApprovalKind
from tenants.models import ApprovalRule, AuditEvent, Person, Tenant, TenantUserPermission
from tenants.quotas import set_quotas
from tenants.services import create_tenant, suspend_tenant
from tests.backups.conftest import MIB, Site
from tests.factories import (
    disk_of,
    make_backup,
    make_definition,
    make_job,
    make_person,
    make_server,
    make_tenant,
    make_tenant_key,
    make_vault,
)
from vaults.models import Domain, TenantKey
from vaults.provisioner import prepare_vault
from vaults.recovery_keys import register_customer_key

NOW = timezone.now()


def _move(server: Server, tenant: Tenant, actor: Person | None = None) -> Server:
    server = Server.objects.select_related("tenant").get(pk=server.pk)
    actor = actor or make_person(superadmin=True)
    return move_server(server=server, tenant=tenant, confirmation=server.name, actor=actor)


@pytest.mark.stack
def test_backups_restore_after_a_move_and_new_ones_go_to_the_new_tenants_vault(site: Site) -> None:
    disk, content = site.server("web01", content=os.urandom(3 * MIB)), None
    definition = site.definition(disk)
    before = site.back_up(definition).backup
    content = site.path(disk).read_bytes()
    other = create_tenant(title="Other", actor=None)

    _move(disk.server, other)
    vault = other.vaults.get()
    prepare_vault(vault_id=str(vault.pk), probe=lambda vault, report: None)
    definition.refresh_from_db()
    job = site.back_up(Definition.objects.get(pk=definition.pk))

    assert job.state == JobState.OK, job.message
    after = job.backup
    assert (after.vault, after.manifest.domain.tenant) == (vault, other)
    assert after.stored_bytes >= 3 * MIB
    assert after.sequence > before.sequence
    for backup in (before, after):
        backup.refresh_from_db()
        assert backup.tenant == other
        disk.refresh_from_db()
        site.path(disk).write_bytes(b"x" * site.path(disk).stat().st_size)
        restored = site.restore(backup, type(disk).objects.select_related("server__node").get(pk=disk.pk))
        assert restored.state == JobState.OK, restored.message
        assert site.path(disk).read_bytes() == content
    assert before.manifest.domain.tenant == site.tenant


@pytest.mark.django_db
def test_everything_of_the_server_is_the_new_tenants_and_the_old_ones_people_see_nothing() -> None:
    former, new = make_tenant(), make_tenant()
    server, definition = make_server(former), None
    definition = make_definition(server)
    backup = make_backup(server, definition=definition)
    DefinitionStanding.objects.create(
        definition=definition, state="stale", told=["stale"], looked_at=NOW, look_again_at=NOW
    )
    old_admin, owner = make_person(administers=[former]), make_person(owns=[server])
    new_admin = make_person(administers=[new])

    _move(server, new)

    for model in (Server, Definition, Backup):
        assert not model.objects.for_user(old_admin).exists(), model
        assert not model.objects.for_user(owner).exists(), model
        assert model.objects.for_user(new_admin).count() == 1, model
    definition.refresh_from_db()
    assert definition.vault.tenant == new
    # Its people have not heard of it yet.
    assert definition.standing.told == []
    assert Domain.objects.get(pk=backup.manifest.domain_id).held_for == new
    told = AuditEvent.objects.filter(action="server.move").values_list("tenant", flat=True)
    assert set(told) == {former.pk, new.pk}


@pytest.mark.django_db
def test_its_policy_is_decided_anew_at_once() -> None:
    former, new, nobody = make_tenant(), make_tenant(), make_tenant()
    root, server = make_person(superadmin=True), make_server(former)
    theirs = create_policy(name="theirs", actor=root, retention_days=30)
    ours = create_policy(name="ours", actor=root, retention_days=60, window_start=time(1), window_end=time(2))
    assign(policy=theirs, tenant=former, actor=root, now=NOW)
    assign(policy=ours, tenant=new, actor=root, now=NOW)
    definition = Definition.objects.get(disk__server=server)

    _move(server, new, root)
    definition.refresh_from_db()
    assert (definition.policy, definition.retention_days, definition.cron.split()[1]) == (ours, 60, "1")
    assert definition.next_run_at is not None and definition.next_run_at > NOW
    # What it made before goes by the rules of its time.
    assert [row.retention_days for row in definition.earlier_rules.all()] == [30]

    _move(server, nobody, root)
    definition.refresh_from_db()
    assert (definition.policy, definition.retention_days, definition.tenant) == (None, 60, nobody)
    assert Definition.objects.filter(disk__server=server).count() == 1


@pytest.mark.django_db
def test_a_server_without_a_policy_gets_the_new_tenants_and_its_own_assignment_stays_nearest() -> None:
    former, new = make_tenant(), make_tenant()
    root, server, own = make_person(superadmin=True), make_server(former), make_server(former)
    assign(policy=create_policy(name="ours", actor=root), tenant=new, actor=root, now=NOW)
    nearest = create_policy(name="nearest", actor=root)
    assign(policy=nearest, server=own, actor=root, now=NOW)

    for one in (server, own):
        _move(one, new, root)

    assert Definition.objects.get(disk__server=server).policy == Policy.objects.get(name="ours")
    assert Definition.objects.get(disk__server=server).vault.tenant == new
    assert Definition.objects.get(disk__server=own).policy == nearest


@pytest.mark.django_db
def test_moving_to_a_policy_that_keeps_fewer_may_need_a_second_person() -> None:
    former, new = make_tenant(), make_tenant()
    root, server = make_person(superadmin=True), make_server(former)
    assign(policy=create_policy(name="long", actor=root, retention_days=30), tenant=former, actor=root, now=NOW)
    assign(policy=create_policy(name="short", actor=root, retention_days=3), tenant=new, actor=root, now=NOW)
    ApprovalRule.objects.create(tenant=None, kind=ApprovalKind.RETENTION_SHORTEN, required=True)

    with pytest.raises(ApprovalNeededError):
        _move(server, new, root)

    assert Server.objects.get(pk=server.pk).tenant == former
    assert Definition.objects.get(disk__server=server).retention_days == 30


@pytest.mark.django_db
def test_space_is_counted_for_the_tenant_that_has_the_server() -> None:
    former, new = make_tenant(), make_tenant()
    server = make_server(former)
    make_backup(server)
    before = usage_of(former, now=NOW), stored_bytes(former)

    _move(server, new)

    assert (usage_of(new, now=NOW), stored_bytes(new)) == before
    assert stored_bytes(new) > 0
    assert (usage_of(former, now=NOW).total_bytes, stored_bytes(former)) == (0, 0)
    assert usage_of(Server.objects.get(pk=server.pk), now=NOW) == before[0]


@pytest.mark.django_db
def test_moving_back_goes_on_in_the_domain_that_is_there() -> None:
    former, new = make_tenant(), make_tenant()
    server = make_server(former)
    backup = make_backup(server)
    Server.objects.filter(pk=server.pk).update(domain=backup.manifest.domain)

    _move(server, new)
    assert Server.objects.get(pk=server.pk).domain is None
    _move(server, former)

    domain = Domain.objects.get(pk=backup.manifest.domain_id)
    assert (domain.held_for, Server.objects.get(pk=server.pk).domain) == (None, domain)


@pytest.mark.django_db
def test_a_finished_restore_across_what_are_two_tenants_now_loses_its_link() -> None:
    former, new = make_tenant(), make_tenant()
    server, other = make_server(former), make_server(former)
    moved, staying = make_backup(server), make_backup(other)
    onto_other = make_job(other, kind="restore", state="ok", backup=moved)
    onto_moved = make_job(server, kind="restore", state="ok", backup=staying)

    _move(server, new)

    for job, tenant in ((onto_other, former), (onto_moved, new)):
        job.refresh_from_db()
        assert (job.tenant, job.backup) == (tenant, None)
        assert job.backup_name
    assert not Job.objects.exclude(backup=None).exists()


@pytest.mark.django_db
def test_it_is_refused_and_nothing_is_changed() -> None:
    former, new = make_tenant(), make_tenant()
    server = make_server(former)
    root = make_person(superadmin=True)
    job = make_job(server)

    def refused(code: str, **changes: object) -> None:
        values = {"server": Server.objects.get(pk=server.pk), "tenant": new, "confirmation": server.name, "actor": root}
        with pytest.raises((ConflictError, InvalidInputError, NotAllowedError)) as caught:
            move_server(**{**values, **changes})
        assert caught.value.code == code
        assert Server.objects.get(pk=server.pk).tenant == former

    refused("server_busy")
    Job.objects.filter(pk=job.pk).update(state="canceled")
    refused("not_confirmed", confirmation="yes")
    refused("not_allowed", actor=make_person(administers=[former, new]))
    refused("same_tenant", tenant=former)
    twin = make_server(new, name=server.name)
    refused("name_taken")
    Server.objects.filter(pk=twin.pk).update(name="another")
    set_quotas(tenant=new, limits={"servers": {"hard": 1}}, actor=root, now=NOW)
    refused("quota_exceeded")
    set_quotas(tenant=new, limits={"servers": None}, actor=root, now=NOW)
    suspend_tenant(tenant=new, reason="", actor=root, now=NOW)
    refused("tenant_suspended")


@pytest.mark.django_db
def test_the_bytes_of_a_moved_server_need_room() -> None:
    former, new = make_tenant(), make_tenant()
    server = make_server(former)
    make_backup(server)
    set_quotas(tenant=new, limits={"bytes": {"hard": 999}}, actor=make_person(superadmin=True), now=NOW)

    with pytest.raises(QuotaError):
        _move(server, new)

    assert Backup.objects.get().tenant == former


@pytest.mark.django_db
def test_backups_that_only_the_customers_key_opens_do_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    former, new = make_tenant(), make_tenant()
    server = make_server(former)
    make_backup(server)
    monkeypatch.setattr("backups.server_moves.restore_needs_customer_key", lambda manifest: True)

    with pytest.raises(ConflictError) as caught:
        _move(server, new)

    assert caught.value.code == "customer_key_needed"


@pytest.mark.django_db
def test_the_former_tenant_cannot_hand_over_its_key_while_moved_backups_need_it() -> None:
    former, new = make_tenant(), make_tenant()
    server, admin = make_server(former), make_person(administers=[former])
    make_tenant_key(former)
    make_backup(server)

    _move(server, new)

    with pytest.raises(ConflictError) as caught:
        register_customer_key(former, public_key="00" * 32, actor=admin)
    assert caught.value.code == "key_lent"
    assert TenantKey.objects.filter(tenant=former).count() == 1
    assert disk_of(server).storage.tenants.filter(pk=new.pk).exists()
    assert make_vault(new).tenant == new


@pytest.mark.django_db
def test_the_former_tenants_vault_is_named_to_who_may_see_it_only() -> None:
    former, new = make_tenant(), make_tenant()
    server = make_server(former)
    backup = make_backup(server)
    people = {
        "root": make_person(superadmin=True),
        "new": make_person(administers=[new]),
        "both": make_person(administers=[former, new]),
    }
    _move(server, new)

    shown = {}
    for name, person in people.items():
        client = APIClient()
        client.force_login(person)
        listed = client.get("/api/v1/backups/").json()["results"][0]["vault"]
        assert client.get(f"/api/v1/backups/{backup.pk}/").json()["vault"] == listed
        assert (str(backup.vault_id) in b"".join(client.get("/api/v1/backups/?format=csv")).decode()) is bool(listed)
        shown[name] = listed

    assert shown == {"root": str(backup.vault_id), "new": None, "both": str(backup.vault_id)}


@pytest.mark.django_db
def test_a_move_has_the_buckets_say_whose_the_backups_are(django_capture_on_commit_callbacks: Any) -> None:
    former, new = make_tenant(), make_tenant()
    server = make_server(former)
    backup = make_backup(server)

    with mock.patch("backups.server_moves.hint_description") as hint, django_capture_on_commit_callbacks(execute=True):
        _move(server, new)

    hint.assert_called_once_with(backup.manifest.domain_id)


@pytest.mark.django_db
def test_taking_away_ones_own_last_right_is_asked_first() -> None:
    tenant = make_tenant()
    server = make_server(tenant)
    person = make_person(administers=[tenant], owns=[server])
    client, other = APIClient(), make_person(owns=[server])
    client.force_login(person)
    address, body = f"/api/v1/servers/{server.pk}/revoke/", {"person": str(person.pk)}
    # Between looking at his right to the server and taking it, his other right goes: as if done at the same moment.
    with mock.patch("agents.people.refuse_stranger", lambda **_: lose_administration(person, tenant)):
        refused = client.post(address, body, format="json")
        assert (refused.status_code, refused.json()["code"]) == (409, "own_last_right")
        assert client.post(address, {**body, "confirm": True}, format="json").status_code == 204

    assert not list(Server.objects.for_user(Person.objects.get(pk=person.pk)))
    assert list(Server.objects.for_user(other)) == [server]


def lose_administration(person: Person, tenant: Tenant) -> None:
    TenantUserPermission.objects.filter(user=person, content_object=tenant).delete()
