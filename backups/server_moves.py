"""Moving a server to another tenant, with its backups.

Rows change hands; bytes do not. What was backed up before lies where it is, under locks that nobody can move and sealed
to the former tenant's key: those domains are `held_for` the new tenant, which sees and restores the backups and is
charged for them. The next backup opens a new domain in a vault of the new tenant, so it is a full one.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from agents.models import Agent, Disk, Server, ServerGroupPermission, ServerUserPermission
from backups.accounting import bytes_in, copied_bytes, domains_of
from backups.models import Backup, DefinitionStanding, Job
from backups.queue import hint_description
from common.confirming import refuse_unconfirmed
from common.errors import ConflictError, NotAllowedError
from definitions.models import Definition, DefinitionPause, EarlierSchedule
from definitions.policies import apply_to_servers
from definitions.services import check_caps
from tenants import quotas
from tenants.audit import record
from tenants.models import Person, QuotaKind, Tenant
from tenants.services import require_active
from vaults.custody import restore_needs_customer_key
from vaults.models import Domain, Vault
from vaults.services import place_vault


@transaction.atomic
def move_server(*, server: Server, tenant: Tenant, confirmation: str, actor: Person) -> Server:
    """Give the server with all that belongs to it to the other tenant. The rights of persons on it end.

    Raises NotAllowedError unless the actor is a SuperAdmin, InvalidInputError without the server's name as
    confirmation, ConflictError while a job is under way, for a name that is taken there, or for backups that only the
    former tenant's own key opens, QuotaError, TenantSuspendedError, ApprovalNeededError where the policy that counts
    for it then keeps fewer backups, or locks shorter, and a rule asks for a second person.
    """
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin moves servers between tenants.")
    lost = "The former tenant loses the server with all its backups."
    refuse_unconfirmed(confirmation, name=server.name, of="the server", lost=lost)
    former = _hold(server, tenant)
    _refuse(server, tenant)
    _check_quotas(server, tenant)
    moved = _move_rows(server, tenant)
    # What the former tenant was given does not go with it: what counts for it now is given at once.
    apply_to_servers([server], now=timezone.now(), actor=actor)
    _take_rights(server)
    _describe_soon(server)
    told = {"tenant": str(tenant.pk), "tenant_name": tenant.name, **moved}
    before = {"tenant": str(former.pk), "tenant_name": former.name}
    # Both tenants can read that it happened.
    record(action="server.move", subject=server, actor=actor, tenant=former, before=before, after=told)
    record(action="server.move", subject=server, actor=actor, tenant=tenant, before=before, after=told)
    return server


def _hold(server: Server, tenant: Tenant) -> Tenant:
    """Row locks on everything that a new job would have to read first; returns the former tenant.

    Tenants by their keys: two moves in opposite directions do not wait for each other.
    """
    list(Tenant.objects.select_for_update(no_key=True).filter(pk__in=[server.tenant_id, tenant.pk]).order_by("pk"))
    held = Server.objects.select_for_update(of=("self",), no_key=True).select_related("tenant").get(pk=server.pk)
    if held.tenant_id != server.tenant_id:
        raise ConflictError("The server was moved meanwhile. Look again.", code="changed_meanwhile")
    if held.tenant_id == tenant.pk:
        raise ConflictError(f"The server is of {tenant.name} already.", code="same_tenant")
    list(Definition.objects.select_for_update(no_key=True, of=("self",)).filter(disk__server=server).order_by("pk"))
    list(Backup.objects.select_for_update(no_key=True, of=("self",)).filter(server=server).order_by("pk").only("pk"))
    former: Tenant = held.tenant
    return former


def _refuse(server: Server, tenant: Tenant) -> None:
    require_active(tenant)
    busy = Job.objects.active().filter(Q(disk__server=server) | Q(backup__server=server))
    if busy.exists():
        raise ConflictError(f"A job of {server.name} waits or runs. Let it end, or cancel it.", code="server_busy")
    if Server.objects.filter(tenant=tenant, name=server.name).exists():
        raise ConflictError(f"{tenant.name} has a server of this name. Rename one first.", code="name_taken")
    for backup in _restorable(server):
        if backup.manifest is not None and restore_needs_customer_key(backup.manifest):
            raise ConflictError(
                f"Only the present tenant's own key opens the backup {backup.name}: the other tenant could never "
                "restore it. Delete such backups first; the stand-alone tool restores them as long as they are locked.",
                code="customer_key_needed",
            )


def _restorable(server: Server) -> list[Backup]:
    found = Backup.objects.in_catalogue().filter(server=server, manifest__isnull=False)
    return list(found.select_related("manifest__domain"))


def _check_quotas(server: Server, tenant: Tenant) -> None:
    quotas.check(tenant=tenant, kind=QuotaKind.SERVERS)
    if Agent.objects.filter(server=server).exclude(status=Agent.Status.REVOKED).exists():
        quotas.check(tenant=tenant, kind=QuotaKind.AGENTS)
    quotas.check(tenant=tenant, kind=QuotaKind.DEFINITIONS_PER_SERVER, adding=0, within=server)
    quotas.check(tenant=tenant, kind=QuotaKind.BYTES, adding=bytes_in(domains_of(server)) + copied_bytes(server))
    for definition in Definition.objects.filter(disk__server=server).select_related("vault"):
        check_caps(definition, ["immutable_days", "retention_count"], tenant=tenant)


def _move_rows(server: Server, tenant: Tenant) -> dict[str, int]:
    """Everything that says whose it is. Returns how many rows of what."""
    domains = domains_of(server)
    vault = place_vault(tenant=tenant, region_code=server.region_id, actor=None)
    disks = Disk.objects.filter(server=server)
    if server.node is not None:
        server.node.tenants.add(tenant)
    for disk in disks.exclude(storage=None).select_related("storage"):
        disk.storage.tenants.add(tenant)
    moved = {
        "disks": disks.update(tenant=tenant),
        "backups": Backup.objects.filter(server=server).update(tenant=tenant),
        "definitions": _move_definitions(server, tenant, vault),
        "jobs": Job.objects.filter(Q(disk__server=server) | Q(disk=None, backup__server=server)).update(tenant=tenant),
    }
    DefinitionPause.objects.filter(definition__disk__server=server).update(tenant=tenant)
    # Of a restore across what are two tenants now, the text stays and the link goes: neither sees the other's.
    crossing = Job.objects.filter(Q(disk__server=server) | Q(backup__server=server)).exclude(
        backup__tenant_id=F("tenant_id")
    )
    crossing.filter(backup__isnull=False).update(backup=None)
    Domain.objects.filter(pk__in=domains).exclude(tenant=tenant).update(held_for=tenant)
    # One that came back to where it was before goes on in its domain there.
    home = Domain.objects.filter(pk__in=domains, tenant=tenant)
    home.update(held_for=None)
    server.tenant, server.domain = tenant, home.filter(vault=vault).order_by("-created_at").first()
    server.save(update_fields=["tenant", "domain", "changed_at"])
    return moved


def _move_definitions(server: Server, tenant: Tenant, vault: Vault) -> int:
    """Those that write to a storage go on there: it is attached to the new tenant, too."""
    definitions = Definition.objects.filter(disk__server=server)
    for definition in definitions.exclude(storage=None).select_related("storage", "backup_node"):
        definition.storage.tenants.add(tenant)
        definition.backup_node.tenants.add(tenant)
    definitions.exclude(vault=None).update(vault=vault)
    EarlierSchedule.objects.filter(definition__disk__server=server).update(tenant=tenant)
    # The former tenant was told of what stands against them; this one was not.
    DefinitionStanding.objects.filter(definition__disk__server=server).update(told=[])
    return definitions.update(tenant=tenant)


def _take_rights(server: Server) -> None:
    ServerUserPermission.objects.filter(content_object=server).delete()
    ServerGroupPermission.objects.filter(content_object=server).delete()


def _describe_soon(server: Server) -> None:
    """The buckets say whose the backups are now: a catalogue that is made again from them gives them to nobody else."""
    keys = sorted(domains_of(server))
    transaction.on_commit(lambda: [hint_description(key) for key in keys])
