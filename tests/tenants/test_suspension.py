"""A suspended tenant starts nothing new; what is there is read, restored and canceled; resuming catches up once."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from agents.services import add_disk, add_server
from backups.dispatcher import dispatch_due
from backups.models import Job
from backups.services import cancel_job, request_backup, request_restore
from backups.states import JobKind, JobState
from backups.verifier import request_verification
from common.errors import ConflictError, TenantSuspendedError
from definitions.services import create_definition
from tenants.models import AuditEvent, Tenant, TenantEvent
from tenants.services import resume_tenant, suspend_tenant
from tests.factories import (
    disk_of,
    make_backup,
    make_definition,
    make_job,
    make_node,
    make_person,
    make_server,
    make_tenant,
)
from tests.worlds import World

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def _suspend(tenant: Tenant) -> None:
    suspend_tenant(tenant=tenant, reason="unpaid", actor=make_person(superadmin=True), now=NOW)


def test_nothing_new_is_started() -> None:
    server = make_server()
    tenant, definition = server.tenant, make_definition(server)
    disk, node, root = disk_of(server), make_node(server.tenant), make_person(superadmin=True)
    _suspend(tenant)

    attempts = (
        lambda: request_backup(definition=definition, actor=root, now=NOW),
        lambda: create_definition(disk=disk, name="new", cron="0 1 * * *", now=NOW),
        lambda: add_server(tenant=tenant, name="new", region_code="RBX", node=node, actor=root),
        lambda: add_disk(
            server=server, number=9, driver="image", storage=disk.storage, path="x", size_bytes=1, actor=root
        ),
    )
    for attempt in attempts:
        with pytest.raises(TenantSuspendedError) as caught:
            attempt()
        assert (caught.value.code, caught.value.http_status) == ("tenant_suspended", 409)
        assert "unpaid" in caught.value.message


def test_restores_checks_and_cancels_go_on() -> None:
    server = make_server()
    backup, waiting, root = make_backup(server), make_job(make_server(server.tenant)), make_person(superadmin=True)
    _suspend(server.tenant)

    restore = request_restore(backup=backup, target=disk_of(server), confirmation=server.name, actor=root, now=NOW)
    check = request_verification(backup=backup, actor=root, now=NOW)
    cancel_job(job=waiting, actor=root, now=NOW)

    assert (restore.kind, check.kind) == (JobKind.RESTORE, JobKind.VERIFY)
    waiting.refresh_from_db()
    assert waiting.state == JobState.CANCELED


def test_schedules_wait_and_catch_up_once() -> None:
    server, root = make_server(), make_person(superadmin=True)
    definition = make_definition(server, cron="0 * * * *", next_run_at=NOW - timedelta(hours=30))
    _suspend(server.tenant)

    assert dispatch_due(now=NOW) == 0
    resume_tenant(tenant=server.tenant, actor=root, now=NOW)
    assert [dispatch_due(now=NOW) for _ in range(3)] == [1, 0, 0]

    assert Job.objects.filter(definition=definition).count() == 1
    definition.refresh_from_db()
    assert definition.next_run_at > NOW


def test_the_definition_says_why_it_waits(world: World) -> None:
    _suspend(world.ours.tenant)
    address = f"/api/v1/definitions/{world.ours.definition.pk}/"

    for name in ("admin_a", "owner_a1"):
        assert "suspended (unpaid)" in world.client(name).get(address).json()["waiting_reason"]
    foreign = world.client("admin_b").get(f"/api/v1/definitions/{world.theirs.definition.pk}/")
    assert foreign.json()["waiting_reason"] == ""


def test_each_change_has_its_event_and_audit_and_happens_once() -> None:
    tenant, root = make_tenant(), make_person(superadmin=True)
    _suspend(tenant)

    with pytest.raises(ConflictError) as caught:
        _suspend(tenant)
    resume_tenant(tenant=tenant, actor=root, now=NOW)
    with pytest.raises(ConflictError):
        resume_tenant(tenant=tenant, actor=root, now=NOW)

    assert caught.value.code == "wrong_tenant_status"
    assert [event.code for event in TenantEvent.objects.filter(tenant=tenant).order_by("pk")] == ["suspended", "active"]
    actions = AuditEvent.objects.filter(tenant=tenant).exclude(action="tenant.create").values_list("action", flat=True)
    assert set(actions) == {"tenant.suspend", "tenant.resume"}
    tenant.refresh_from_db()
    assert tenant.status_reason == ""


def test_the_stale_instance_does_not_decide() -> None:
    server = make_server()
    stale = make_definition(server)
    Tenant.objects.filter(pk=server.tenant_id).update(status="suspended")

    with pytest.raises(TenantSuspendedError):
        request_backup(definition=stale, actor=make_person(superadmin=True), now=NOW)
