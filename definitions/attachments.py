"""The virtual data centre: which nodes and storages a tenant may use and know of. SuperAdmins say.

A storage is attached by itself, and only together with its node. What writers of a detached node wrote stays readable.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models import Q, QuerySet

from agents.models import Node, Server, Storage
from common.errors import ConflictError, NotAllowedError
from definitions.models import Definition
from tenants.audit import record
from tenants.models import Person, Tenant

_SHOWN = 5


@transaction.atomic
def attach_node(*, node: Node, tenant: Tenant, actor: Person) -> None:
    """The tenant's servers may stand on the node. Its storages are attached one by one. May be called twice."""
    _refuse_others(actor)
    if not node.tenants.filter(pk=tenant.pk).exists():
        node.tenants.add(tenant)
        record(action="node.attach", subject=node, actor=actor, tenant=tenant)


@transaction.atomic
def detach_node(*, node: Node, tenant: Tenant, actor: Person) -> None:
    """The opposite, for all of its storages too. May be called twice.

    Raises ConflictError while active definitions of the tenant work there, or servers of it stand there.
    """
    _refuse_others(actor)
    _refuse_used(Definition.objects.filter(tenant=tenant, disk__server__node=node), str(node.name))
    used = Q(disk__storage__node=node) | Q(backup_node=node)
    _refuse_used(Definition.objects.filter(used, tenant=tenant), str(node.name))
    if names := list(Server.objects.filter(tenant=tenant, node=node).order_by("name").values_list("name", flat=True)):
        raise ConflictError(f"Servers of the tenant stand on {node.name}: {_listed(names)}.", code="node_in_use")
    if node.tenants.filter(pk=tenant.pk).exists():
        for storage in Storage.objects.filter(node=node, tenants=tenant):
            storage.tenants.remove(tenant)
        node.tenants.remove(tenant)
        record(action="node.detach", subject=node, actor=actor, tenant=tenant)


@transaction.atomic
def attach_storage(*, storage: Storage, tenant: Tenant, actor: Person) -> None:
    """The tenant's disks may lie on the storage. May be called twice. Raises ConflictError without its node."""
    _refuse_others(actor)
    if not storage.node.tenants.filter(pk=tenant.pk).exists():
        raise ConflictError(f"Attach the node {storage.node.name} to the tenant first.", code="node_not_attached")
    if not storage.tenants.filter(pk=tenant.pk).exists():
        storage.tenants.add(tenant)
        record(action="storage.attach", subject=storage, actor=actor, tenant=tenant)


@transaction.atomic
def detach_storage(*, storage: Storage, tenant: Tenant, actor: Person) -> None:
    """The opposite. May be called twice. Raises ConflictError while active definitions of the tenant read from it."""
    _refuse_others(actor)
    used = Q(disk__storage=storage) | Q(storage=storage)
    _refuse_used(Definition.objects.filter(used, tenant=tenant), str(storage))
    if storage.tenants.filter(pk=tenant.pk).exists():
        storage.tenants.remove(tenant)
        record(action="storage.detach", subject=storage, actor=actor, tenant=tenant)


def _refuse_others(actor: Person) -> None:
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin attaches nodes and storages.")


def _refuse_used(definitions: QuerySet[Definition], place: str) -> None:
    active = definitions.filter(active=True).select_related("disk__server").order_by("name", "pk")
    if names := [str(definition) for definition in active[: _SHOWN + 1]]:
        raise ConflictError(
            f"Active definitions use {place}: {_listed(names)}. Switch them off first.", code="place_in_use"
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and more" if len(names) > _SHOWN else shown
