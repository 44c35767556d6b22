"""Two tenants with everything in them, and everybody who may or may not see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import time
from typing import Any

from django.utils import timezone
from rest_framework.test import APIClient

from agents.models import Agent, EnrolmentToken, Node, Release, Server, ServerOrder, Storage
from backups.models import AskedRestore, Backup, Budget, Job, StrayCopy
from backups.states import JobKind
from definitions.models import BlackoutWindow, Definition, DefinitionPause, Policy
from tenants.models import (
    ApiToken,
    ApprovalRequest,
    ApprovalRule,
    AuditEvent,
    Invitation,
    OutboxMessage,
    Person,
    Subscription,
    Tenant,
    Webhook,
)
from tests.factories import (
    disk_of,
    make_agent,
    make_approval_request,
    make_approval_rule,
    make_asked_restore,
    make_backup,
    make_budget,
    make_definition,
    make_delivery,
    make_enrolment_token,
    make_invitation,
    make_job,
    make_order,
    make_person,
    make_release,
    make_server,
    make_stray_copy,
    make_subscription,
    make_tenant,
    make_tenant_key,
    make_token,
    make_webhook,
)
from tests.signing_in import sign_in
from vaults.models import Alarm, TenantKey, Vault


@dataclass
class Estate:
    """One tenant's things: one of each model, with a second server that has an owner of its own."""

    tenant: Tenant
    server: Server
    definition: Definition
    backup: Backup
    job: Job
    restore: Job
    other_server: Server
    key: TenantKey
    alarm: Alarm
    # Somebody of the tenant, who owns its second server; and somebody who was asked to join.
    member: Person
    invitation: Invitation
    webhook: Webhook
    subscription: Subscription
    delivery: OutboxMessage
    # A rule that is off, and a request of the member that waits.
    rule: ApprovalRule
    budget: Budget
    # On the storage of the first server's disk, with a manifest that says it was the tenant's.
    stray: StrayCopy
    approval: ApprovalRequest
    # Of the member, who is nobody's peer; and the agent of the first server with its private key.
    token: ApiToken
    agent: Agent
    agent_key: bytes
    # Of the first server; the order was mailed, the restore waits.
    enrolment: EnrolmentToken
    order: ServerOrder
    asked: AskedRestore
    release: Release
    # Of the definition; at an hour at which no test runs; and followed by the definition, open.
    pause: DefinitionPause
    blackout: BlackoutWindow
    policy: Policy
    storage: Storage = field(init=False)

    def __post_init__(self) -> None:
        self.storage = disk_of(self.server).storage

    @property
    def vault(self) -> Vault:
        return Vault.objects.get(tenant=self.tenant)

    @property
    def node(self) -> Node:
        return self.server.node

    def object_of(self, resource: str) -> Any:
        named = {
            "tenants": self.tenant,
            "vaults": self.vault,
            "nodes": self.node,
            "storages": self.storage,
            "servers": self.server,
            "disks": disk_of(self.server),
            "definitions": self.definition,
            "backups": self.backup,
            "jobs": self.job,
            "restores": self.restore,
            "keys": self.key,
            "alarms": self.alarm,
            "audit": AuditEvent.objects.filter(tenant=self.tenant).order_by("pk").first(),
            "approvals": self.approval,
            "approval-rules": self.rule,
            "budgets": self.budget,
            "stray-copies": self.stray,
            "copies": self.stray,
            "tokens": self.token,
            "agents": self.agent,
            "enrolment-tokens": self.enrolment,
            "orders": self.order,
            "asked-restores": self.asked,
            "releases": self.release,
            "webhooks": self.webhook,
            "subscriptions": self.subscription,
            "deliveries": self.delivery,
            "people": self.member,
            "companies": self.tenant.company,
            "invitations": self.invitation,
            "regions": self.server.region,
            "pauses": self.pause,
            "blackouts": self.blackout,
            "policies": self.policy,
        }
        return named[resource]


@dataclass
class World:
    ours: Estate
    theirs: Estate
    people: dict[str, Person | None]

    def client(self, name: str) -> APIClient:
        client = APIClient()
        person = self.people[name]
        if person is not None:
            sign_in(client, person)
        return client


def make_estate(name: str) -> Estate:
    tenant = make_tenant(f"Tenant {name}")
    server = make_server(tenant, name=f"server-{name}-1")
    definition = make_definition(server, name=f"def-{name}")
    backup = make_backup(server, definition=definition)
    other_server = make_server(tenant, name=f"server-{name}-2")
    webhook = make_webhook(tenant)
    member = make_person(f"member_{name}", owns=[other_server])
    make_token(member)
    agent, agent_key = make_agent(server)
    return Estate(
        token=ApiToken.objects.get(person=member),
        agent=agent,
        agent_key=agent_key,
        enrolment=make_enrolment_token(server),
        order=make_order(server),
        asked=make_asked_restore(agent, backup),
        release=make_release(),
        webhook=webhook,
        subscription=make_subscription(tenant=tenant, address=f"team-{name}@example.com"),
        delivery=make_delivery(webhook),
        tenant=tenant,
        server=server,
        definition=definition,
        backup=backup,
        job=make_job(server, definition=definition, backup=backup),
        restore=make_job(server, kind=JobKind.RESTORE, state="ok", backup=backup),
        other_server=other_server,
        key=make_tenant_key(tenant, shown_at=timezone.now(), tested_at=timezone.now()),
        alarm=Alarm.objects.create(
            vault=Vault.objects.get(tenant=tenant), code="damaged_objects", message=f"of {name}", seen_at=timezone.now()
        ),
        member=member,
        rule=make_approval_rule(tenant),
        budget=make_budget(tenant),
        stray=make_stray_copy(server),
        approval=make_approval_request(definition, by=member),
        invitation=make_invitation(tenant),
        pause=DefinitionPause.objects.create(
            definition=definition, tenant=tenant, reason=f"pause {name}", starts_at=timezone.now()
        ),
        blackout=BlackoutWindow.objects.create(
            tenant=tenant, reason=f"blackout {name}", start=time(3), end=time(3, 1), weekdays="7"
        ),
        policy=_policy_of(definition, name),
    )


def _policy_of(definition: Definition, name: str) -> Policy:
    policy = Policy.objects.create(name=f"policy-{name}", restricted=False)
    Definition.objects.filter(pk=definition.pk).update(policy=policy)
    definition.refresh_from_db()
    return policy


def make_world() -> World:
    ours, theirs = make_estate("a"), make_estate("b")
    people = {
        "super": make_person("super", superadmin=True),
        "admin_a": make_person("admin_a", administers=[ours.tenant]),
        "admin_b": make_person("admin_b", administers=[theirs.tenant]),
        "owner_a1": make_person("owner_a1", owns=[ours.server]),
        "owner_a2": make_person("owner_a2", owns=[ours.other_server]),
        "disabled": make_person("disabled", superadmin=True, active=False, administers=[ours.tenant]),
        "anonymous": None,
    }
    return World(ours=ours, theirs=theirs, people=people)
