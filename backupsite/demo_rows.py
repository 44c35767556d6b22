"""The rows of the demo: one tenant, two servers with a disk each, one person per role. Twice makes them once."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from agents.models import Disk, Node, Server, Storage
from agents.services import add_disk, add_server, grant_server_ownership
from tenants.models import ApiToken, Person, Tenant
from tenants.services import create_tenant, grant_tenant_administration
from tenants.token_limits import Scope
from tenants.tokens import NewToken, create_token

TENANT_TITLE = "Demo"
REGION = "RBX"
SOURCE, TARGET = "web01", "web02"
TOKEN_LABEL = "demo main job"  # noqa: S105  # a label
TOKEN_DAYS = 1
PERSONS = {"super": "SuperAdmin", "admin": "DCAdmin", "owner": "VmOwner"}


@transaction.atomic
def write_demo_rows(*, disk_size_bytes: int) -> dict[str, Any]:
    """Make what is missing; returns ids, logins and a fresh short-lived token of the DCAdmin for the main job."""
    passwords = _passwords(settings.CONFIG.data / "secrets" / "demo-logins.json")
    persons = {name: _person(name, passwords[name]) for name in PERSONS}
    tenant = Tenant.objects.filter(title=TENANT_TITLE).first() or create_tenant(title=TENANT_TITLE, actor=None)
    grant_tenant_administration(person=persons["admin"], tenant=tenant)
    disks = {name: _server_with_disk(tenant, name, disk_size_bytes) for name in (SOURCE, TARGET)}
    grant_server_ownership(person=persons["owner"], server=disks[SOURCE].server)
    vault = tenant.vaults.get()
    ApiToken.objects.filter(label=TOKEN_LABEL).delete()
    wanted = NewToken(label=TOKEN_LABEL, scope=Scope.ADMIN, may_restore=True, tenant=tenant, days=TOKEN_DAYS)
    _, token = create_token(person=persons["admin"], wanted=wanted, now=timezone.now())
    return {
        "tenant": tenant.name,
        "company": tenant.company.name,
        "vault": vault.name,
        "vault_id": str(vault.pk),
        "server_region": REGION,
        "vault_region": vault.endpoint.region_id,
        "disks": {name: {"id": str(disk.pk), "path": disk_path(disk)} for name, disk in disks.items()},
        "logins": [{"role": role, "username": name, "password": passwords[name]} for name, role in PERSONS.items()],
        "token": token,
    }


def disk_path(disk: Disk) -> str:
    return os.path.join(disk.storage.path, disk.path)


def _server_with_disk(tenant: Tenant, name: str, size_bytes: int) -> Disk:
    node = Node.objects.get(name=settings.CONFIG.node)
    server = Server.objects.filter(tenant=tenant, name=name).first()
    if server is None:
        server = add_server(tenant=tenant, name=name, region_code=REGION, node=node, actor=None)
    present = server.disks.filter(number=1).first()
    if present is not None:
        return present
    storage = Storage.objects.get(node=node, name="disks")
    return add_disk(
        server=server,
        number=1,
        driver="image",
        storage=storage,
        path=f"{name}-disk1.img",
        size_bytes=size_bytes,
        actor=None,
    )


def _person(name: str, password: str) -> Person:
    person = Person.objects.filter(username=name).first()
    if person is None:
        person = Person(username=name, is_superuser=name == "super", time_zone="Europe/Paris")
        person.set_password(password)
        person.save()
    return person


def _passwords(path: Path) -> dict[str, str]:
    """Made once per data folder, kept beside the other secrets."""
    if path.exists():
        return dict(json.loads(path.read_text()))
    passwords = {name: secrets.token_urlsafe(12) for name in PERSONS}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(passwords, file)
    return passwords
