"""Tenants with what belongs to each of them, nodes, servers, disks and definitions of the made-up fleet."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

from agents.models import HOST_DRIVER, Disk, Node, Server, Storage, WriterKey
from backupsite.installation import AFFINITY
from backupsite.seeding.rules import write_policies
from backupsite.seeding.shape import SERVERS_PER_AGENT, SERVERS_PER_FILE, SERVERS_PER_NODE, Shape, id_at
from backupsite.seeding.writing import Table
from definitions.models import Definition
from tenants.models import Company, Quota, QuotaKind, Tenant
from vaults.models import Affinity, Alarm, CatalogueKey, Domain, Endpoint, Region, TenantKey, Vault

GIB = 1024**3
NIGHT_SECONDS = 8 * 3600
# Long enough ago that everything came after it.
AGE = timedelta(days=400)
# Of each hundred disks so many have no definition, and of each hundred definitions so many are switched off.
UNPROTECTED_PERCENT, INACTIVE_PERCENT = 5, 4


@dataclass(slots=True)
class SeededServer:
    id: UUID
    tenant: int
    name: str
    # None: it has an agent.
    node: UUID | None
    domain: UUID
    disk: UUID
    size_bytes: int
    definition: UUID | None
    # Seconds after 22:00 at which it is backed up.
    offset: int
    # Where its backups lie as files; None: in the vault.
    copies: UUID | None = None


@dataclass(slots=True)
class Places:
    """What later rows refer to; tenants by their number, from 0."""

    tenants: list[UUID] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    companies: list[UUID] = field(default_factory=list)
    vaults: list[UUID] = field(default_factory=list)
    nodes: list[UUID] = field(default_factory=list)
    storages: list[UUID] = field(default_factory=list)
    policies: list[UUID] = field(default_factory=list)
    servers: list[SeededServer] = field(default_factory=list)
    # Index of the tenant's first server, and of the one behind its last.
    ranges: list[tuple[int, int]] = field(default_factory=list)


def write_places(shape: Shape, random: Random) -> Places:
    places, regions = Places(), _write_regions()
    places.policies = write_policies(shape, random, regions)
    _write_tenants(shape, random, places, regions)
    _write_servers(shape, random, places, regions)
    return places


def _write_regions() -> list[str]:
    codes = sorted({*AFFINITY, *AFFINITY.values()})
    Region.objects.bulk_create([Region(code=code, title=code) for code in codes])
    Affinity.objects.bulk_create(
        [Affinity(region_id=code, vault_region_id=AFFINITY[code]) for code in sorted(AFFINITY)]
    )
    Endpoint.objects.bulk_create([Endpoint(region_id=code, url="http://127.0.0.1:1") for code in codes])
    return sorted(AFFINITY)


def _write_tenants(shape: Shape, random: Random, places: Places, regions: list[str]) -> None:
    endpoints = dict(Endpoint.objects.values_list("region_id", "pk"))
    rows: dict[type, list[dict[str, Any]]] = {
        model: [] for model in (Tenant, Company, Vault, TenantKey, CatalogueKey, Quota, Alarm)
    }
    for number in range(shape.tenants):
        made = shape.at - AGE + timedelta(minutes=number)
        tenant, company, vault = (id_at(made, random) for _ in range(3))
        suffix, common = f"{number:06x}", {"created_at": made, "changed_at": made}
        name = f"backup-tenant-{suffix}"
        status = "suspended" if number % 100 == 99 else "active"
        reason = "unpaid" if status == "suspended" else ""
        title = f"Customer {number:05}"
        rows[Tenant].append(
            {
                "id": tenant,
                "suffix": suffix,
                "name": name,
                "title": title,
                "status": status,
                "status_reason": reason,
                **common,
            }
        )
        rows[Company].append({"id": company, "tenant_id": tenant, "name": f"vspc-tenant-{suffix}", **common})
        bucket = f"backup-vault-{suffix}"
        endpoint = endpoints[AFFINITY[regions[number % len(regions)]]]
        rows[Vault].append(
            {"id": vault, "tenant_id": tenant, "name": bucket, "endpoint_id": endpoint, "bucket": bucket}
            | {"status": "ready", "checked_at": shape.at, **common}
        )
        key = {"tenant_id": tenant, "public_key": random.randbytes(32), "wrapped_private_key": random.randbytes(60)}
        tested = made if number % 3 else None
        rows[TenantKey].append({"id": id_at(made, random), "shown_at": tested, "tested_at": tested, **key, **common})
        rows[CatalogueKey].append({"id": id_at(made, random), **key, **common})
        limit = {"kind": QuotaKind.SERVERS.value, "soft": None, "hard": 100_000}
        rows[Quota].append({"id": id_at(made, random), "tenant_id": tenant, **limit, **common})
        rows[Alarm] += _alarms(shape, random, vault) if number % 10 == 0 else []
        places.tenants.append(tenant)
        places.names.append(name)
        places.companies.append(company)
        places.vaults.append(vault)
    for model, lines in rows.items():
        Table(model, now=shape.at).write(lines)


def _alarms(shape: Shape, random: Random, vault: UUID) -> list[dict[str, Any]]:
    """One that stands, and two that are over."""
    lines = []
    for number in range(3):
        made = shape.at - timedelta(days=number + 1, seconds=random.randrange(86_400))
        over = made + timedelta(hours=3) if number else None
        lines.append(
            {"id": id_at(made, random), "vault_id": vault, "code": "settings_changed", "severity": 2}
            | {"message": "The bucket's settings are not what they were.", "seen_at": made, "cleared_at": over}
            | {"created_at": made, "changed_at": made}
        )
    return lines


def _write_servers(shape: Shape, random: Random, places: Places, regions: list[str]) -> None:
    _write_nodes(shape, random, places, regions)
    node_tenants: set[tuple[UUID, UUID]] = set()
    for tenant, count in enumerate(shape.servers_of_tenants()):
        first = len(places.servers)
        for number in range(count):
            place = (first + number) // SERVERS_PER_NODE
            node_tenants.add((place, places.tenants[tenant]))
            places.servers.append(_server(shape, random, places, tenant, first + number))
        places.ranges.append((first, len(places.servers)))
    _write_attachments(shape, places, node_tenants)
    _write_server_rows(shape, random, places, regions)
    _write_definitions(shape, random, places)


def _write_nodes(shape: Shape, random: Random, places: Places, regions: list[str]) -> None:
    """The nodes with their keys, and each one's storage."""
    made = shape.at - AGE
    count = shape.servers // SERVERS_PER_NODE + 1
    nodes, storages = [id_at(made, random) for _ in range(count)], [id_at(made, random) for _ in range(count)]
    places.nodes, places.storages = nodes, storages
    common = {"created_at": made, "changed_at": made}
    Table(Node, now=shape.at).write(
        {"id": node, "name": f"node-{number:05}", "region_id": regions[number % len(regions)], "status": "online"}
        | {
            "last_seen_at": shape.at,
            "drivers": {"image": "", "zfs": "There is no zfs."},
            "drivers_at": shape.at,
            **common,
        }
        for number, node in enumerate(nodes)
    )
    Table(Storage, now=shape.at).write(
        {"id": storage, "node_id": node, "name": "disks", "path": "/srv/disks", "kind": "ext4", **common}
        | {"total_bytes": 64 * GIB * 1024, "free_bytes": 9 * GIB * 1024, "measured_at": shape.at}
        for node, storage in zip(nodes, storages, strict=True)
    )
    Table(WriterKey, now=shape.at).write(
        {"node_id": node, "public_key": random.randbytes(32), "added_at": made} for node in nodes
    )


