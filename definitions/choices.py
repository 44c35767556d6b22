"""What can be chosen for a definition of a disk, and of what cannot be chosen, why not."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from agents.drivers.registry import content_of
from agents.models import Disk, Node, Storage
from common.errors import InvalidInputError
from definitions.excludes import check_excludes
from definitions.models import Definition
from engine.manifest import CONTENT_DISK, CONTENT_TREE
from tenants.models import Person

_NO_FREEZE = "The driver of this disk reads it from outside and cannot freeze its file systems."
_NO_VAULT = "ZFS sends this disk as a stream of its own. Choose Dataset or File."
_NOT_A_DISK = "It holds files or a stream and no disk image: only a vault takes these. Choose Vault."
_NO_EXCLUDES = "Nothing can be left out of a disk or a stream, only of a tree of files."
_NO_DATASETS = "Only disks on ZFS are sent as datasets. Choose File or Vault."
# Drivers whose disks a backup node fetches from another node by itself.
_REACH_OTHER_NODES = frozenset({"zfs"})
# Drivers that reach no guest.
_CANNOT_FREEZE = frozenset({"image", "zfs", "btrfs", "lvm", "host"})
# Drivers that send incremental datasets.
_SEND_DATASETS = frozenset({"zfs"})


@dataclass(frozen=True, slots=True)
class Choice:
    """`why_not` is empty for what can be chosen."""

    value: str
    label: str
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class _Attached:
    """Ids of what is attached to the tenant of a disk."""

    nodes: frozenset[UUID]
    storages: frozenset[UUID]

    @classmethod
    def to(cls, disk: Disk) -> _Attached:
        tenant = disk.tenant
        nodes, storages = (rows.values_list("pk", flat=True) for rows in (tenant.nodes, tenant.storages))
        return cls(frozenset(nodes), frozenset(storages))


def choices_for(disk: Disk, *, person: Person) -> dict[str, list[Choice]]:
    """By field, all that the person may know of; what he cannot choose comes with the reason.

    Node, storage and compression are those of a File or Dataset backup; a Vault backup has none of them.
    """
    attached = _Attached.to(disk)
    nodes = Node.objects.for_user(person).order_by("name")
    storages = Storage.objects.for_user(person).select_related("node").order_by("node__name", "name")
    return {
        "type": [Choice(one.value, one.label, _why_not_type(one, disk)) for one in Definition.Type],
        "backup_node": [
            Choice(str(node.pk), node.name, _why_not_now(node, disk) or _why_not_node(node, disk, attached))
            for node in nodes
        ],
        "storage": [
            Choice(str(one.pk), _with_room(one), _why_not_here(one, disk) or _why_not_storage(one, disk, attached))
            for one in storages
        ],
        "compression": [Choice(one.value, one.label) for one in Definition.Compression],
        "freeze_filesystem": [Choice("false", "no"), Choice("true", "yes", why_not_freeze(disk))],
    }


def check_choices(definition: Definition) -> None:
    """Raises InvalidInputError, with the reason, for what cannot be chosen."""
    refused = {
        "type": _why_not_type(definition.type, definition.disk),
        **_why_not_place(definition),
        "compression": _why_not_compression(definition),
        "freeze_filesystem": why_not_freeze(definition.disk) if definition.freeze_filesystem else "",
        "excludes": _why_not_excludes(definition),
    }
    for field, reason in refused.items():
        if reason:
            raise InvalidInputError(reason, code="cannot_be_chosen", field=field)
    check_excludes(definition.excludes)


def _why_not_place(definition: Definition) -> dict[str, str]:
    node, storage, disk = definition.backup_node, definition.storage, definition.disk
    if definition.type == Definition.Type.VAULT:
        reason = "A Vault backup goes into the tenant's vault, to no storage. For a storage, choose the type File."
        return {"backup_node": reason if node else "", "storage": reason if storage else ""}
    if node is None or storage is None:
        return {"storage": "Say on which storage of a backup node the backups are to lie."}
    if storage.node_id != node.pk:
        return {"storage": f"{storage} does not lie on {node}."}
    if storage.path.startswith("/") == (definition.type == Definition.Type.DATASET):
        wanted = "a pool, or a dataset of one" if definition.type == Definition.Type.DATASET else "a directory"
        return {"storage": f"A {definition.get_type_display()} backup goes to {wanted}; {storage} is {storage.path}."}
    attached = _Attached.to(disk)
    return {
        "backup_node": _why_not_node(node, disk, attached),
        "storage": _why_not_storage(storage, disk, attached),
    }


def _why_not_type(value: str, disk: Disk) -> str:
    if value == Definition.Type.VAULT:
        return _NO_VAULT if disk.driver in _SEND_DATASETS else ""
    if content_of(disk.driver) != CONTENT_DISK:
        return _NOT_A_DISK
    return _NO_DATASETS if value == Definition.Type.DATASET and disk.driver not in _SEND_DATASETS else ""


def why_not_freeze(disk: Disk) -> str:
    """Empty where the driver reaches an agent in the guest, which freezes and thaws its file systems."""
    is_disk = content_of(disk.driver) == CONTENT_DISK
    return _NO_FREEZE if disk.driver in _CANNOT_FREEZE or not is_disk else ""


def _why_not_excludes(definition: Definition) -> str:
    return _NO_EXCLUDES if definition.excludes and content_of(definition.disk.driver) != CONTENT_TREE else ""


def _why_not_now(node: Node, disk: Disk) -> str:
    """What its worker said last. It may be another at the time of the backup, so nothing is refused for it."""
    if node.status != Node.Status.ONLINE:
        return f"It is {node.get_status_display()}."
    reason = node.drivers.get(disk.driver, "")
    return f"The driver {disk.driver} does not work there: {reason}" if reason else ""


def _why_not_here(storage: Storage, disk: Disk) -> str:
    return _why_not_now(storage.node, disk) or storage.problem


def _with_room(storage: Storage) -> str:
    if storage.free_bytes is None:
        return str(storage)
    return f"{storage}, {storage.free_bytes / 1024**3:.1f} GiB free{f' ({storage.kind})' if storage.kind else ''}"


def _why_not_node(node: Node, disk: Disk, attached: _Attached) -> str:
    if not node.is_backup:
        return f"{node} is not a backup node."
    if node.pk not in attached.nodes:
        return f"{node} is not attached to the tenant."
    if disk.server.node is None:
        return f"{disk.server} is backed up by its agent, straight into a vault. Choose the type Vault."
    if node.pk != disk.server.node_id and disk.driver not in _REACH_OTHER_NODES:
        return (
            f"The driver {disk.driver} reads the disk on {disk.server.node} only. Choose a storage of that node: it "
            "may be a share (NFS, Samba) of another machine that is mounted there."
        )
    return ""


def _why_not_storage(storage: Storage, disk: Disk, attached: _Attached) -> str:
    if reason := _why_not_node(storage.node, disk, attached):
        return reason
    if storage.pk not in attached.storages:
        return f"{storage} is not attached to the tenant."
    if storage.pk == disk.storage_id:
        return "The disk lies on it: a backup there is lost together with the disk."
    return ""


def _why_not_compression(definition: Definition) -> str:
    if definition.type == Definition.Type.FILE or definition.compression == Definition.Compression.OFF:
        return ""
    return "Only File backups are compressed as a stream; Vault backups compress each block by themselves."
