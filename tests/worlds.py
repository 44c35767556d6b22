"""Two tenants with everything in them, and everybody who may or may not see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.utils import timezone
from rest_framework.test import APIClient

from agents.models import Node, Server, Storage
from backups.models import Backup, Job
from backups.states import JobKind
from definitions.models import Definition
from tenants.models import Person, Tenant
from tests.factories import (
    disk_of,
    make_backup,
    make_definition,
    make_job,
    make_person,
    make_server,
    make_tenant,
    make_tenant_key,
)
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
            client.force_login(person)
        return client


def make_estate(name: str) -> Estate:
    tenant = make_tenant(f"Tenant {name}")
    server = make_server(tenant, name=f"server-{name}-1")
    definition = make_definition(server, name=f"def-{name}")
    backup = make_backup(server, definition=definition)
    return Estate(
        tenant=tenant,
        server=server,
        definition=definition,
        backup=backup,
        job=make_job(server, definition=definition, backup=backup),
        restore=make_job(server, kind=JobKind.RESTORE, state="ok", backup=backup),
        other_server=make_server(tenant, name=f"server-{name}-2"),
        key=make_tenant_key(tenant, shown_at=timezone.now(), tested_at=timezone.now()),
        alarm=Alarm.objects.create(
            vault=Vault.objects.get(tenant=tenant), code="damaged_objects", message=f"of {name}", seen_at=timezone.now()
        ),
    )


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
