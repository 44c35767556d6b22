"""The rows around the backups: tenant, vault, keys, domain, server and disks, as the domain's description names them.

Ids are those in the bucket, so the rows are the same ones again. May run any number of times.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings

from agents.models import Disk, Node, Server, Storage, WriterKey
from common.errors import InvalidInputError
from common.ids import new_name_suffix
from engine.alone.catalogue import OpenDomain
from engine.crypto import tenant_key_from_private
from engine.description import Labels
from engine.recovery import RecoveryKey
from tenants.models import Company, Tenant
from vaults.custody import ensure_keys
from vaults.keys import ID_KEY_PURPOSE, MAP_KEY_PURPOSE, TENANT_KEY_PURPOSE, wrap_key
from vaults.models import Domain, Endpoint, TenantKey, Vault

# Servers whose nodes are not known yet belong to this one, which runs nothing.
PLACEHOLDER = "recovered"


@dataclass(frozen=True, slots=True)
class Places:
    """Where the backups of one domain belong. Disks by source id."""

    vault: Vault
    domain: Domain
    server: Server
    disks: dict[str, Disk]
    immutable_days: int


def make_places(
    found: OpenDomain, *, bucket: str, endpoint: Endpoint, recovery_key: RecoveryKey, stopped: str, now: datetime
) -> Places:
    """All rows but objects and backups. Raises InvalidInputError when what is there contradicts the bucket."""
    labels = found.description.labels
    if labels is None:
        raise InvalidInputError("The description was opened without its labels.")
    tenant = _tenant(UUID(found.place.tenant), labels)
    vault = _vault(tenant, labels, bucket=bucket, endpoint=endpoint, stopped=stopped)
    _tenant_key(tenant, recovery_key, now=now)
    ensure_keys(tenant)
    domain = _domain(found, vault)
    node = _placeholder(vault, tenant)
    for public_key in found.description.body.writers:
        WriterKey.objects.get_or_create(public_key=public_key, defaults={"node": node, "added_at": now})
    server, disks = _server(labels, domain, node)
    return Places(vault, domain, server, disks, labels.vault.immutable_days)


def _tenant(tenant_id: UUID, labels: Labels) -> Tenant:
    present = Tenant.objects.filter(pk=tenant_id).first()
    if present is not None:
        return present
    suffix = new_name_suffix()
    tenant = Tenant(pk=tenant_id, suffix=suffix, name=f"backup-tenant-{suffix}", title=labels.tenant_title[:100])
    tenant.full_clean()
    tenant.save(force_insert=True)
    Company.objects.create(tenant=tenant, name=f"vspc-tenant-{suffix}")
    return tenant


def _vault(tenant: Tenant, labels: Labels, *, bucket: str, endpoint: Endpoint, stopped: str) -> Vault:
    vault, _ = Vault.objects.get_or_create(
        endpoint=endpoint,
        bucket=bucket,
        defaults={
            "tenant": tenant,
            "name": bucket,
            "immutable_days": labels.vault.immutable_days,
            "status": Vault.Status.READY,
            "removal_stopped": stopped,
        },
    )
    if vault.tenant_id != tenant.pk:
        raise InvalidInputError(f"The bucket {bucket} is the vault of another tenant in this database.")
    # A vault that was there already: what another part or a person wrote there stays.
    Vault.objects.filter(pk=vault.pk, removal_stopped="").update(removal_stopped=stopped)
    return vault


def _tenant_key(tenant: Tenant, recovery_key: RecoveryKey, *, now: datetime) -> None:
    """The key that was typed becomes the tenant's managed key; it was tested by opening the bucket."""
    pair = tenant_key_from_private(recovery_key.tenant_private_key)
    keys = TenantKey.objects.filter(tenant=tenant)
    if any(bytes(key.public_key) == pair.public for key in keys):
        return
    wrapped = wrap_key(
        master_key=settings.CONFIG.master_key_bytes, key=pair.private, purpose=TENANT_KEY_PURPOSE, owner=tenant.pk
    )
    active = keys.filter(status=TenantKey.Status.ACTIVE).exists()
    status = TenantKey.Status.RETIRED if active else TenantKey.Status.ACTIVE
    TenantKey.objects.create(
        tenant=tenant, public_key=pair.public, wrapped_private_key=wrapped, status=status, tested_at=now, shown_at=now
    )


def _domain(found: OpenDomain, vault: Vault) -> Domain:
    domain_id = UUID(found.place.domain)
    present = Domain.objects.filter(pk=domain_id).first()
    if present is not None:
        return present
    master_key = settings.CONFIG.master_key_bytes
    keys = found.domain_keys
    return Domain.objects.create(
        pk=domain_id,
        tenant_id=vault.tenant_id,
        vault=vault,
        wrapped_id_key=wrap_key(master_key=master_key, key=keys.id_key, purpose=ID_KEY_PURPOSE, owner=domain_id),
        wrapped_map_key=wrap_key(master_key=master_key, key=keys.map_key, purpose=MAP_KEY_PURPOSE, owner=domain_id),
    )


def _placeholder(vault: Vault, tenant: Tenant) -> Node:
    node, _ = Node.objects.get_or_create(
        name=PLACEHOLDER,
        defaults={"region_id": vault.endpoint.region_id, "status": Node.Status.MAINTENANCE, "is_backup": False},
    )
    node.tenants.add(tenant)
    return node


def _server(labels: Labels, domain: Domain, node: Node) -> tuple[Server, dict[str, Disk]]:
    server = Server.objects.filter(domain=domain).first()
    if server is None:
        name = labels.server_name[:100] or "server"
        if Server.objects.filter(tenant_id=domain.tenant_id, name=name).exists():
            name = f"{name}-{str(domain.pk)[-12:]}"
        server = Server.objects.create(
            name=name, tenant_id=domain.tenant_id, region_id=node.region_id, node=node, domain=domain
        )
    storage, _ = Storage.objects.get_or_create(node=node, name=PLACEHOLDER, defaults={"path": "/nonexistent"})
    disks: dict[str, Disk] = {}
    for label in labels.disks:
        disk, _ = Disk.objects.get_or_create(
            pk=UUID(label.source_id),
            defaults={
                "server": server,
                "number": max(1, label.number),
                "driver": "image",
                "storage": storage,
                "path": f"{label.source_id}/{label.name}"[:300],
                "size_bytes": max(1, label.size_bytes),
            },
        )
        # A disk of another server here gets no backups of this one's domain.
        if disk.server_id == server.pk:
            disks[label.source_id] = disk
    return server, disks
