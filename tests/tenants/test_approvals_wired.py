"""AZ-18: what cannot be undone asks a second person where a rule says so: by API, portal and signer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from agents.services import grant_server_ownership
from backups.models import Backup, Job
from backups.services import request_restore
from common.errors import ApprovalNeededError
from engine.crypto import key_fingerprint
from engine.recovery import RecoveryKey, answer_challenge, decode_challenge
from tenants.approval_states import ApprovalKind
from tenants.models import ApprovalRequest, ApprovalRule, AuditEvent, Person, Tenant
from tests.factories import disk_of, make_backup, make_person, make_server
from tests.vaults.key_world import key_world
from tests.worlds import World
from vaults.custody import catalogue_key_of, private_key_of
from vaults.key_gate import PATH_PREFIX, Note, sign_note
from vaults.models import TenantKey
from vaults.recovery_keys import finish_test, register_customer_key, start_test

API = "/api/v1/"


def ask_for(kind: str, tenant: Tenant | None = None) -> None:
    ApprovalRule.objects.update_or_create(tenant=tenant, kind=kind, defaults={"required": True})


def client_of(person: Person) -> APIClient:
    client = APIClient()
    client.force_login(person)
    return client


def asked_then_done(act: Callable[[], Any], approver: APIClient, *, done: int) -> ApprovalRequest:
    """The action is refused, approved by the other, done once, and refused again."""
    refused = act()
    assert refused.status_code == 409 and refused.json()["code"] == "approval_needed"
    address = refused.json()["approval_url"]
    assert approver.get(address).json()["status"] == "pending"
    assert approver.post(address + "approve/").status_code == 200
    assert act().status_code == done
    request = ApprovalRequest.objects.get(pk=refused.json()["approval"])
    assert request.status == "used"
    return request


@pytest.mark.case("AZ-18")
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (ApprovalKind.RETENTION_SHORTEN, {"retention_count": 3}),
        (ApprovalKind.LOCK_SHORTEN, {"immutable_days": 20}),
        (ApprovalKind.LOCK_SHORTEN, {"immutable_days": None}),
    ],
)
def test_shortening_a_definition(world: World, kind: str, change: dict[str, Any]) -> None:
    definition, second = world.ours.definition, make_person(administers=[world.ours.tenant])
    definition.immutable_days = 30
    definition.save()
    ask_for(kind)

    request = asked_then_done(
        lambda: world.client("admin_a").patch(f"{API}definitions/{definition.pk}/", change),
        client_of(second),
        done=200,
    )

    definition.refresh_from_db()
    assert [getattr(definition, name) for name in change] == list(change.values())
    assert request.tenant_id == world.ours.tenant.pk


@pytest.mark.parametrize("change", [{"retention_count": 30}, {"immutable_days": 60}, {"description": "x"}])
def test_keeping_more_asks_nobody(world: World, change: dict[str, Any]) -> None:
    ask_for(ApprovalKind.RETENTION_SHORTEN)
    ask_for(ApprovalKind.LOCK_SHORTEN)

    assert world.client("admin_a").patch(f"{API}definitions/{world.ours.definition.pk}/", change).status_code == 200


def test_the_definition_stays_as_it_was_until_then(world: World) -> None:
    ask_for(ApprovalKind.RETENTION_SHORTEN, world.ours.tenant)
    before = world.ours.definition.retention_count

    world.client("admin_a").patch(
        f"{API}definitions/{world.ours.definition.pk}/", {"retention_count": 1, "description": "changed"}
    )

    world.ours.definition.refresh_from_db()
    assert (world.ours.definition.retention_count, world.ours.definition.description) == (before, "")


def test_the_rule_of_one_tenant_does_not_hold_in_another(world: World) -> None:
    ask_for(ApprovalKind.RETENTION_SHORTEN, world.ours.tenant)
    address = f"{API}definitions/{world.theirs.definition.pk}/"

    assert world.client("admin_b").patch(address, {"retention_count": 1}).status_code == 200


def test_the_portal_asks_as_well_and_says_so(world: World) -> None:
    ask_for(ApprovalKind.RETENTION_SHORTEN)
    definition = world.ours.definition
    client = Client()
    client.force_login(world.people["admin_a"])

    answer = client.post(
        f"/definitions/{definition.pk}/edit/",
        {"cron": definition.cron, "time_zone": "UTC", "retention_count": 1, "active": "on"},
    )

    [request] = ApprovalRequest.objects.filter(requested_by=world.people["admin_a"])
    assert answer.status_code == 400 and str(request.pk) in answer.content.decode()
    definition.refresh_from_db()
    assert definition.retention_count != 1


@pytest.mark.case("AZ-18")
def test_deleting_a_tenant(world: World) -> None:
    ask_for(ApprovalKind.TENANT_DELETE)
    tenant = world.ours.tenant
    second = make_person(superadmin=True)

    asked_then_done(
        lambda: world.client("super").post(f"{API}tenants/{tenant.pk}/deletion/", {"confirmation": tenant.name}),
        client_of(second),
        done=202,
    )

    tenant.refresh_from_db()
    assert tenant.status == Tenant.Status.DELETING


def test_restoring_to_a_server_of_other_owners(world: World) -> None:
    ask_for(ApprovalKind.RESTORE_ACROSS_OWNERS)
    second = make_person(administers=[world.ours.tenant])
    world.ours.job.delete()
    body = {"target": str(disk_of(world.ours.other_server).pk), "confirmation": world.ours.other_server.name}

    asked_then_done(
        lambda: world.client("admin_a").post(f"{API}backups/{world.ours.backup.pk}/restore/", body),
        client_of(second),
        done=202,
    )


def test_restoring_within_one_ownership_asks_nobody(world: World) -> None:
    ask_for(ApprovalKind.RESTORE_ACROSS_OWNERS)
    owner = make_person()
    source, target = make_server(world.ours.tenant), make_server(world.ours.tenant)
    for server in (source, target):
        grant_server_ownership(person=owner, server=server)
    backup = make_backup(source)

    def restore(to: Any) -> Job:
        return request_restore(
            backup=backup,
            target=disk_of(to),
            confirmation=to.name,
            actor=world.people["admin_a"],
            now=timezone.now(),
        )

    assert restore(source).pk and restore(target).pk

    grant_server_ownership(person=make_person(), server=target)
    Job.objects.all().delete()
    with pytest.raises(ApprovalNeededError):
        restore(target)


def test_restoring_what_another_tenant_or_nobody_owns_asks(world: World) -> None:
    ask_for(ApprovalKind.RESTORE_ACROSS_OWNERS)
    source = make_server(world.ours.tenant)
    backup = make_backup(source)
    gone = make_backup(source)
    Backup.objects.filter(pk=gone.pk).update(server=None)
    gone.refresh_from_db()

    for found, target in ((backup, make_server(world.theirs.tenant)), (gone, source)):
        with pytest.raises(ApprovalNeededError):
            request_restore(
                backup=found,
                target=disk_of(target),
                confirmation=target.name,
                actor=world.people["super"],
                now=timezone.now(),
            )


@pytest.mark.case("AZ-18")
def test_showing_a_recovery_key_is_refused_by_the_signer_itself(db: None, settings: Any) -> None:
    settings.ROOT_URLCONF = "backupsite.gate_urls"
    with key_world() as keys:
        first, second = make_person("first", administers=[keys.tenant]), make_person(administers=[keys.tenant])
        ask_for(ApprovalKind.KEY_EXPORT)
        receiver = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
        note = Note(verb="show", person=str(first.pk), key=str(keys.key.pk), receiver=receiver, address="203.0.113.9")

        def show() -> Any:
            return Client().post(f"{PATH_PREFIX}show", sign_note(note), content_type="application/octet-stream")

        refused = show()
        assert (refused.status_code, refused.json()["code"]) == (409, "approval_needed")
        keys.key.refresh_from_db()
        assert keys.key.shown_at is None
        request = ApprovalRequest.objects.get()
        assert str(request.pk) in refused.json()["message"]

        settings.ROOT_URLCONF = "backupsite.urls"
        assert client_of(second).post(f"{API}approvals/{request.pk}/approve/").status_code == 200
        settings.ROOT_URLCONF = "backupsite.gate_urls"
        assert show().status_code == 200

    [event] = AuditEvent.objects.filter(action="key.show")
    assert (event.actor_name, event.address, event.tenant_id) == ("first", "203.0.113.9", keys.tenant.pk)


def test_putting_the_customers_own_key_into_use(db: None) -> None:
    with key_world() as keys:
        first = make_person(administers=[keys.tenant])
        recovery = RecoveryKey(private_key_of(keys.key), key_fingerprint(catalogue_key_of(keys.tenant.pk).public))
        own = register_customer_key(keys.tenant, public_key="09" + "00" * 31, actor=first)
        TenantKey.objects.filter(pk=own.pk).update(public_key=bytes(keys.key.public_key))
        own.refresh_from_db()
        ask_for(ApprovalKind.KEY_REPLACE)
        answer = answer_challenge(recovery, decode_challenge(start_test(own)))

        with pytest.raises(ApprovalNeededError):
            finish_test(own, answer=answer, actor=first, now=timezone.now())

        own.refresh_from_db()
        assert own.status == TenantKey.Status.UNTESTED and own.test_digest


def test_the_same_idempotency_key_does_not_hide_that_it_may_be_done_now(world: World) -> None:
    ask_for(ApprovalKind.RETENTION_SHORTEN)
    second = make_person(administers=[world.ours.tenant])
    headers = {"Idempotency-Key": "once"}

    asked_then_done(
        lambda: world.client("admin_a").patch(
            f"{API}definitions/{world.ours.definition.pk}/", {"retention_count": 2}, headers=headers
        ),
        client_of(second),
        done=200,
    )


def test_rules_through_the_api(world: World) -> None:
    client, tenant = world.client("admin_a"), str(world.ours.tenant.pk)

    made = client.post(f"{API}approval-rules/", {"kind": "key.export", "tenant": tenant})
    assert made.status_code == 201 and made.json()["required"] is True
    address = f"{API}approval-rules/{made.json()['id']}/"

    refused = client.patch(address, {"required": False})
    assert refused.json()["code"] == "approval_needed"
    assert world.client("super").post(refused.json()["approval_url"] + "approve/").status_code == 200
    assert client.patch(address, {"required": False}).json()["required"] is False

    assert client.post(f"{API}approval-rules/", {"kind": "key.export"}).status_code == 403
    assert client.post(f"{API}approval-rules/", {"kind": "approvals.off", "tenant": tenant}).status_code == 400


def test_the_pages_approve_and_switch(world: World) -> None:
    approver = Client()
    approver.force_login(world.people["admin_a"])

    page = approver.get("/approvals/").content.decode()
    assert str(world.ours.approval) in page and "Approve" in page
    approver.post(f"/approvals/{world.ours.approval.pk}/approve/")
    world.ours.approval.refresh_from_db()
    assert world.ours.approval.status == "approved"

    switched = approver.post(
        "/approvals/rules/", {"kind": "key.export", "tenant": world.ours.tenant.pk, "required": "on"}
    )
    assert switched.status_code == 302
    assert ApprovalRule.objects.get(kind="key.export", tenant=world.ours.tenant).required
    assert "Switch off" in approver.get("/approvals/").content.decode()
    off = {"kind": "key.export", "tenant": world.ours.tenant.pk, "required": "off"}
    assert "second person" in approver.post("/approvals/rules/", off, follow=True).content.decode()
    assert ApprovalRule.objects.get(kind="key.export", tenant=world.ours.tenant).required


@pytest.mark.parametrize(("name", "status"), [("owner_a1", 403), ("admin_b", 404), ("anonymous", 302)])
def test_the_page_for_rules_is_not_for_everybody(world: World, name: str, status: int) -> None:
    client = world.client(name)

    answer = client.post(
        "/approvals/rules/",
        {"kind": "key.export", "tenant": str(world.ours.tenant.pk), "required": "on"},
        format="multipart",
    )

    assert answer.status_code == status
    assert not ApprovalRule.objects.filter(required=True).exists()