def _write_attachments(shape: Shape, places: Places, pairs: set[tuple[int, UUID]]) -> None:
    Table(Node.tenants.through, now=shape.at).write(
        {"node_id": places.nodes[node], "tenant_id": tenant} for node, tenant in sorted(pairs)
    )
    Table(Storage.tenants.through, now=shape.at).write(
        {"storage_id": places.storages[node], "tenant_id": tenant} for node, tenant in sorted(pairs)
    )


def _server(shape: Shape, random: Random, places: Places, tenant: int, number: int) -> SeededServer:
    node = number // SERVERS_PER_NODE
    # The first of each lot has an agent, and the second backs up to files.
    has_agent, is_copied = number % SERVERS_PER_AGENT == 0, number % SERVERS_PER_FILE == 1
    made = shape.at - AGE + timedelta(days=1, seconds=number)
    protected = random.randrange(100) >= UNPROTECTED_PERCENT
    return SeededServer(
        id=id_at(made, random),
        tenant=tenant,
        name=f"{random.choice(('web', 'db', 'app', 'mail'))}-{number:06}",
        node=None if has_agent else places.nodes[node],
        domain=id_at(made, random),
        disk=id_at(made, random),
        size_bytes=random.randrange(10, 2000) * GIB,
        definition=id_at(made, random) if protected else None,
        offset=random.randrange(NIGHT_SECONDS),
        copies=places.storages[node] if is_copied else None,
    )


