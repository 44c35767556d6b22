"""Servers (`/vm`), virtual data centers (`/dc`), nodes and their storages."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Q
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agents.models import Server, Storage
from backups.copies.importing import request_comparison
from backups.models import StrayCopy
from backupsite.es_api import shapes
from backupsite.es_api.base import EsView
from backupsite.es_api.finding import (
    BACKUPS,
    DEFINITIONS,
    dcs_of,
    find_dc,
    find_node,
    find_server,
    find_storage,
    nodes_of,
    within,
)
from backupsite.es_api.listing import listed, rows_of
from backupsite.es_api.parameters import ListParameters, Parameters, ShowParameters, disk_number
from common.errors import NotAllowedError
from definitions.models import Definition
from tenants.access import may_create
from tenants.roles import Action

DEFINITION_COLUMNS = {
    "name": "name",
    "disk_id": "disk__number",
    "hostname": "disk__server__name",
    "created": "created_at",
}
BACKUP_COLUMNS = {
    "name": "name",
    "disk_id": "disk_number",
    "hostname": "server_name",
    "size": "stored_bytes",
    "time": "duration_seconds",
    "created": "created_at",
}


class VmList(EsView):
    """Servers."""

    parameters = {"GET": ListParameters}

    def get(self, request: Request, **path: str) -> Response:
        seen = within(Server.objects.for_user(self.person), self.dc).select_related("tenant", "node")
        columns = {"hostname": "name", "created": "created_at"}
        rows = rows_of(seen, self.given, columns=columns, usual="hostname")
        shape = partial(shapes.servers, person=self.person, extended=self.given["extended"])
        return self.success(listed(rows, self.given, name="name", shape=shape))


class Vm(EsView):
    """One server, by its name or uuid."""

    parameters = {"GET": ShowParameters}

    def get(self, request: Request, vm: str, **path: str) -> Response:
        server = find_server(self.person, vm, self.dc)
        [shown] = shapes.servers([server], person=self.person, extended=self.given["extended"])
        return self.success(shown)


class DcList(EsView):
    """Virtual data centers: the tenants."""

    parameters = {"GET": ListParameters}

    def get(self, request: Request) -> Response:
        columns = {"name": "name", "created": "created_at"}
        seen = dcs_of(self.person) if self.dc is None else dcs_of(self.person).filter(pk=self.dc.pk)
        rows = rows_of(seen, self.given, columns=columns, usual="name")
        shape = partial(shapes.dcs, person=self.person, extended=self.given["extended"])
        return self.success(listed(rows, self.given, name="name", shape=shape))


class DcParameters(ShowParameters):
    # The address says it.
    dc = None


class Dc(EsView):
    """One virtual data center, by its name, title or uuid."""

    parameters = {"GET": DcParameters}

    def get(self, request: Request, name: str) -> Response:
        dc = find_dc(self.person, name)
        [shown] = shapes.dcs([dc], person=self.person, extended=self.given["extended"])
        return self.success(shown)


class NodeList(EsView):
    """Nodes."""

    parameters = {"GET": ListParameters}

    def get(self, request: Request) -> Response:
        columns = {"hostname": "name", "created": "created_at"}
        rows = rows_of(nodes_of(self.person, self.dc), self.given, columns=columns, usual="hostname")
        shape = partial(shapes.nodes, person=self.person, extended=self.given["extended"])
        return self.success(listed(rows, self.given, name="name", shape=shape))


class NodeShown(EsView):
    """One node."""

    parameters = {"GET": ShowParameters}

    def get(self, request: Request, node: str) -> Response:
        found = find_node(self.person, node, self.dc)
        [shown] = shapes.nodes([found], person=self.person, extended=self.given["extended"])
        return self.success(shown)


class NodeDefinitions(EsView):
    """Definitions whose backups the node makes or keeps: its load."""

    parameters = {"GET": ListParameters}

    def get(self, request: Request, node: str) -> Response:
        found = find_node(self.person, node, self.dc)
        # Each by its own index: with an OR over two tables the database reads all definitions.
        kept, made = Q(backup_node=found), Q(backup_node=None, disk__server__node=found)
        its, others = (Definition.objects.filter(way).order_by().values("pk") for way in (kept, made))
        seen = within(DEFINITIONS.for_user(self.person), self.dc).filter(pk__in=its.union(others, all=True))
        rows = rows_of(seen, self.given, columns=DEFINITION_COLUMNS, usual="hostname,-created")
        shape = partial(shapes.definitions, person=self.person, extended=self.given["extended"])
        return self.success(listed(rows, self.given, name="name", shape=shape))


class NodeBackupParameters(ListParameters):
    disk_id = disk_number(required=False)
    vm = serializers.CharField(
        required=False, allow_blank=True, max_length=128, help_text="Its name then; empty: of servers that are gone."
    )
    define = serializers.CharField(required=False, max_length=16)


class NodeBackups(EsView):
    """Backups that the node made or keeps."""

    parameters = {"GET": NodeBackupParameters}

    def get(self, request: Request, node: str) -> Response:
        found = find_node(self.person, node, self.dc)
        seen = within(BACKUPS.in_catalogue().for_user(self.person), self.dc).filter(node=found)
        rows = rows_of(seen.filter(**self._filters()), self.given, columns=BACKUP_COLUMNS, usual="-created")
        shape = partial(shapes.backups, person=self.person, extended=self.given["extended"], with_dc=True)
        return self.success(listed(rows, self.given, name="name", shape=shape))

    def _filters(self) -> dict[str, Any]:
        names = {"disk_id": "disk_number", "define": "definition__name", "vm": "server_name"}
        chosen = {names[name]: self.given[name] for name in names if name in self.given}
        if chosen.get("server_name") == "":
            del chosen["server_name"]
            chosen["server"] = None
        return chosen


class StorageList(EsView):
    """Storages of a node."""

    parameters = {"GET": ListParameters}

    def get(self, request: Request, node: str) -> Response:
        found = find_node(self.person, node, self.dc)
        seen = Storage.objects.for_user(self.person).select_related("node").filter(node=found)
        rows = rows_of(seen, self.given, columns={"zpool": "name", "created": "created_at"}, usual="zpool")
        shape = partial(shapes.storages, person=self.person, extended=self.given["extended"])
        return self.success(listed(rows, self.given, name="name", shape=shape))


class StorageShown(EsView):
    """One storage of a node."""

    parameters = {"GET": ShowParameters}

    def get(self, request: Request, node: str, zpool: str) -> Response:
        found = find_storage(self.person, find_node(self.person, node, self.dc), zpool)
        [shown] = shapes.storages([found], person=self.person, extended=self.given["extended"])
        return self.success(shown)


class StorageComparison(EsView):
    """Have the node compare its storage with the catalogue now: lost backups, found ones, copies that nobody knows."""

    parameters = {"PUT": Parameters}
    role_actions = {"PUT": Action.CREATE}

    @transaction.atomic
    def put(self, request: Request, node: str, zpool: str) -> Response:
        found = find_storage(self.person, find_node(self.person, node, self.dc), zpool)
        if not may_create(self.person, StrayCopy):
            raise NotAllowedError("Only a SuperAdmin has a storage compared.")
        request_comparison(storage=found, actor=self.person)
        return self.success({"message": f"{found} is being compared with the catalogue."})
