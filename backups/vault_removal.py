"""Removing a vault that nothing uses any more: no new backups go in, and after seven days its rest goes.

    request_vault_removal   refused with the reasons while something uses the vault or a lock in it stands
    advance_vault_removals  daily, after the delay: backups leave the catalogue, removal takes the bytes; the rows last

Bytes leave the vault by the removal that they always leave by. Should something use the vault again meanwhile, nothing
more goes until it does not.
"""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import transaction
from django.db.models import Max, Q

from agents.models import Server
from backups.models import Backup, Job
from backups.remains import remains_of_vault
from backups.tenant_removal import take_out_unlocked
from common.confirming import refuse_unconfirmed
from common.errors import ConflictError, NotAllowedError
from definitions.models import Definition
from tenants import approvals
from tenants.approval_states import ApprovalKind
from tenants.audit import record
from tenants.lifecycle import UNDO_PERIOD
from tenants.models import Person, Tenant
from vaults.models import Domain, ObjectUse, Removal, StoredObject, Vault, VaultDeletion

logger = logging.getLogger(__name__)


@transaction.atomic
def request_vault_removal(
    *, vault: Vault, confirmation: str, reason: str, actor: Person, now: datetime
) -> VaultDeletion:
    """Begin. Raises NotAllowedError unless the actor is a SuperAdmin, InvalidInputError without the vault's name,
    ConflictError while something uses it (`vault_in_use`), a lock stands (`vault_locked`) or it is being removed."""
    _refuse_others(actor)
    refuse_unconfirmed(confirmation, name=vault.name, of="the vault", lost="Its backups go with it.")
    # Whoever is about to refer to the vault is waited for.
    held = Vault.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=vault.pk)
    if VaultDeletion.objects.filter(vault=held).exists():
        raise ConflictError(f"The vault {held.name} is being removed already.", code="vault_leaving")
    _refuse_used(held)
    _refuse_locked(held, now=now)
    approvals.require(kind=ApprovalKind.VAULT_REMOVE, subject=held, actor=actor, tenant=held.tenant, now=now)
    deletion = VaultDeletion.objects.create(
        vault=held,
        tenant=held.tenant,
        name=held.name,
        requested_by=actor,
        requested_by_name=str(actor)[:150],
        reason=reason,
        requested_at=now,
        undo_until=now + UNDO_PERIOD,
    )
    record(action="vault.remove.begin", subject=held, actor=actor, tenant=held.tenant, after={"reason": reason})
    return deletion


@transaction.atomic
def undo_vault_removal(*, vault: Vault, actor: Person, now: datetime) -> None:
    """The vault is as it was. Raises ConflictError after the delay, or when nothing is to be undone."""
    _refuse_others(actor)
    deletion = VaultDeletion.objects.select_for_update().filter(vault=vault).first()
    if deletion is None:
        raise ConflictError(f"The vault {vault.name} is not being removed.", code="vault_not_leaving")
    if now >= deletion.undo_until:
        raise ConflictError("The delay is over: what is removed cannot be brought back.", code="undo_too_late")
    deletion.delete()
    record(action="vault.remove.undo", subject=vault, actor=actor, tenant=vault.tenant)


def uses_of_vault(vault: Vault) -> list[str]:
    """What keeps the vault from being removed, each as a sentence; empty when nothing does."""
    found = []
    definitions = Definition.objects.filter(vault=vault).select_related("disk__server").order_by("name")
    if count := definitions.count():
        named = ", ".join(f"{each.name} of {each.disk.server.name}" for each in definitions[:3])
        found.append(f"{count} definition{'s' if count > 1 else ''} write into it: {named}.")
    jobs = Job.objects.active().filter(Q(backup__vault=vault) | Q(definition__vault=vault)).distinct().count()
    if jobs:
        found.append(f"{jobs} job{'s' if jobs > 1 else ''} of it wait or run.")
    if _holds_others(vault):
        found.append("Backups of servers that were moved to other tenants lie in it.")
    if vault.tenant.status in (Tenant.Status.DELETING, Tenant.Status.DELETED):
        found.append("Its tenant is being deleted, and the vault with it.")
    return found


def _holds_others(vault: Vault) -> bool:
    """By the two ends of an index: all backups of a vault would be read for one of another tenant than its own."""
    tenants = (
        Backup.objects.in_catalogue().filter(vault=vault).order_by("tenant_id").values_list("tenant_id", flat=True)
    )
    return not {tenants.first(), tenants.last()} <= {None, vault.tenant_id}


def _refuse_others(actor: Person) -> None:
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin removes vaults.")


def _refuse_used(vault: Vault) -> None:
    uses = uses_of_vault(vault)
    if uses:
        raise ConflictError(f"The vault {vault.name} is in use. {' '.join(uses)}", code="vault_in_use")


def _refuse_locked(vault: Vault, *, now: datetime) -> None:
    promised = Backup.objects.in_catalogue().filter(vault=vault).aggregate(last=Max("immutable_until"))["last"]
    ends = [end for end in (remains_of_vault(vault).last_lock_ends, promised) if end is not None and end > now]
    if ends:
        raise ConflictError(
            f"Locks in the vault {vault.name} stand until {max(ends):%Y-%m-%d %H:%M} UTC, and nobody can shorten them.",
            code="vault_locked",
        )


# --- step by step -----------------------------------------------------------------------------------------------------


def advance_vault_removals(*, now: datetime) -> int:
    """One step for every vault whose delay is over. Returns how many are gone. May run at any time, and twice."""
    due = VaultDeletion.objects.filter(vault__isnull=False, finished_at=None, undo_until__lte=now)
    return sum(_advance(deletion, now=now) for deletion in due.select_related("vault__tenant").order_by("requested_at"))


def _advance(deletion: VaultDeletion, *, now: datetime) -> bool:
    vault = deletion.vault
    if vault is None or uses_of_vault(vault):
        logger.warning("a vault that is to go is in use", extra={"vault": deletion.name})
        return False
    take_out_unlocked(Backup.objects.filter(vault=vault), now=now)
    with transaction.atomic():
        Vault.objects.select_for_update().get(pk=vault.pk)
        # Looked at again, now that nothing can be added.
        if uses_of_vault(vault) or not remains_of_vault(vault).is_nothing:
            return False
        facts = {"bucket": vault.bucket, "region": vault.endpoint.region_id}
        record(action="vault.remove.finish", subject=vault, tenant=vault.tenant, before=facts)
        _remove_rows(vault)
        VaultDeletion.objects.filter(pk=deletion.pk).update(finished_at=now, reason="")
    logger.info("vault removed", extra={"vault": deletion.name})
    return True


def _remove_rows(vault: Vault) -> None:
    """The vault's rows, with the keys of its domains: no copy of the bytes opens again."""
    domains = Domain.objects.filter(vault=vault)
    objects = StoredObject.objects.filter(vault=vault)
    Backup.objects.filter(vault=vault, removed_at__isnull=False).delete()
    Removal.objects.filter(stored_object__in=objects).delete()
    ObjectUse.objects.filter(Q(manifest__in=objects) | Q(needed__in=objects)).delete()
    objects.delete()
    Server.objects.filter(domain__in=domains).update(domain=None)
    domains.delete()
    vault.delete()
