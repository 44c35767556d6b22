"""Backup definitions: `/vm/define/backup`, `/vm/<vm>/define/backup[/<definition>]`."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import transaction
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agents.models import Disk, Storage
from backupsite.es_api import shapes
from backupsite.es_api.base import CREATED, EsView
from backupsite.es_api.finding import (
    DEFINITIONS,
    find_definition,
    find_disk,
    find_node,
    find_server,
    find_storage,
    within,
)
from backupsite.es_api.listing import listed, rows_of
from backupsite.es_api.parameters import CodeField, ListParameters, Parameters, ShowParameters, disk_number
from backupsite.es_api.reading import DEFINITION_COLUMNS
from common.errors import InvalidInputError, NotAllowedError
from definitions.models import Definition
from definitions.presets import RESERVED
from definitions.services import create_definition, delete_definition, update_definition
from tenants.access import get_for_user, may_create
from tenants.roles import Action

_LARGEST_BWLIMIT = 2**31 - 1
# Parameter -> field of the definition.
_FIELDS = {
    "schedule": "cron",
    "time_zone": "time_zone",
    "retention": "retention_count",
    "active": "active",
    "desc": "description",
    "compression": "compression",
    "fsfreeze": "freeze_filesystem",
}
# The pool that is meant where none is named.
_USUAL_POOL = "zones"


class ListOfVmParameters(ListParameters):
    disk_id = disk_number(required=False)


class ShowDefinitionParameters(ShowParameters):
    disk_id = disk_number(default=1)


class DefinitionParameters(Parameters):
    disk_id = disk_number(default=1)
    type = CodeField(shapes.TYPES, required=False, help_text="1 dataset, 2 file, 3 vault.")
    node = serializers.CharField(required=False, max_length=64, help_text="The backup node, for dataset and file.")
    zpool = serializers.CharField(required=False, max_length=64, help_text="Its storage.")
    schedule = serializers.CharField(required=False, max_length=100, help_text="Five columns of cron.")
    time_zone = serializers.CharField(required=False, max_length=64, help_text="Of the schedule; UTC if not said.")
    retention = serializers.IntegerField(required=False, min_value=0, max_value=65_536, help_text="0 keeps all.")
    active = serializers.BooleanField(required=False)
    compression = CodeField(shapes.COMPRESSIONS, required=False, help_text="0 off, 1 gzip, 2 bzip2, 4 zstd.")
    bwlimit = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=_LARGEST_BWLIMIT, help_text="Bytes per second; 0: none."
    )
    desc = serializers.CharField(required=False, allow_blank=True, max_length=128)
    fsfreeze = serializers.BooleanField(required=False)


class DeleteDefinitionParameters(Parameters):
    disk_id = disk_number(default=1)


class AllDefinitions(EsView):
    """Backup definitions of all servers that you see."""

    parameters = {"GET": ListParameters}

    def get(self, request: Request, **path: str) -> Response:
        seen = within(DEFINITIONS.for_user(self.person), self.dc)
        rows = rows_of(seen, self.given, columns=DEFINITION_COLUMNS, usual="hostname,-created")
        shape = partial(shapes.definitions, person=self.person, extended=self.given["extended"])
        return self.success(listed(rows, self.given, name="name", shape=shape))


class VmDefinitions(EsView):
    """Backup definitions of one server."""

    parameters = {"GET": ListOfVmParameters}

    def get(self, request: Request, vm: str, **path: str) -> Response:
        server = find_server(self.person, vm, self.dc)
        seen = DEFINITIONS.for_user(self.person).filter(disk__server=server)
        if "disk_id" in self.given:
            seen = seen.filter(disk=find_disk(server, self.given["disk_id"]))
        rows = rows_of(seen, self.given, columns=DEFINITION_COLUMNS, usual="-created")
        shape = partial(shapes.definitions, person=self.person, extended=self.given["extended"])
        return self.success(listed(rows, self.given, name="name", shape=shape))


class VmDefinition(EsView):
    """One backup definition of a server's disk."""

    parameters = {
        "GET": ShowDefinitionParameters,
        "POST": DefinitionParameters,
        "PUT": DefinitionParameters,
        "DELETE": DeleteDefinitionParameters,
    }
    role_actions = {"GET": Action.VIEW, "POST": Action.CREATE, "PUT": Action.EDIT, "DELETE": Action.DELETE}
    # As many definitions as there may be: not a matter of space, as it is for backups.
    statuses = {"quota_exceeded": 400}

    def get(self, request: Request, vm: str, definition: str, **path: str) -> Response:
        return self.success(self._shown(self._found(vm, definition), extended=self.given["extended"]))

    @transaction.atomic
    def post(self, request: Request, vm: str, definition: str, **path: str) -> Response:
        server = find_server(self.person, vm, self.dc)
        if not may_create(self.person, Definition):
            raise NotAllowedError("Your role does not create definitions.")
        disk = find_disk(server, self.given["disk_id"])
        _refuse_missing(definition, self.given)
        made = create_definition(
            disk=disk,
            name=definition,
            now=timezone.now(),
            actor=self.person,
            **self._place(disk),
            **_fields(self.given),
        )
        return self.success(self._shown(self._again(made)), status=CREATED)

    @transaction.atomic
    def put(self, request: Request, vm: str, definition: str, **path: str) -> Response:
        found = self._found(vm, definition)
        _refuse_moving(found, self.given)
        update_definition(definition=found, changes=_fields(self.given), now=timezone.now(), actor=self.person)
        return self.success(self._shown(self._again(found)))

    @transaction.atomic
    def delete(self, request: Request, vm: str, definition: str, **path: str) -> Response:
        """Its backups stay."""
        delete_definition(definition=self._found(vm, definition), actor=self.person, now=timezone.now())
        return self.success(None)

    def _found(self, vm: str, definition: str) -> Definition:
        server = find_server(self.person, vm, self.dc)
        number = self.given["disk_id"]
        return find_definition(self.person, self.role_action, server=server, name=definition, number=number)

    def _again(self, definition: Definition) -> Definition:
        """As the caller may see it; refuses what left his reach."""
        return get_for_user(DEFINITIONS.all(), person=self.person, action=self.role_action, pk=definition.pk)

    def _shown(self, definition: Definition, *, extended: bool = False) -> dict[str, Any]:
        return shapes.definitions([definition], person=self.person, extended=extended)[0]

    def _place(self, disk: Disk) -> dict[str, Any]:
        """Type and storage. Without a word of either the backups go into the vault, which needs no word."""
        given = self.given
        kind = given.get("type")
        if kind is None:
            kind = Definition.Type.DATASET if {"node", "zpool"} & set(given) else Definition.Type.VAULT
        if kind == Definition.Type.VAULT and not {"node", "zpool"} & set(given):
            return {"type": kind}
        if "node" not in given:
            raise InvalidInputError("Say on which backup node the backups are to lie.", field="node")
        return {"type": kind, "storage": self._storage(disk, given["node"], given.get("zpool"))}

    def _storage(self, disk: Disk, node_name: str, name: str | None) -> Storage:
        node = find_node(self.person, node_name, self.dc)
        if name is not None:
            return find_storage(self.person, node, name)
        there = list(Storage.objects.for_user(self.person).filter(node=node, tenants=disk.tenant_id)[:50])
        chosen = [one for one in there if one.name == _USUAL_POOL] or there
        if len(chosen) != 1:
            names = ", ".join(sorted(one.name for one in there)) or "none that you see"
            raise InvalidInputError(f"Say which storage of {node.name}: {names}.", field="zpool")
        return chosen[0]


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    found = {field: given[name] for name, field in _FIELDS.items() if name in given}
    return {**found, "bandwidth_limit": given["bwlimit"] or None} if "bwlimit" in given else found


def _refuse_missing(name: str, given: dict[str, Any]) -> None:
    """The names that bring a schedule and a number bring both; other definitions say both."""
    if name in RESERVED:
        return
    missing = {field: ["This field is required."] for field in ("schedule", "retention") if field not in given}
    if missing:
        raise serializers.ValidationError(missing, code="required")


def _refuse_moving(found: Definition, given: dict[str, Any]) -> None:
    """Type and place stay for life: said as they are they do no harm, as scripts say all of them."""
    nodes = {found.backup_node.name, str(found.backup_node_id)} if found.backup_node else set()
    storages = {found.storage.name, str(found.storage_id)} if found.storage else set()
    for name, same in (("type", {found.type}), ("node", nodes), ("zpool", storages)):
        if name in given and given[name] not in same:
            raise InvalidInputError(
                "The place stays for life: its backups are there. Make another definition.",
                code="read_only",
                field=name,
            )