def _write_server_rows(shape: Shape, random: Random, places: Places, regions: list[str]) -> None:
    storages = dict(zip(places.nodes, places.storages, strict=True))
    servers, now = places.servers, shape.at
    made = now - AGE + timedelta(days=2)
    common = {"created_at": made, "changed_at": made}
    Table(Domain, now=now).write(
        {"id": server.domain, "tenant_id": places.tenants[server.tenant], "vault_id": places.vaults[server.tenant]}
        | {"wrapped_id_key": b"seeded", "wrapped_map_key": b"seeded", **common}
        for server in servers
    )
    Table(Server, now=now).write(
        {"id": server.id, "name": server.name, "tenant_id": places.tenants[server.tenant], "node_id": server.node}
        | {"region_id": regions[server.tenant % len(regions)], "domain_id": server.domain}
        | {"created_at": made + timedelta(seconds=number), "changed_at": made}
        for number, server in enumerate(servers)
    )
    Table(Disk, now=now).write(
        {"id": server.disk, "server_id": server.id, "tenant_id": places.tenants[server.tenant], "number": 1}
        | {"size_bytes": server.size_bytes, "storage_id": storages[server.node] if server.node else None}
        | ({"driver": "image", "path": f"{server.name}.img"} if server.node else {"driver": HOST_DRIVER, "path": "/"})
        | {"created_at": made + timedelta(seconds=number), "changed_at": made}
        for number, server in enumerate(servers)
    )


def _write_definitions(shape: Shape, random: Random, places: Places) -> None:
    """Each second follows a policy."""
    now, made = shape.at, shape.at - AGE + timedelta(days=2)
    Table(Definition, now=now).write(
        {"id": server.definition, "name": "daily", "tenant_id": places.tenants[server.tenant]}
        | {"disk_id": server.disk, "vault_id": None if server.copies else places.vaults[server.tenant]}
        | ({"type": "file", "storage_id": server.copies, "backup_node_id": server.node} if server.copies else {})
        | {"policy_id": places.policies[number % len(places.policies)] if number % 2 else None}
        | {"cron": f"{server.offset // 60 % 60} {(22 + server.offset // 3600) % 24} * * *"}
        | {"active": random.randrange(100) >= INACTIVE_PERCENT}
        | {"next_run_at": now.replace(hour=22, minute=0) + timedelta(days=1, seconds=server.offset)}
        | {"created_at": made + timedelta(seconds=number), "changed_at": made}
        for number, server in enumerate(places.servers)
        if server.definition is not None
    )
