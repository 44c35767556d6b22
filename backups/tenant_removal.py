"""Deleting a tenant: at once its rights and schedules, its data as locks end, its keys last.

    request_tenant_deletion  suspended for good, rights taken; seven days to think better of it
    advance_deletions        daily: what retention would do, for everything whose lock is over; removal takes the bytes
    the last step            nothing is left in any vault: rows of vaults and keys go, a tombstone stays

No step shortens a lock, and none can: bytes leave a vault only by the removal that they always leave by. Private keys
are kept, wrapped, until nothing is left that they open.
"""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet

from agents.models import Disk, Server, ServerUserPermission
from agents.services import grant_server_ownership
from backups.catalogue import take_out
from backups.models import Backup, Job, TenantFigures
from backups.remains import remains_of
from backups.services import cancel_for_deletion
from backups.states import BackupStatus
from common.errors import NotAllowedError
from definitions.models import Definition
from tenants.audit import record
from tenants.lifecycle import begin_deletion, deletions_due, end_deletion, leave_tombstone, note, refuse_unnamed
from tenants.models import Person, Tenant, TenantDeletion
from tenants.services import grant_tenant_administration
from vaults.models import CatalogueKey, Domain, ObjectUse, Removal, StoredObject, TenantKey, Vault, VaultDeletion

logger = logging.getLogger(__name__)

BACKUPS_AT_ONCE = 500


# --- asking for it, and the way back ----------------------------------------------------------------------------------


@transaction.atomic
def request_tenant_deletion(
    *, tenant: Tenant, confirmation: str, reason: str, actor: Person, now: datetime
) -> TenantDeletion:
    """Begin. Nothing is lost before `undo_until` but the rights of the tenant's people, and `undo` gives them back.

    Raises NotAllowedError unless the actor is a SuperAdmin, InvalidInputError without the tenant's name.
    """
    _refuse_others(actor)
    refuse_unnamed(tenant, confirmation)
    held = ServerUserPermission.objects.filter(content_object__tenant=tenant)
    grants = [(str(person), str(server)) for person, server in held.values_list("user_id", "content_object_id")]
    deletion = begin_deletion(
        tenant=tenant, confirmation=confirmation, reason=reason, server_grants=grants, actor=actor, now=now
    )
    held.delete()
    return deletion


@transaction.atomic
def undo_tenant_deletion(*, tenant: Tenant, actor: Person, now: datetime) -> None:
    """The tenant is suspended then, with the rights that its people had. Raises ConflictError after the delay."""
    _refuse_others(actor)
    grants = end_deletion(tenant=tenant, actor=actor, now=now)
    people = Person.objects.in_bulk([grant["person"] for grant in grants])
    servers = {str(server.pk): server for server in Server.objects.filter(tenant=tenant)}
    by_key = {str(key): person for key, person in people.items()}
    for grant in grants:
        person, server = by_key.get(str(grant["person"])), grant["server"]
        if person is not None and server is None:
            grant_tenant_administration(person=person, tenant=tenant, actor=actor)
        elif person is not None and server in servers:
            grant_server_ownership(person=person, server=servers[server], actor=actor)


def _refuse_others(actor: Person) -> None:
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin deletes tenants.")


# --- step by step -----------------------------------------------------------------------------------------------------


def advance_deletions(*, now: datetime) -> int:
    """One step for every tenant whose delay is over. Returns how many were finished. May run at any time, and twice."""
    return sum(_advance(deletion, now=now) for deletion in deletions_due(now))


def _advance(deletion: TenantDeletion, *, now: datetime) -> bool:
    tenant = deletion.tenant
    _stop_work(tenant, now=now)
    removed = take_out_unlocked(Backup.objects.filter(tenant=tenant), now=now)
    if removed:
        note(tenant, code="delete.step", message=f"{removed} backups left the catalogue.", now=now)
    if not remains_of(tenant).is_nothing:
        return False
    with transaction.atomic():
        Tenant.objects.select_for_update().get(pk=tenant.pk)
        # Looked at again, now that nothing can be added.
        if not remains_of(tenant).is_nothing:
            return False
        _remove_rows(tenant)
        leave_tombstone(deletion=deletion, now=now)
    logger.info("tenant deleted", extra={"tenant": tenant.name})
    return True


def _stop_work(tenant: Tenant, *, now: datetime) -> None:
    for job in Job.objects.active().filter(tenant=tenant):
        cancel_for_deletion(job=job, now=now)
    Definition.objects.filter(tenant=tenant).delete()


def take_out_unlocked(backups: QuerySet[Backup], *, now: datetime) -> int:
    """Of the backups those whose promise is over leave the catalogue the way they leave it by retention; how many."""
    over = Q(immutable_until=None) | Q(immutable_until__lte=now)
    statuses = [BackupStatus.OK, BackupStatus.LOST]
    chosen = backups.filter(over, removed_at=None, status__in=statuses).order_by("pk")
    removed = 0
    while part := list(chosen.values_list("pk", flat=True)[:BACKUPS_AT_ONCE]):
        taken = take_out(part, statuses=statuses, now=now)
        removed += len(taken)
        if not taken:
            break
    return removed


def _remove_rows(tenant: Tenant) -> None:
    """Everything of the tenant but its row and its audit; the keys too, so that no copy of the bytes opens again."""
    domains = Domain.objects.filter(tenant=tenant)
    objects = StoredObject.objects.filter(domain__in=domains)
    keys = [*TenantKey.objects.filter(tenant=tenant).values_list("pk", flat=True)]
    Job.objects.filter(tenant=tenant).delete()
    Job.objects.filter(disk__server__tenant=tenant).delete()
    # Also what is left of removed backups that moved away: the last rows that name this tenant's vaults.
    gone = Q(vault__tenant=tenant, removed_at__isnull=False)
    Backup.objects.filter(gone | Q(tenant=tenant)).delete()
    Domain.objects.filter(held_for=tenant).update(held_for=None)
    Removal.objects.filter(stored_object__in=objects).delete()
    ObjectUse.objects.filter(Q(manifest__in=objects) | Q(needed__in=objects)).delete()
    objects.delete()
    Disk.objects.filter(server__tenant=tenant).delete()
    Server.objects.filter(tenant=tenant).delete()
    domains.delete()
    Vault.objects.filter(tenant=tenant).delete()
    VaultDeletion.objects.filter(tenant=tenant).delete()
    TenantKey.objects.filter(tenant=tenant).delete()
    CatalogueKey.objects.filter(tenant=tenant).delete()
    # Nobody counts it any more.
    TenantFigures.objects.filter(tenant=tenant).delete()
    tenant.nodes.clear()
    tenant.storages.clear()
    record(action="tenant.keys_destroyed", subject=tenant, after={"keys": keys})
