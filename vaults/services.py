"""Verbs over vaults: place one for a tenant in the region that affinity gives."""

from __future__ import annotations

from django.db import transaction

from common.errors import ConflictError, InvalidInputError, NotAllowedError
from tenants.audit import record
from tenants.models import Person, Tenant
from vaults.models import Affinity, Endpoint, Vault, VaultDeletion
from vaults.tasks import prepare_vault


@transaction.atomic
def place_vault(*, tenant: Tenant, region_code: str, immutable_days: int = 14, actor: Person | None) -> Vault:
    """The tenant's vault for servers of the region; made when there is none yet. Doing it twice does it once.

    The bucket itself is made by the control worker; until then the vault is `pending`. Raises InvalidInputError when
    affinity or an endpoint is missing for the region.
    """
    if actor is not None and not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin places vaults.")
    endpoint = endpoint_for(region_code)
    present = Vault.objects.filter(tenant=tenant, endpoint=endpoint).first()
    if present is not None:
        refuse_leaving(present)
        return present
    name = _free_name(tenant)
    vault = Vault(tenant=tenant, name=name, bucket=name, endpoint=endpoint, immutable_days=immutable_days)
    vault.full_clean()
    vault.save(force_insert=True)
    facts = {"region": endpoint.region_id, "immutable_days": immutable_days}
    record(action="vault.create", subject=vault, actor=actor, after=facts)
    transaction.on_commit(lambda: prepare_vault.delay(vault_id=str(vault.id)))
    return vault


def refuse_leaving(vault: Vault) -> None:
    """Raise ConflictError for a vault that is being removed: nothing new goes in."""
    if VaultDeletion.objects.filter(vault=vault).exists():
        raise ConflictError(
            f"The vault {vault.name} is being removed. A SuperAdmin can undo that for a while.", code="vault_leaving"
        )


def _free_name(tenant: Tenant) -> str:
    """One that no vault of the tenant has, or had: buckets of removed vaults are still in the store."""
    base = f"backup-vault-{tenant.suffix}"
    used = {*Vault.objects.filter(name__startswith=base).values_list("name", flat=True)}
    used |= {*VaultDeletion.objects.filter(name__startswith=base).values_list("name", flat=True)}
    number = 1
    while (name := base if number == 1 else f"{base}-{number}") in used:
        number += 1
    return name


def endpoint_for(region_code: str) -> Endpoint:
    """The endpoint in the region where vaults of this region's servers must be."""
    affinity = Affinity.objects.filter(region_id=region_code).first()
    if affinity is None:
        raise InvalidInputError(
            f"No vault region is set for servers in {region_code}. A SuperAdmin adds it to the affinity table.",
            code="no_affinity",
            field="region",
        )
    endpoint = Endpoint.objects.filter(region_id=affinity.vault_region_id).first()
    if endpoint is None:
        raise InvalidInputError(
            f"There is no object storage in {affinity.vault_region_id}, where vaults for {region_code} must be.",
            code="no_endpoint",
            field="region",
        )
    return endpoint
