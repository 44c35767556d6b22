"""A server that stands in another region from now on, and what follows from that.

A server's data lies in one vault, and stays there: backups go on in it. Where that is in the new region itself, each
backup says so (`same_region`), as this change does. A server of which nothing lies in a vault yet gets the one that
affinity gives.
"""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from agents.models import Server
from backups.models import Job
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from definitions.models import Definition
from definitions.policies import apply_to_servers
from tenants.audit import record
from tenants.models import Person
from tenants.services import require_active
from vaults.models import Region, Vault
from vaults.services import endpoint_for, place_vault


@transaction.atomic
def change_region(*, server: Server, region_code: str, actor: Person) -> Vault | None:
    """Say where the server stands. Returns where its backups go from now on; None when it stood there already.

    The policy that counts for it then is given at once. Raises NotAllowedError unless the actor is a SuperAdmin;
    InvalidInputError for a region that is unknown, or that affinity has no place for; ConflictError where its vault
    would be another one and a job is under way, or that one is being removed; TenantSuspendedError, and
    ApprovalNeededError where the policy keeps fewer backups, or locks shorter, and a rule asks for a second person.
    """
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin says in which region a server stands.")
    if not Region.objects.filter(pk=region_code).exists():
        raise InvalidInputError(f"There is no region {region_code}.", code="unknown_region", field="region")
    require_active(server.tenant)
    servers = Server.objects.select_related("tenant", "domain__vault__endpoint")
    before = servers.select_for_update(of=("self",), no_key=True).get(pk=server.pk)
    if before.region_id == region_code:
        return None
    vault = _vault_in(before, region_code, actor=actor)
    server.region_id = region_code
    server.save(update_fields=["region", "changed_at"])
    apply_to_servers([server], now=timezone.now(), actor=actor)
    told = {"region": region_code, "vault": vault.name, "vault_region": vault.endpoint.region_id}
    told |= {"same_region": True} if stands_with(server, vault) else {}
    record(action="server.region", subject=server, actor=actor, before={"region": before.region_id}, after=told)
    return vault


def stands_with(server: Server, vault: Vault) -> bool:
    """Whether one fire takes both."""
    return bool(server.region_id == vault.endpoint.region_id)


def _vault_in(server: Server, region_code: str, *, actor: Person) -> Vault:
    if server.domain is not None:
        # Also for what lies elsewhere: a region without a place for vaults is none for servers.
        endpoint_for(region_code)
        return server.domain.vault
    vault = place_vault(tenant=server.tenant, region_code=region_code, actor=actor)
    definitions = Definition.objects.filter(disk__server=server)
    # A new job has to read them first.
    list(definitions.select_for_update(no_key=True, of=("self",)).order_by("pk"))
    moving = definitions.exclude(vault=None).exclude(vault=vault)
    if moving.exists() and Job.objects.active().filter(disk__server=server).exists():
        raise ConflictError(f"A job of {server.name} waits or runs. Let it end, or cancel it.", code="server_busy")
    moving.update(vault=vault)
    return vault
