"""Verbs over nodes, servers and disks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from guardian.shortcuts import assign_perm

from agents.drivers.registry import content_of, driver_names
from agents.models import Disk, Node, Server, Storage, WriterKey
from agents.new_disks import tell_of_new_disk
from agents.program.surveying import StorageFacts
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from engine.manifest import CONTENT_DISK, CONTENT_TREE
from tenants import quotas
from tenants.audit import record, record_change
from tenants.models import Person, QuotaKind, Tenant
from tenants.notices import publish
from tenants.querysets import OWN_SERVER
from tenants.services import enlist, require_active
from vaults.services import place_vault

# A worker reports every 15 seconds: one that is late a few times is not gone.
SILENT_AFTER = timedelta(seconds=90)


def report_node(*, name: str, now: datetime, signing_public_key: bytes | None = None) -> None:
    """A worker of the node says that it is alive; one that starts also gives the key it signs with."""
    node = Node.objects.filter(name=name).first()
    if node is None:
        return
    if signing_public_key is not None:
        WriterKey.objects.get_or_create(public_key=signing_public_key, defaults={"node": node, "added_at": now})
    Node.objects.filter(pk=node.pk).update(last_seen_at=now)
    with transaction.atomic():
        if Node.objects.filter(pk=node.pk, status=Node.Status.OFFLINE).update(status=Node.Status.ONLINE):
            record(action="node.online", subject=node, actor=None)
            if node.last_seen_at is not None:
                _tell(node, "node.online", since=node.last_seen_at, now=now)


def report_survey(
    *, name: str, drivers: Mapping[str, str], storages: Mapping[UUID, StorageFacts], now: datetime
) -> None:
    """What the node's worker found: drivers with why they do not work, and its storages."""
    bounded = {driver[:32]: reason[:500] for driver, reason in drivers.items()}
    Node.objects.filter(name=name).update(drivers=bounded, drivers_at=now)
    for storage_id, facts in storages.items():
        Storage.objects.filter(pk=storage_id, node__name=name).update(
            kind=facts.kind[:32],
            total_bytes=facts.total_bytes,
            free_bytes=facts.free_bytes,
            problem=facts.problem[:200],
            seen_mark=facts.mark[:64],
            measured_at=now,
        )


def notice_silent_nodes(*, now: datetime) -> list[Node]:
    """Nodes whose workers were not heard of for a while are offline; those in maintenance stay that."""
    silent = Node.objects.filter(status=Node.Status.ONLINE, last_seen_at__lte=now - SILENT_AFTER)
    noticed = []
    for node in silent.order_by("pk"):
        with transaction.atomic():
            # It may have reported itself at this moment.
            if silent.filter(pk=node.pk).update(status=Node.Status.OFFLINE):
                record(action="node.offline", subject=node, actor=None, after={"last_seen_at": node.last_seen_at})
                _tell(node, "node.offline", since=node.last_seen_at, now=now)
                noticed.append(node)
    return noticed


def _tell(node: Node, event: str, *, since: datetime | None, now: datetime) -> None:
    """Of a node that goes and comes SuperAdmins are told once each."""
    facts = {"since": since.isoformat() if since else ""}
    publish(event=event, tenant=None, subject=node, facts=facts, cause=f"node:{node.pk}", at=now)


@transaction.atomic
def add_server(
    *, tenant: Tenant, name: str, region_code: str, node: Node | None, actor: Person | None, source_name: str = ""
) -> Server:
    """Add a server and see that its tenant has a vault in the region that affinity gives.

    `source_name` is what the node calls it, where its driver needs that: the UUID of a domain. Without a node it is
    one that gets an agent (`agents.enrolment`).
    """
    if actor is not None and not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin adds servers.")
    require_active(tenant)
    quotas.check(tenant=tenant, kind=QuotaKind.SERVERS)
    server = Server(tenant=tenant, name=name, region_id=region_code, node=node, source_name=source_name)
    _clean(server)
    server.save(force_insert=True)
    if node is not None:
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
def set_source_name(*, server: Server, source_name: str, actor: Person) -> Server:
    """Say what the node calls the server. Backups go on; the first after it reads everything when it is another one."""
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin says what a node calls a server.")
    before = {"source_name": server.source_name}
    server.source_name = source_name.strip()
    _clean(server)
    server.save(update_fields=["source_name", "changed_at"])
    record_change(action="server.source", subject=server, actor=actor, before=before)
    return server


@transaction.atomic
def add_disk(
    *,
    server: Server,
    number: int,
    driver: str,
    storage: Storage,
    path: str,
    size_bytes: int | None = None,
    actor: Person | None,
) -> Disk:
    """Add a disk. `path` is relative to the storage and may not leave it.

    Of a file tree or a stream nobody knows the size; its first backup tells it, and each one after that.
    """
    if actor is not None and not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin adds disks.")
    if driver not in driver_names():
        raise InvalidInputError(f"There is no driver {driver!r}; known: {', '.join(driver_names())}.", field="driver")
    if path.startswith("/") or ".." in path.split("/") or "\0" in path or not path:
        raise InvalidInputError("The path is relative to the storage and may not contain '..'.", field="path")
    if server.node_id is None:
        raise InvalidInputError("A server with an agent has one disk: all of it. Its agent makes it.", field="server")
    if storage.node_id != server.node_id:
        raise InvalidInputError("The storage is on another node than the server.", field="storage")
    if size_bytes is None and content_of(driver) == CONTENT_DISK:
        raise InvalidInputError("Say how many bytes the disk has.", code="required", field="size_bytes")
    require_active(server.tenant)
    refuse_overlap(storage, driver=driver, path=path, tenant=server.tenant)
    place = {"server": server, "tenant_id": server.tenant_id, "storage": storage}
    disk = Disk(**place, number=number, driver=driver, path=path, size_bytes=size_bytes or 1)
    _clean(disk)
    disk.save(force_insert=True)
    storage.tenants.add(server.tenant_id)
    record(action="disk.create", subject=disk, actor=actor, after={"number": number, "driver": driver, "path": path})
    tell_of_new_disk(disk)
    return disk


def refuse_overlap(storage: Storage, *, driver: str, path: str, tenant: Tenant) -> None:
    """ConflictError for a tree with files of another tenant in it, and for a disk inside of another tenant's tree."""
    own, is_tree = PurePosixPath(path), content_of(driver) == CONTENT_TREE
    for other_driver, other_path in storage.disks.exclude(tenant=tenant).values_list("driver", "path"):
        other = PurePosixPath(other_path)
        holds_other = is_tree and other.is_relative_to(own)
        if holds_other or (content_of(other_driver) == CONTENT_TREE and own.is_relative_to(other)):
            raise ConflictError(
                f"{path} and what another tenant has on {storage} lie in one another. Choose another path.",
                code="paths_overlap",
                field="path",
            )


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
