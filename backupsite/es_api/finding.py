"""Finding by name what the caller may see: a foreign name and one that nothing has are the same.

Names of servers are unique in their tenant only. One that several visible tenants use is refused with the way out.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import Exists, OuterRef, Q

from agents.models import Disk, Node, Server, Storage
from backups.models import Backup
from backupsite.es_api.errors import AmbiguousNameError, PreconditionError
from common.errors import NotFoundError
from definitions.models import Definition
from tenants.access import get_for_user
from tenants.models import Person, Tenant
from tenants.roles import Action

DEFINITIONS = Definition.objects.select_related(
    "disk__server__node", "tenant", "backup_node", "storage", "vault", "policy"
)
BACKUPS = Backup.objects.select_related("server", "definition", "node", "storage__node", "tenant", "manifest", "vault")


def dcs_of(person: Person) -> Any:
    """The tenants that the person administers, and those whose servers he owns."""
    owned = Exists(Server.objects.for_user(person).filter(tenant=OuterRef("pk")))
    return Tenant.objects.filter(Q(pk__in=Tenant.objects.for_user(person).values("pk")) | owned)


def find_dc(person: Person, name: str) -> Tenant:
    seen = dcs_of(person)
    found = list(seen.filter(_named(name))[:2]) or list(seen.filter(title__iexact=name)[:2])
    return _only(found, "virtual data center", "Give its name, which is unique: es get /dc -full.")


def within(queryset: Any, dc: Tenant | None) -> Any:
    """Rows with a column `tenant`, of the one virtual data center."""
    return queryset if dc is None else queryset.filter(tenant=dc)


def find_server(person: Person, name: str, dc: Tenant | None) -> Server:
    seen = within(Server.objects.for_user(person), dc).select_related("node", "tenant")
    return _only(list(seen.filter(_named(name))[:2]), "server", "Say which with -dc, or give its uuid.")


def find_disk(server: Server, number: int) -> Disk:
    disk = server.disks.select_related("server__tenant", "server__node").filter(number=number).first()
    if disk is None:
        raise PreconditionError(f"{server.name} has no disk {number}.", code="no_such_disk", field="disk_id")
    return disk


def find_definition(person: Person, action: Action, *, server: Server, name: str, number: int) -> Definition:
    find_disk(server, number)
    lookup = {"disk__server": server, "disk__number": number, "name": name}
    return get_for_user(DEFINITIONS.all(), person=person, action=action, **lookup)


def backups_of(person: Person, *, name: str, hostname: str | None, dc: Tenant | None) -> Any:
    """The backups of a server by its name or uuid; of one that is gone, by the name that it had.

    With `hostname` by that name in any case. Raises NotFoundError where the caller sees neither server nor backups.
    """
    seen = within(BACKUPS.in_catalogue().for_user(person), dc)
    if hostname is not None:
        return _some(seen.filter(server_name=hostname))
    try:
        return seen.filter(server=find_server(person, name, dc))
    except NotFoundError:
        return _some(seen.filter(server=None, server_name=name))


def find_backup(person: Person, action: Action, rows: Any, *, name: str, number: int) -> Backup:
    """One of the rows of `backups_of`, for the action."""
    found = list(rows.filter(name=name, disk_number=number)[:2])
    backup = _only(found, "backup", "Say whose it is with -dc.")
    return get_for_user(BACKUPS.all(), person=person, action=action, pk=backup.pk)


def nodes_of(person: Person, dc: Tenant | None) -> Any:
    """Nodes that the person sees; with a data center, those that are attached to it."""
    seen = Node.objects.for_user(person)
    return seen if dc is None else seen.filter(tenants=dc)


def find_node(person: Person, name: str, dc: Tenant | None) -> Node:
    return _only(list(nodes_of(person, dc).filter(_named(name))[:2]), "node", "Give its uuid.")


def find_storage(person: Person, node: Node, name: str) -> Storage:
    seen = Storage.objects.for_user(person).select_related("node").filter(node=node)
    return _only(list(seen.filter(_named(name))[:2]), "storage", "Give its uuid.")


def _named(name: str) -> Q:
    try:
        return Q(pk=UUID(name)) | Q(name=name)
    except ValueError:
        return Q(name=name)


def _only(found: list[Any], what: str, way_out: str) -> Any:
    if not found:
        raise NotFoundError(f"There is no such {what}.")
    if len(found) > 1:
        raise AmbiguousNameError(f"You see more than one {what} of this name. {way_out}")
    return found[0]


def _some(rows: Any) -> Any:
    if not rows.exists():
        raise NotFoundError("There is no such server, and no backup of one.")
    return rows
