"""Verbs over nodes, servers and disks."""

from __future__ import annotations

from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import transaction
from guardian.shortcuts import assign_perm

from agents.drivers.registry import driver_names
from agents.models import Disk, Node, Server, Storage, WriterKey
from agents.new_disks import tell_of_new_disk
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from tenants import quotas
from tenants.audit import record, record_change
from tenants.models import Person, QuotaKind, Tenant
from tenants.querysets import OWN_SERVER
from tenants.services import enlist, require_active
from vaults.services import place_vault


def report_node(*, name: str, now: datetime, signing_public_key: bytes | None = None) -> None:
    """A worker of the node says that it is alive; one that starts also gives the key it signs with."""
    node = Node.objects.filter(name=name).first()
    if node is None:
        return
    if signing_public_key is not None:
        WriterKey.objects.get_or_create(public_key=signing_public_key, defaults={"node": node, "added_at": now})
    Node.objects.filter(pk=node.pk).update(last_seen_at=now)
    Node.objects.filter(pk=node.pk, status=Node.Status.OFFLINE).update(status=Node.Status.ONLINE)


@transaction.atomic
def add_server(*, tenant: Tenant, name: str, region_code: str, node: Node, actor: Person | None) -> Server:
    """Add a server and see that its tenant has a vault in the region that affinity gives."""
    if actor is not None and not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin adds servers.")
    require_active(tenant)
    quotas.check(tenant=tenant, kind=QuotaKind.SERVERS)
    server = Server(tenant=tenant, name=name, region_id=region_code, node=node)
    _clean(server)
    server.save(force_insert=True)
    node.tenants.add(tenant)
    place_vault(tenant=tenant, region_code=region_code, actor=actor)
    record(action="server.create", subject=server, actor=actor, after={"name": name, "region": region_code})
    return server


@transaction.atomic
def rename_server(*, server: Server, name: str, actor: Person) -> Server:
    """Change the name; backups keep the one that they were made under. Raises ConflictError when it is taken."""
    before = {"name": server.name}
    server.name = name.strip()
    if Server.objects.filter(tenant_id=server.tenant_id, name=server.name).exclude(pk=server.pk).exists():
        raise ConflictError("Another server of the tenant has this name.", code="name_taken", field="name")
    _clean(server)
    server.save(update_fields=["name", "changed_at"])
    record_change(action="server.rename", subject=server, actor=actor, before=before)
    return server


@transaction.atomic
def add_disk(
    *, server: Server, number: int, driver: str, storage: Storage, path: str, size_bytes: int, actor: Person | None
) -> Disk:
    """Add a disk. `path` is relative to the storage and may not leave it."""
    if actor is not None and not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin adds disks.")
    if driver not in driver_names():
        raise InvalidInputError(f"There is no driver {driver!r}; known: {', '.join(driver_names())}.", field="driver")
    if path.startswith("/") or ".." in path.split("/") or "\0" in path or not path:
        raise InvalidInputError("The path is relative to the storage and may not contain '..'.", field="path")
    if storage.node_id != server.node_id:
        raise InvalidInputError("The storage is on another node than the server.", field="storage")
    require_active(server.tenant)
    place = {"server": server, "tenant_id": server.tenant_id, "storage": storage}
    disk = Disk(**place, number=number, driver=driver, path=path, size_bytes=size_bytes)
    _clean(disk)
    disk.save(force_insert=True)
    storage.tenants.add(server.tenant_id)
    record(action="disk.create", subject=disk, actor=actor, after={"number": number, "driver": driver, "path": path})
    tell_of_new_disk(disk)
    return disk


@transaction.atomic
def grant_server_ownership(*, person: Person, server: Server, actor: Person | None = None) -> None:
    """Make the person a VmOwner of the server. May be called twice."""
    assign_perm(OWN_SERVER, person, server)
    enlist(person=person, tenant=server.tenant)
    record(
        action="role.grant",
        subject=person,
        actor=actor,
        tenant=server.tenant,
        after={"role": "VmOwner", "server": str(server.pk), "server_name": server.name},
    )


def _clean(instance: Server | Disk) -> None:
    try:
        instance.full_clean()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInputError(" ".join(messages), field=None if field == "__all__" else field) from error
