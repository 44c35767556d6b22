"""Servers and disks as people name them in fields of the portal."""

from __future__ import annotations

from typing import Any

from django.db.models import Q

from agents.models import Disk, Node, Server
from tenants.choosing import Choices, split_text
from tenants.models import Person
from tenants.roles import Action

_NUMBERED = " disk "


def _servers(person: Person) -> Any:
    """Those whose owners the person names."""
    return Server.objects.for_user(person, Action.EDIT).select_related("tenant")


def _server_named(typed: str) -> list[Q]:
    parts = split_text(typed)
    whole = [Q(name=parts[0], tenant__name=parts[1])] if parts else []
    return [*whole, Q(name=typed)]


def _disks(person: Person) -> Any:
    return Disk.objects.for_user(person, Action.RESTORE).select_related("server", "tenant")


def _disk_named(typed: str) -> list[Q]:
    """`server disk 1 (tenant)`, the same without the tenant, or the server's name where it has one disk."""
    parts = split_text(typed)
    name, tenant = parts if parts else (typed, "")
    server, numbered, number = name.rpartition(_NUMBERED)
    found = []
    if numbered and number.isascii() and number.isdigit() and len(number) <= 4:
        exact = Q(server__name=server, number=int(number))
        found.append(exact & Q(tenant__name=tenant) if tenant else exact)
    return [*found, Q(server__name=typed)]


def _nodes(person: Person) -> Any:
    return Node.objects.for_user(person)


NODES = Choices(
    label="node",
    url_name="node-choices",
    offered=_nodes,
    searched=("name",),
    order=("name", "pk"),
    text=lambda node: str(node.name),
    named=lambda typed: [Q(name=typed)],
)
SERVERS = Choices(
    label="server",
    url_name="server-choices",
    offered=_servers,
    searched=("name",),
    order=("name", "pk"),
    text=lambda server: f"{server.name} ({server.tenant.name})",
    named=_server_named,
    is_order_indexed=True,
)
DISKS = Choices(
    label="disk",
    url_name="disk-choices",
    offered=_disks,
    searched=("server__name",),
    order=("server__name", "number", "pk"),
    text=lambda disk: f"{disk.server.name}{_NUMBERED}{disk.number} ({disk.tenant.name})",
    named=_disk_named,
)
