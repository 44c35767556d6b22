"""Backups of a server: `/vm/<vm>/backup[/<name>]`. To create one its definition is named, for all else the backup."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import transaction
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agents.models import Disk
from backups.models import Backup
from backups.services import crosses_owners, remove_backups, request_backup, request_restore, set_note
from backupsite.es_api import shapes
from backupsite.es_api.base import EsView
from backupsite.es_api.errors import ExpectationError, PreconditionError
from backupsite.es_api.finding import (
    BACKUPS,
    backups_of,
    find_backup,
    find_definition,
    find_disk,
    find_server,
)
from backupsite.es_api.listing import listed, rows_of
from backupsite.es_api.parameters import (
    MOST_NAMES,
    ListParameters,
    NamesField,
    Parameters,
    ShowParameters,
    disk_number,
    target_disk_number,
)
from backupsite.es_api.reading import BACKUP_COLUMNS
from common.errors import InvalidInputError, NotFoundError
from tenants.access import get_for_user
from tenants.roles import Action
from tenants.sign_in.confirming import require_confirmed

_LONGEST_NOTE = 255


def _hostname() -> Any:
    return serializers.CharField(required=False, max_length=128, help_text="Look by the name that the server had.")


class ListBackupParameters(ListParameters):
    hostname = _hostname()
    disk_id = disk_number(required=False)
    define = serializers.CharField(required=False, max_length=16)


class DeleteBackupsParameters(Parameters):
    hostname = _hostname()
    disk_id = disk_number(default=1)
    bkpnames = NamesField(required=False, max_length=MOST_NAMES, help_text="The names, needed.")


class ShowBackupParameters(ShowParameters):
    hostname = _hostname()
    disk_id = disk_number(default=1)


class NewBackupParameters(Parameters):
    disk_id = disk_number(default=1)
    note = serializers.CharField(required=False, allow_blank=True, max_length=_LONGEST_NOTE)


class ChangeBackupParameters(Parameters):
    hostname = _hostname()
    disk_id = disk_number(default=1)
    note = serializers.CharField(required=False, allow_blank=True, max_length=_LONGEST_NOTE, help_text="Only this.")
    target_hostname_or_uuid = serializers.CharField(
        required=False,
        max_length=128,
        help_text="Restore: ALL DATA AND ALL SNAPSHOTS on the target disk are destroyed.",
    )
    target_disk_id = target_disk_number()
    force = serializers.BooleanField(default=True, help_text="false: not where snapshots would be lost.")


class DeleteBackupParameters(Parameters):
    hostname = _hostname()
    disk_id = disk_number(default=1)


class VmBackups(EsView):
    """Backups of one server, also of one that is gone, by the name that it had."""

    parameters = {"GET": ListBackupParameters, "DELETE": DeleteBackupsParameters}
    role_actions = {"GET": Action.VIEW, "DELETE": Action.DELETE}

    def get(self, request: Request, vm: str, **path: str) -> Response:
        seen = backups_of(self.person, name=vm, hostname=self.given.get("hostname"), dc=self.dc)
        names = {"disk_id": "disk_number", "define": "definition__name"}
        chosen = {names[name]: self.given[name] for name in names if name in self.given}
        rows = rows_of(seen.filter(**chosen), self.given, columns=BACKUP_COLUMNS, usual="-created")
        shape = partial(shapes.backups, person=self.person, extended=self.given["extended"])
        return self.success(listed(rows, self.given, name="name", shape=shape))

    @transaction.atomic
    def delete(self, request: Request, vm: str, **path: str) -> Response:
        """All or none. What is locked stays in its vault until the lock ends."""
        seen = backups_of(self.person, name=vm, hostname=self.given.get("hostname"), dc=self.dc)
        if not self.given.get("bkpnames"):
            raise PreconditionError("Name the backups.", field="bkpnames")
        chosen = seen.filter(name__in=self.given["bkpnames"], disk_number=self.given["disk_id"])
        found = [self._for_deletion(key) for key in chosen.values_list("pk", flat=True)]
        if not found:
            raise NotFoundError("There are no such backups.")
        return self.success(_removed(remove_backups(backups=found, actor=self.person, now=timezone.now())))

    def _for_deletion(self, key: Any) -> Backup:
        return get_for_user(BACKUPS.all(), person=self.person, action=Action.DELETE, pk=key)


class VmBackup(EsView):
    """One backup. POST names a definition and makes a backup; PUT writes a note, or restores."""

    parameters = {
        "GET": ShowBackupParameters,
        "POST": NewBackupParameters,
        "PUT": ChangeBackupParameters,
        "DELETE": DeleteBackupParameters,
    }
    role_actions = {"GET": Action.VIEW, "POST": Action.RUN, "PUT": Action.RESTORE, "DELETE": Action.DELETE}

    @property
    def role_action(self) -> Action:
        given = getattr(self, "given", None) or {}
        return Action.EDIT if self.request.method == "PUT" and "note" in given else super().role_action

    def get(self, request: Request, vm: str, name: str, **path: str) -> Response:
        extended = self.given["extended"]
        [shown] = shapes.backups([self._found(vm, name)], person=self.person, extended=extended)
        return self.success(shown)

    @transaction.atomic
    def post(self, request: Request, vm: str, name: str, **path: str) -> HttpResponseBase:
        server = find_server(self.person, vm, self.dc)
        number = self.given["disk_id"]
        definition = find_definition(self.person, Action.RUN, server=server, name=name, number=number)
        job = request_backup(definition=definition, actor=self.person, now=timezone.now())
        if self.given.get("note"):
            made = get_for_user(BACKUPS.all(), person=self.person, action=Action.EDIT, pk=job.backup_id)
            set_note(backup=made, note=self.given["note"])
        return self.pending(job)

    @transaction.atomic
    def put(self, request: Request, vm: str, name: str, **path: str) -> HttpResponseBase:
        wanted = {"target_hostname_or_uuid", "target_disk_id"} & set(self.given)
        if "note" not in self.given:
            return self._restore(self._found(vm, name))
        if wanted:
            raise InvalidInputError("Write the note, or restore: not both at once.", field="note")
        backup = set_note(backup=self._found(vm, name), note=self.given["note"])
        return self.success(shapes.backups([backup], person=self.person, extended=False)[0])

    @transaction.atomic
    def delete(self, request: Request, vm: str, name: str, **path: str) -> Response:
        """What is locked stays in its vault until the lock ends."""
        return self.success(
            _removed(remove_backups(backups=[self._found(vm, name)], actor=self.person, now=timezone.now()))
        )

    def _found(self, vm: str, name: str) -> Backup:
        rows = backups_of(self.person, name=vm, hostname=self.given.get("hostname"), dc=self.dc)
        return find_backup(self.person, self.role_action, rows, name=name, number=self.given["disk_id"])

    def _restore(self, backup: Backup) -> HttpResponseBase:
        target = self._target()
        if crosses_owners(backup=backup, target=target):
            require_confirmed(self.request)
        # In this grammar the target has no default: to write its name is to confirm it.
        job = request_restore(
            backup=backup, target=target, confirmation=target.server.name, actor=self.person, now=timezone.now()
        )
        return self.pending(job)

    def _target(self) -> Disk:
        missing = [name for name in ("target_hostname_or_uuid", "target_disk_id") if name not in self.given]
        if missing:
            raise serializers.ValidationError(
                {name: ["Needed to restore; to write a note, say -note."] for name in missing}, code="required"
            )
        server = find_server(self.person, self.given["target_hostname_or_uuid"], self.dc)
        disk = find_disk_of_target(server, self.given["target_disk_id"])
        found: Disk = get_for_user(
            Disk.objects.select_related("server__node"), person=self.person, action=Action.RESTORE, pk=disk.pk
        )
        if not self.given["force"]:
            raise ExpectationError(
                f"A restore destroys all data and all snapshots on {found}; none of them can be kept. Say -force true."
            )
        return found


def find_disk_of_target(server: Any, number: int) -> Disk:
    try:
        return find_disk(server, number)
    except PreconditionError as error:
        error.field = "target_disk_id"
        raise


def _removed(backups: list[Backup]) -> dict[str, Any]:
    names = [backup.name for backup in backups]
    return {
        "message": f"{len(names)} taken out of the catalogue; locked data stays until its lock ends.",
        "bkpnames": names,
    }
