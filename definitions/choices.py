"""What can be chosen for a definition of a disk, and of what cannot be chosen, why not."""

from __future__ import annotations

from dataclasses import dataclass

from agents.models import Disk, Node, Storage
from common.errors import InvalidInputError
from definitions.models import Definition
from tenants.models import Person

_ONLY_VAULT = "Backups go into the tenant's vault; no driver writes to a storage of a node yet."
_NO_FREEZE = "The driver of this disk reads it from outside and cannot freeze its file systems."


@dataclass(frozen=True, slots=True)
class Choice:
    """`why_not` is empty for what can be chosen."""

    value: str
    label: str
    why_not: str = ""


def choices_for(disk: Disk, *, person: Person) -> dict[str, list[Choice]]:
    """By field, all that the person may know of; what he cannot choose comes with the reason."""
    nodes = Node.objects.for_user(person).order_by("name")
    storages = Storage.objects.for_user(person).select_related("node").order_by("node__name", "name")
    return {
        "type": [Choice(one.value, one.label, _why_not_type(one)) for one in Definition.Type],
        "backup_node": [Choice(str(node.pk), node.name, _why_not_node(node, disk)) for node in nodes],
        "storage": [Choice(str(storage.pk), str(storage), _ONLY_VAULT) for storage in storages],
        "compression": [Choice(one.value, one.label, _why_not_compression(one)) for one in Definition.Compression],
        "freeze_filesystem": [Choice("false", "no"), Choice("true", "yes", _NO_FREEZE)],
    }


def check_choices(definition: Definition) -> None:
    """Raises InvalidInputError, with the reason, for what cannot be chosen."""
    refused = {
        "type": _why_not_type(definition.type),
        "backup_node": _ONLY_VAULT if definition.backup_node_id else "",
        "storage": _ONLY_VAULT if definition.storage_id else "",
        "compression": _why_not_compression(definition.compression),
        "freeze_filesystem": _NO_FREEZE if definition.freeze_filesystem else "",
    }
    for field, reason in refused.items():
        if reason:
            raise InvalidInputError(reason, code="cannot_be_chosen", field=field)


def _why_not_type(value: str) -> str:
    return "" if value == Definition.Type.VAULT else _ONLY_VAULT


def _why_not_node(node: Node, disk: Disk) -> str:
    if not node.is_backup:
        return "It is not a backup node."
    if node.status != Node.Status.ONLINE:
        return f"It is {node.get_status_display()}."
    if not node.tenants.filter(pk=disk.tenant_id).exists():
        return "It is not attached to the tenant."
    if node.pk == disk.server.node_id:
        return "The disk lies on it: a backup there is lost together with the disk."
    return _ONLY_VAULT


def _why_not_compression(value: str) -> str:
    if value == Definition.Compression.OFF:
        return ""
    return "Only File backups are compressed as a stream; Vault backups compress each block by themselves."
