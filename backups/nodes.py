"""Nodes and storages as a SuperAdmin keeps them: registered, drained for maintenance, changed, removed.

What still needs a node or storage keeps it: the error says what. A node of which backups are signed is not forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from agents.models import Disk, Node, Server, Storage
from agents.services import SILENT_AFTER
from backups.models import Backup, Job
from backups.queue import hint_nodes
from backups.states import JobState
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from definitions.models import Definition
from tenants.audit import fields_of, record, record_change
from tenants.models import Person, Tenant
from vaults.models import Region

EDITABLE = ("is_backup",)
_SHOWN = 5


@transaction.atomic
def register_node(*, name: str, region_code: str, actor: Person, is_backup: bool = True) -> Node:
    """A node that is offline until its worker reports itself under this name. ConflictError when the name is taken."""
    _refuse_others(actor)
    if not Region.objects.filter(pk=region_code).exists():
        raise InvalidInputError(f"There is no region {region_code}.", field="region")
    if Node.objects.filter(name=name).exists():
        raise ConflictError(f"There is a node {name} already. Choose another name.", code="name_taken", field="name")
    node = Node(name=name, region_id=region_code, is_backup=is_backup)
    _clean(node)
    node.save(force_insert=True)
    record(action="node.create", subject=node, actor=actor, after=fields_of(node, ["name", "region", "is_backup"]))
    return node


@transaction.atomic
def change_node(*, node: Node, changes: Mapping[str, Any], actor: Person) -> Node:
    """Change fields of EDITABLE. ConflictError while definitions send copies to a node that is to hold none."""
    _refuse_others(actor)
    before = fields_of(node, EDITABLE)
    for field, value in changes.items():
        setattr(node, field, value)
    if not node.is_backup:
        _refuse_needed("copies are sent to it by", Definition.objects.filter(backup_node=node))
    node.save(update_fields=[*changes, "changed_at"])
    record_change(action="node.edit", subject=node, actor=actor, before=before)
    return node


@transaction.atomic
def drain_node(*, node: Node, actor: Person) -> Node:
    """Into maintenance: what runs goes on to its end, nothing begins. May be called twice."""
    _refuse_others(actor)
    if Node.objects.filter(pk=node.pk).exclude(status=Node.Status.MAINTENANCE).update(status=Node.Status.MAINTENANCE):
        record(action="node.drain", subject=node, actor=actor, after={"running": running_on(node)})
    node.refresh_from_db(fields=["status"])
    return node


@transaction.atomic
def resume_node(*, node: Node, now: datetime, actor: Person) -> Node:
    """Out of maintenance; what waited begins. May be called twice."""
    _refuse_others(actor)
    node.refresh_from_db()
    heard = node.last_seen_at is not None and node.last_seen_at > now - SILENT_AFTER
    status = Node.Status.ONLINE if heard else Node.Status.OFFLINE
    if Node.objects.filter(pk=node.pk, status=Node.Status.MAINTENANCE).update(status=status):
        record(action="node.resume", subject=node, actor=actor)
        waiting = Job.objects.filter(node=node, state=JobState.PENDING).count()
        transaction.on_commit(lambda: hint_nodes({node.pk: waiting}))
    node.refresh_from_db(fields=["status"])
    return node


def running_on(node: Node) -> int:
    """Jobs that a node in maintenance still works on: it is drained when there are none."""
    return Job.objects.filter(node=node, state=JobState.RUNNING).count()


@transaction.atomic
def remove_node(*, node: Node, actor: Person) -> None:
    """Forget the node. ConflictError while anything needs it: what it wrote is checked with its key."""
    _refuse_others(actor)
    _refuse_needed("it holds storages:", Storage.objects.filter(node=node))
    _refuse_needed("servers stand on it:", Server.objects.filter(node=node))
    _refuse_needed("copies are sent to it by", Definition.objects.filter(backup_node=node))
    _refuse_needed("it made backups:", Backup.objects.filter(node=node))
    _refuse_needed("its jobs are on record:", Job.objects.filter(node=node))
    record(action="node.delete", subject=node, actor=actor, before=fields_of(node, ["name", "region", "is_backup"]))
    node.writer_keys.all().delete()
    node.delete()


@transaction.atomic
def add_storage(*, node: Node, name: str, path: str, actor: Person) -> Storage:
    """A place on the node: the absolute path of a directory, or the name of a pool or dataset."""
    _refuse_others(actor)
    path = path.rstrip("/") or path
    if not path or path == "/" or "\0" in path or {".", ".."} & set(path.split("/")):
        message = "Give the absolute path of a directory, without '..', or the name of a pool; not the root."
        raise InvalidInputError(message, code="bad_path", field="path")
    if Storage.objects.filter(node=node, name=name).exists():
        raise ConflictError(f"{node.name} has a storage {name} already.", code="name_taken", field="name")
    if Storage.objects.filter(node=node, path=path).exists():
        raise ConflictError(f"{node.name} has a storage at {path} already.", code="path_taken", field="path")
    storage = Storage(node=node, name=name, path=path)
    _clean(storage)
    storage.save(force_insert=True)
    record(action="storage.create", subject=storage, actor=actor, after=fields_of(storage, ["node", "name", "path"]))
    return storage


@transaction.atomic
def set_for_drills(*, storage: Storage, for_drills: bool, actor: Person) -> Storage:
    """Set the storage aside for restore drills, or not any more. May be called twice. ConflictError for a pool."""
    _refuse_others(actor)
    if for_drills and not storage.path.startswith("/"):
        raise ConflictError("Drills restore to files: choose a storage that is a directory.", code="not_a_directory")
    before = {"for_drills": storage.for_drills}
    storage.for_drills = for_drills
    storage.save(update_fields=["for_drills", "changed_at"])
    record_change(action="storage.drills", subject=storage, actor=actor, before=before)
    return storage


@transaction.atomic
def remove_storage(*, storage: Storage, actor: Person) -> None:
    """Forget the storage; nothing on it is touched. ConflictError while anything lies there."""
    _refuse_others(actor)
    _refuse_needed("disks lie on it:", Disk.objects.filter(storage=storage).select_related("server"))
    _refuse_needed("copies are sent to it by", Definition.objects.filter(storage=storage))
    _refuse_needed("copies lie on it:", Backup.objects.filter(storage=storage, erased_at=None))
    _refuse_needed("erased copies of it are on record:", Backup.objects.filter(storage=storage))
    before = fields_of(storage, ["node", "name", "path"])
    record(action="storage.delete", subject=storage, actor=actor, before=before)
    storage.delete()


def refuse_detaching(place: Node | Storage, *, tenant: Tenant) -> None:
    """ConflictError while copies of the tenant lie there: nobody could restore or remove them any more."""
    where = {"storage__node": place} if isinstance(place, Node) else {"storage": place}
    copies = Backup.objects.filter(tenant=tenant, erased_at=None, storage__isnull=False, **where)
    _refuse_needed("copies of the tenant lie there:", copies)


def _refuse_others(actor: Person) -> None:
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin keeps nodes and storages.")


def _refuse_needed(why: str, found: Any) -> None:
    names = [str(one) for one in found.order_by("pk")[: _SHOWN + 1]]
    if names:
        more = " and more" if len(names) > _SHOWN else ""
        raise ConflictError(f"It is still needed: {why} {', '.join(names[:_SHOWN])}{more}.", code="still_needed")


def _clean(instance: Node | Storage) -> None:
    try:
        instance.full_clean()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInputError(" ".join(messages), field=None if field == "__all__" else field) from error
