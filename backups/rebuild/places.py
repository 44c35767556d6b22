"""The rows around the backups: tenant, vault, keys, domain, server and disks, as the domain's description names them.

Ids are those in the bucket, so the rows are the same ones again. May run any number of times.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db.models import Q

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
    # For the report: where the rows are not as the bucket says. Empty when they are.
    remark: str = ""


def make_places(
    found: OpenDomain, *, bucket: str, endpoint: Endpoint, recovery_key: RecoveryKey, stopped: str, now: datetime
) -> Places:
    """All rows but objects and backups. Raises InvalidInputError when what is there contradicts the bucket."""
    labels = found.description.labels
    if labels is None:
        raise InvalidInputError("The description was opened without its labels.")
    tenant = _tenant(UUID(found.place.tenant), title=labels.tenant_title)
    vault = _vault(tenant, labels, bucket=bucket, endpoint=endpoint, stopped=stopped)
    _tenant_key(tenant, recovery_key, now=now)
    ensure_keys(tenant)
    owner, remark = _owner(tenant, labels)
    domain = _domain(found, vault)
    _hold(domain, owner)
    node = _placeholder(vault, tenant, owner)
    for public_key in found.description.body.writers:
        WriterKey.objects.get_or_create(public_key=public_key, defaults={"node": node, "added_at": now})
    server, disks = _server(labels, domain, owner, node)
    return Places(vault, domain, server, disks, labels.vault.immutable_days, remark)


def _owner(tenant: Tenant, labels: Labels) -> tuple[Tenant, str]:
    """The tenant to whom the server was moved, else the vault's. What he is called is in his own vaults only.

    One who is deleted here gets nothing any more: what lies in the former tenant's vault was made while the server was
    that one's, so it is placed there, and a remark says so.
    """
    if labels.present_owner in ("", str(tenant.pk)):
        return tenant, ""
    owner = _tenant(UUID(labels.present_owner), title="")
    if owner.status != Tenant.Status.DELETED:
        return owner, ""
    return tenant, f"{owner.name}, to whom the server was moved, is deleted; its backups are {tenant.name}'s again"


def _hold(domain: Domain, owner: Tenant) -> None:
    """As a move does; a database that knows more than the bucket is believed. Who is deleted holds nothing."""
    Domain.objects.filter(pk=domain.pk, held_for__status=Tenant.Status.DELETED).update(held_for=None)
    if domain.tenant_id != owner.pk:
        Domain.objects.filter(pk=domain.pk, held_for=None).update(held_for=owner)


def _tenant(tenant_id: UUID, *, title: str) -> Tenant:
    """By its id, as it was; one that was made for a moved server alone gets its title when its own vault is read."""
    present = Tenant.objects.filter(pk=tenant_id).first()
    if present is not None:
        if title and present.title == present.name:
            Tenant.objects.filter(pk=tenant_id).update(title=title[:100])
        return present
    suffix = new_name_suffix()
    name = f"backup-tenant-{suffix}"
    tenant = Tenant(pk=tenant_id, suffix=suffix, name=name, title=title[:100] or name)
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


def _placeholder(vault: Vault, *tenants: Tenant) -> Node:
    node, _ = Node.objects.get_or_create(
        name=PLACEHOLDER,
        defaults={"region_id": vault.endpoint.region_id, "status": Node.Status.MAINTENANCE, "is_backup": False},
    )
    node.tenants.add(*tenants)
    return node


def _server(labels: Labels, domain: Domain, owner: Tenant, node: Node) -> tuple[Server, dict[str, Disk]]:
    """One that was moved has its present domain in the owner's vault, not here; it is known again by its disks."""
    own = domain if domain.tenant_id == owner.pk else None
    server = Server.objects.filter(domain=domain).first()
    server = server or _known_server(labels, domain, owner, lacks_domain=own is not None)
    if server is None:
        name = labels.server_name[:100] or "server"
        if Server.objects.filter(tenant=owner, name=name).exists():
            name = f"{name}-{str(domain.pk)[-12:]}"
        server = Server.objects.create(name=name, tenant=owner, region_id=node.region_id, node=node, domain=own)
    elif own is not None and server.domain_id is None:
        server.domain = own
        server.save(update_fields=["domain", "changed_at"])
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


def note_tree(disk: Disk) -> None:
    """Its backups hold files: what was made as a disk image, for want of a better word, is a tree of them."""
    made_here = Disk.objects.filter(pk=disk.pk, driver="image", storage__name=PLACEHOLDER)
    if made_here.update(driver="filesystem"):
        disk.driver = "filesystem"


def _known_server(labels: Labels, domain: Domain, owner: Tenant, *, lacks_domain: bool) -> Server | None:
    """By its disks, or by what an earlier run took in."""
    disks = Q(disks__in=[UUID(label.source_id) for label in labels.disks])
    known = Server.objects.filter(disks | Q(backups__manifest__domain=domain), tenant=owner)
    return (known.filter(domain=None) if lacks_domain else known).order_by("pk").first()
